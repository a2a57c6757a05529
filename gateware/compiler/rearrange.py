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
    groups: int
    group_pitch: int
    row_pitch: int

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


#: A store, and the loads that each bring all of it back.
Move = tuple[Window, list[Window]]


def moves(operation: Rearrange, source: TensorLayout, target: TensorLayout) -> Iterator[Move]:
    """Stores and loads of a rearrangement between two places."""
    rows, columns = operation.factor
    for plane in range(source.planes):
        begin = source.address + plane * source.plane_pitch
        end = target.address + plane * target.plane_pitch
        if operation.kind == "merge":
            for dy in range(rows):
                words = columns * target.groups
                yield (
                    _window(source, begin + dy * words * source.group_pitch, source.width, words),
                    [_every_row(target, end, dy, rows, target.groups)],
                )
        elif operation.kind == "repeat":
            for group in range(source.groups):
                store = _window(source, begin + group * source.group_pitch, source.width, columns)
                at = end + group * target.group_pitch
                yield (
                    dataclasses.replace(store, group_pitch=0),
                    [_every_row(target, at, dy, rows, 1) for dy in range(rows)],
                )
        else:
            width = target.width * columns
            yield (
                _window(source, begin, width, source.groups),
                [_window(target, end, target.width, target.groups)],
            )


def _window(place: TensorLayout, address: int, width: int, groups: int) -> Window:
    return Window(address, place.height, width, groups, place.group_pitch, place.row_pitch)


def _every_row(place: TensorLayout, address: int, first: int, step: int, groups: int) -> Window:
    """Every ``step``-th row of a plane from row ``first`` on."""
    pitch = place.row_pitch
    return Window(
        address + first * pitch,
        place.height // step,
        place.width,
        groups,
        place.group_pitch,
        step * pitch,
    )


def check(operation: Rearrange, source: TensorLayout, target: TensorLayout) -> None:
    """What fits the descriptor fields; CompileError otherwise."""
    most = max(source.height, source.width, target.height, target.width)
    if most >= 1 << isa.SIZE_BITS:
        raise CompileError(
            f"layer {operation.name!r} has a height or width of {most}, over "
            f"{(1 << isa.SIZE_BITS) - 1}"
        )
    for store, loads in moves(operation, source, target):
        if max(window.groups for window in (store, *loads)) > MAX_GROUPS:
            raise CompileError(
                f"layer {operation.name!r} moves more than {MAX_GROUPS} words per pixel"
            )
        if store.beats >= 1 << isa.BEATS_BITS:
            raise CompileError(
                f"layer {operation.name!r} moves {store.beats} words at once, and a load or store "
                f"less than {1 << isa.BEATS_BITS}"
            )


def size(operation: Rearrange, source: TensorLayout, target: TensorLayout) -> int:
    """Bus words of memory that it takes."""
    return sum(store.beats for store, _ in moves(operation, source, target))


def emit(
    image: ProgramImage,
    operation: Rearrange,
    source: TensorLayout,
    target: TensorLayout,
    offset: int,
) -> None:
    """Descriptors of a rearrangement by ``offset`` bytes from OUTPUT_BASE."""
    beat = image.config.bus_bits // 8
    for store, loads in moves(operation, source, target):
        memory = Region("memory", offset // beat, store.beats)
        image.add(
            "stores",
            isa.TENSOR,
            reads=[Region("act", source.address, source.words)],
            writes=[memory],
            opcode=Opcode.STORE_TENSOR,
            base=Base.OUTPUT,
            offset=offset,
            **store.fields(),
        )
        for load in loads:
            image.add(
                "loads",
                isa.TENSOR,
                reads=[memory],
                writes=[Region("act", target.address, target.words)],
                opcode=Opcode.LOAD_TENSOR,
                base=Base.OUTPUT,
                offset=offset,
                **load.fields(),
            )
        offset += store.beats * beat


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
