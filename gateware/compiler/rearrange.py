# SPDX-License-Identifier: Apache-2.0
"""Rearrangements of pixels by a way through memory, where a tensor takes another shape.

Memory order is y, x, word. So words of a pixel that are stored one after the other can come back as
pixels side by side, and pixels side by side as words of one; rows come back with a pitch. A load or
store takes one plane, so that codes of 8 bits keep their order.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Base, Opcode
from gateware.compiler.copies import copy_channels
from gateware.compiler.dependencies import Region
from gateware.compiler.layout import MAX_GROUPS, TensorLayout
from gateware.compiler.operations import CompileError, Gemm, Pool, Rearrange, TensorKey, operands
from gateware.compiler.program_image import ProgramImage


@dataclasses.dataclass(frozen=True)
class Window:
    """Pixels of a plane as one load or store moves them."""

    address: int
    height: int
    width: int
    _: dataclasses.KW_ONLY
    row_pitch: int
    groups: int = 1
    group_pitch: int = 0

    @property
    def beats(self) -> int:
        """Words that it moves."""
        return self.height * self.width * self.groups

    def fields(self) -> dict[str, int]:
        """Fields of a LOAD_TENSOR or STORE_TENSOR."""
        wrap = 1 << isa.ADDRESS_BITS
        return dataclasses.asdict(self) | {
            "beats": self.beats,
            "address": self.address % wrap,
            "group_pitch": self.group_pitch % wrap,
        }


Placed = tuple[int, Window]  #: and the word of the memory where it begins


@dataclasses.dataclass(frozen=True)
class Move:
    """Stores to ``words`` of memory, one after the other, and the loads that read them."""

    words: int
    stores: list[Placed]
    loads: list[Placed]

    @property
    def windows(self) -> list[Window]:
        """All that is moved."""
        return [window for _, window in self.stores + self.loads]


ALL = (True, True)  #: first and last rows are there


def moves(
    operation: Rearrange,
    source: TensorLayout,
    target: TensorLayout,
    ends: tuple[bool, bool] = ALL,
) -> Iterator[Move]:
    """Stores and loads of a rearrangement between two places, of whole tensors or of a band of
    them; ``ends`` say whether it has their first and last row."""
    rows, columns = operation.factor
    for plane in range(source.planes):
        begin = source.address + plane * source.plane_pitch
        end = target.address + plane * target.plane_pitch
        if operation.kind == "merge":
            words = columns * target.groups
            for dy in range(rows):
                at = begin + dy * words * source.group_pitch
                store = _window(source, at, source.width, words)
                loads = _every_row(target, end, dy, rows, source.width * columns)
                yield Move(store.beats, [(0, store)], loads)
        elif operation.kind == "repeat":
            for group in range(source.groups):
                yield _repeat(
                    operation,
                    source,
                    target,
                    begin + group * source.group_pitch,
                    end + group * target.group_pitch,
                    ends,
                )
        else:
            store = _window(source, begin, target.width * columns, source.groups)
            load = _window(target, end, target.width, target.groups)
            yield Move(store.beats, [(0, store)], [(0, load)])


def _repeat(
    operation: Rearrange,
    source: TensorLayout,
    target: TensorLayout,
    begin: int,
    end: int,
    ends: tuple[bool, bool],
) -> Move:
    """Pixels of a group several times, and those of the border oftener."""
    (rows, columns), (border, left) = operation.factor, operation.border
    above, under = (border if there else 0 for there in ends)
    whole = dataclasses.replace(_window(source, begin, source.width, columns), group_pitch=0)
    stores = [(0, whole)]
    if left:
        last = (source.width - 1) // source.banks * source.banks
        stores = []
        for y in range(source.height):
            at, row = (
                y * target.width,
                dataclasses.replace(whole, address=begin + y * source.row_pitch, height=1),
            )
            tail = dataclasses.replace(
                row,
                address=row.address + last // source.banks,
                width=source.width - last,
                groups=left,
            )  # what is too much of it is written again
            first = dataclasses.replace(row, width=1, groups=left)
            stores += [
                (at + target.width - tail.beats, tail),
                (at, first),
                (at + left, row),
            ]
    pitch = target.row_pitch
    loads = [
        (
            0,
            Window(end + (above + dy) * pitch, source.height, target.width, row_pitch=rows * pitch),
        )
        for dy in range(rows)
    ]
    below = (source.height - 1) * target.width
    border_rows = [(0, y) for y in range(above)]
    border_rows += [(below, target.height - 1 - y) for y in range(under)]
    for word, row in border_rows:
        loads.append((word, Window(end + row * pitch, 1, target.width, row_pitch=pitch)))
    return Move(source.height * target.width, stores, loads)


def _window(place: TensorLayout, address: int, width: int, groups: int) -> Window:
    return Window(
        address,
        place.height,
        width,
        groups=groups,
        group_pitch=place.group_pitch,
        row_pitch=place.row_pitch,
    )


def _every_row(
    place: TensorLayout, address: int, first: int, step: int, width: int
) -> list[Placed]:
    """Every ``step``-th row of a plane from row ``first`` on, of ``width`` pixels in memory."""
    pitch, height = place.row_pitch, len(range(first, place.height, step))
    load = Window(
        address + first * pitch,
        height,
        width,
        groups=place.groups,
        group_pitch=place.group_pitch,
        row_pitch=step * pitch,
    )
    if -(-width // place.banks) == pitch:
        return [(0, load)] if height else []
    return [
        (
            row * width * place.groups,
            dataclasses.replace(
                load, address=load.address + row * step * pitch, height=1, width=place.width
            ),
        )
        for row in range(height)
    ]


def check(operation: Rearrange, source: TensorLayout, target: TensorLayout) -> None:
    """Check of what fits the descriptor fields; raises CompileError otherwise."""
    most = max(source.height, source.width, target.height, target.width)
    if most >= 1 << isa.SIZE_BITS:
        raise CompileError(
            f"layer {operation.name!r} has a height or width of {most}, over "
            f"{(1 << isa.SIZE_BITS) - 1}"
        )
    for move in moves(operation, source, target):
        if max(window.groups for window in move.windows) > MAX_GROUPS:
            raise CompileError(
                f"layer {operation.name!r} moves more than {MAX_GROUPS} words per pixel"
            )
        if max(window.beats for window in move.windows) >= 1 << isa.BEATS_BITS:
            raise CompileError(
                f"layer {operation.name!r} moves {move.words} words at once, and a load or store "
                f"less than {1 << isa.BEATS_BITS}"
            )


def size(
    operation: Rearrange,
    source: TensorLayout,
    target: TensorLayout,
    ends: tuple[bool, bool] = ALL,
) -> int:
    """Number of bus words of memory that it takes."""
    return sum(move.words for move in moves(operation, source, target, ends))


def emit(
    image: ProgramImage,
    operation: Rearrange,
    source: TensorLayout,
    target: TensorLayout,
    offset: int,
    ends: tuple[bool, bool] = ALL,
) -> None:
    """Descriptors of a rearrangement by ``offset`` bytes from OUTPUT_BASE."""
    beat = image.config.bus_bits // 8
    for move in moves(operation, source, target, ends):
        for word, store in move.stores:
            image.add(
                "stores",
                isa.TENSOR,
                reads=[Region("act", source.address, source.words)],
                writes=[Region("memory", offset // beat + word, store.beats)],
                opcode=Opcode.STORE_TENSOR,
                base=Base.OUTPUT,
                offset=offset + word * beat,
                **store.fields(),
            )
        for word, load in move.loads:
            image.add(
                "loads",
                isa.TENSOR,
                reads=[Region("memory", offset // beat + word, load.beats)],
                writes=[Region("act", target.address, target.words)],
                opcode=Opcode.LOAD_TENSOR,
                base=Base.OUTPUT,
                offset=offset + word * beat,
                **load.fields(),
            )
        offset += move.words * beat


Forms = dict[TensorKey, TensorLayout]
Operations = list[Gemm | Pool | Rearrange]


def rearranged(
    operations: Operations, forms: Forms, kept: set[TensorKey], config: AccelConfig
) -> Operations:
    """Operations with what rearrangements need before them, and with those that strides need.

    Tensors that come between get a form in ``forms``. The tensors of ``kept`` keep their channels.
    """
    result: Operations = []
    for operation in operations:
        if isinstance(operation, Rearrange) and operation.kind == "merge":
            result += _aligned_phases(operation, operations, result, forms, kept, config)
        elif isinstance(operation, Gemm):
            result += _narrowed(operation, forms, config)
        else:
            result.append(operation)
    return result


def _aligned_phases(
    merge: Rearrange,
    operations: Operations,
    before: Operations,
    forms: Forms,
    kept: set[TensorKey],
    config: AccelConfig,
) -> Operations:
    """Channels of each phase begin with a word: the layer puts them there, or a copy does."""
    channels, phases = forms[merge.target].channels, merge.factor[0] * merge.factor[1]
    if not channels % config.k:
        return [merge]
    form = forms[merge.source]
    words = forms[merge.target].groups * config.k
    places = [phase * words + c for phase in range(phases) for c in range(channels)]
    makers = [i for i, o in enumerate(before) if o.target == merge.source]
    readers = sum(merge.source in operands(operation) for operation in operations)
    layers = [before[i] for i in makers]
    if readers == 1 and layers and merge.source not in kept and all(map(_places_rows, layers)):
        for index, layer in zip(makers, layers, strict=True):
            assert isinstance(layer, Gemm)
            before[index] = dataclasses.replace(layer, channels=tuple(places))
        forms[merge.source] = dataclasses.replace(form, channels=phases * words)
        return [merge]
    key = TensorKey(f"{merge.source.name} in phases of {merge.name}")
    forms[key] = dataclasses.replace(form, channels=phases * words)
    copy = copy_channels(
        merge.name,
        merge.source,
        key,
        shape=(form.channels, 1, 1),
        picks=range(form.channels),
        bits=form.bits,
        config=config,
    )
    return [
        dataclasses.replace(copy, channels=tuple(places)),
        dataclasses.replace(merge, source=key),
    ]


def _places_rows(layer: Gemm | Pool | Rearrange) -> bool:
    return isinstance(layer, Gemm) and layer.residual is None and layer.channels is None


def _narrowed(gemm: Gemm, forms: Forms, config: AccelConfig) -> Operations:
    """A layer whose horizontal stride the pixel lanes cannot take: of pixels side by side as
    channels of one."""
    source, stride = forms[gemm.source], gemm.stride[1]
    if stride <= config.max_stride or forms[gemm.target].width == 1:
        return [gemm]
    side = next(
        n for n in range(2, stride + 1) if stride % n == 0 and stride // n <= config.max_stride
    )
    before, name, key = [], gemm.source.name, gemm.source
    reached = (forms[gemm.target].width - 1) * stride + gemm.kernel[1] - gemm.padding[2]
    missing = -source.width % side
    if missing and min(reached, source.width) > source.width - source.width % side:
        key = TensorKey(f"{name} widened for {gemm.name}")
        copy = copy_channels(
            f"{gemm.name} widened",
            gemm.source,
            key,
            shape=(source.channels, 1, 1),
            picks=range(source.channels),
            bits=source.bits,
            config=config,
        )
        before.append(dataclasses.replace(copy, padding=(0, 0, 0, missing)))
        source = forms[key] = dataclasses.replace(source, width=source.width + missing)
    words = source.groups * config.k
    narrow = TensorKey(f"{name} narrowed for {gemm.name}")
    forms[narrow] = dataclasses.replace(source, channels=side * words, width=source.width // side)
    before.append(
        Rearrange(
            name=f"{gemm.name} narrowed", source=key, target=narrow, kind="split", factor=(1, side)
        )
    )
    top, bottom, left, right = gemm.padding
    lead = -left % side
    taps = -(-(gemm.kernel[1] + lead) // side)
    rows = len(gemm.values)
    values = np.zeros((rows, side, words, gemm.kernel[0], taps), np.int64)
    dense = _dense(gemm)
    for x in range(gemm.kernel[1]):
        tap, dx = divmod(x + lead, side)
        values[:, dx, : dense.shape[1], :, tap] = dense[:, :, :, x]
    return [
        *before,
        dataclasses.replace(
            gemm,
            source=narrow,
            values=values.reshape(rows, side * words, gemm.kernel[0], taps),
            stride=(gemm.stride[0], stride // side),
            padding=(top, bottom, (left + lead) // side, -(-right // side)),
            groups=1,
        ),
    ]


def _dense(gemm: Gemm) -> np.ndarray:
    """Values for all channels, zeros where a group does not read one."""
    rows, channels = gemm.values.shape[:2]
    values = np.zeros((rows, gemm.groups * channels, *gemm.kernel), np.int64)
    per_group = rows // gemm.groups
    for group in range(gemm.groups):
        mine = slice(group * per_group, (group + 1) * per_group)
        values[mine, group * channels : (group + 1) * channels] = gemm.values[mine]
    return values
