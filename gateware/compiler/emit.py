# SPDX-License-Identifier: Apache-2.0
"""Descriptors of operations: row tiles, drain slots, rows at a time where a tensor is in strips."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.biases import Biases
from gateware.compiler.dependencies import Region
from gateware.compiler.fold import SharedTile, shared_tiles
from gateware.compiler.layout import Strip, TensorLayout
from gateware.compiler.operations import CompileError, Gemm, Part, Pool, PoolPart, input_rows
from gateware.compiler.pack import SlotResult, pack_slot, pack_weights
from gateware.compiler.plan import Plan
from gateware.compiler.program_image import ProgramImage
from gateware.compiler.raw import Drain, RawRegion, first_column, raw_drains
from gateware.compiler.schedule import schedule_slots, split_rows
from gateware.compiler.slices import (
    MAX_KERNEL,
    Slice,
    SlicedTile,
    needs_slices,
    row_slices,
    slices,
)
from gateware.compiler.transfers import WRAP
from gateware.pe.lanes import row_engines


class Tile:
    """Row tile of an operation, or a group of channels of a pooling, ready to be executed.

    Parameters
    ----------
    operation : Gemm or Pool
    weights, slots, table : Region
        Where they are, once loaded.
    first, words : int
        What it reads of each pixel's words; a pooling one, into the same of its result.
    rows : sequence of int
        Of a layer: its rows that are here, in the order in which raw outputs lie.
    part : PoolPart
        Of a pooling: the results that are computed, all of them by default.
    drained : sequence of int
        Of a layer whose result is made several rows at a time: drain slots of each.
    sliced : SlicedTile
        Where its weights do not fit their buffer: what is loaded only when it is executed.
    packed, records : bytes and list of bytes
        Stored weights and drain slots, to be loaded again.
    """

    def __init__(
        self,
        operation: Gemm | Pool,
        weights: Region,
        slots: Region,
        *,
        table: Region,
        first: int,
        words: int,
        rows: Sequence[int] = (),
        part: PoolPart | None = None,
        drained: Sequence[int] = (0,),
        sliced: SlicedTile | None = None,
        packed: bytes = b"",
        records: Sequence[bytes] = (),
    ) -> None:
        self.packed, self.records = packed, records
        self.operation, self.weights, self.slots = operation, weights, slots
        self.table, self.part, self.drained = table, part, tuple(drained)
        self.first, self.words, self.rows, self.sliced = first, words, tuple(rows), sliced

    def load_again(self, image: ProgramImage, before: "Tile | None") -> None:
        """Addition of the loads of its weights and slots to places that are free now, but for what
        it shares with the tile ``before``."""
        if self.sliced is not None:
            return
        if before is not None and before.packed is self.packed:
            self.weights = before.weights
        elif self.packed:
            self.weights = image.load_weights(self.packed)
        if before is not None and before.records is self.records:
            self.slots = before.slots
        else:
            self.slots = image.load_slots(self.records)

    def execute(
        self,
        image: ProgramImage,
        *,
        source: Strip,
        target: Strip,
        residual: Strip | None,
        first: int,
        last: int,
        raw: RawRegion | None = None,
    ) -> None:
        """EXECUTE of output rows ``first`` to ``last`` (exclusive), of raw outputs into ``raw``."""
        if self.sliced is not None and last - first > 1:
            for row in range(first, last):
                self.execute(
                    image, source=source, target=target, residual=residual, first=row, last=row + 1
                )
            return
        if self.part is not None:
            first, last = max(first, self.part.rows[0]), min(last, self.part.rows[1])
            if first >= last:
                return
        over = (last - first) % self._fold  # rows at the end, fewer than are made at a time
        if 0 < over < last - first:
            for begin, end in ((first, last - over), (last - over, last)):
                self.execute(
                    image,
                    source=source,
                    target=target,
                    residual=residual,
                    first=begin,
                    last=end,
                    raw=raw,
                )
            return
        operation, wide = self.operation, raw and raw.region
        pool = isinstance(operation, Pool)
        begin, end = input_rows(operation, source.height, first, last)
        # None where all rows lie below the image.
        pad = max(0, begin - (first * operation.stride[0] - operation.padding[0]))
        place, out = source.place, target.place
        group_in = (self.first - source.group) * place.group_pitch
        group_out = self.first * out.group_pitch if pool else 0
        skipped, pad_left, out_width = 0, operation.padding[2], out.width
        if raw is not None:
            skipped, pad_left = first_column(operation, raw.first, place.banks)
            out_width = raw.last - raw.first
        out_row_pitch, column = -(-out_width // out.banks), 0
        if self._columns is not None:
            column = self._columns[0] // out.banks
            skipped, pad_left = first_column(operation, self._columns[0], place.banks)
            out_width, out_row_pitch = self._columns[1] - self._columns[0], out.row_pitch
        reads = [self.table, *source.regions(begin, end)]
        if residual is not None:
            reads += residual.regions(*((0, 1) if self._broadcast else (first, last)))
        out_address = wide.first if wide else (target.row(first) + group_out + column) % WRAP
        writes = [wide] if wide else target.regions(first, last)
        fields: dict[str, int] = dict(
            opcode=Opcode.EXECUTE,
            table=operation.table is not None,
            pool=pool,
            pool_sum=pool and operation.total,
            wide=operation.wide,
            planes=place.planes - 1,
            out_planes=0 if operation.wide else out.planes - 1,
            first_row=(source.row(begin) - pad * place.row_pitch + group_in + skipped) % WRAP,
            height=(end if over else source.height) - begin,
            width=max(0, place.width - skipped * place.banks),
            groups=self.words,
            group_pitch=place.group_pitch % WRAP,
            row_pitch=place.row_pitch,
            row_step=place.row_pitch * operation.stride[0] * self._fold % WRAP,
            plane_pitch=place.plane_pitch % WRAP,
            pad_top=pad,
            pad_left=pad_left,
            pad_value=0 if pool else place.zero_point,
            out_height=-(-(last - first) // self._fold),
            out_width=out_width,
            out_address=out_address,
            out_row_pitch=out_row_pitch * self._fold % WRAP,
            out_plane_pitch=out.plane_pitch % WRAP,  # of raw outputs, which have none, any
            low=operation.low,
            high=operation.high,
            weight_address=self.weights.first,
            slot_address=self.slots.first,
            slots=sum(self.drained[:over]) if over else self.slots.words,
            product=pool and operation.product,
            broadcast=self._broadcast,
            resume=0,
            lower=0,
            **self._kernel_fields(target),
            **self._residual_fields(residual, target, first),
        )
        if self.sliced is not None:
            self.sliced.execute(image, source, begin, reads, writes, fields)
            return
        reads = [self.weights, self.slots, *reads]
        image.add("executes", isa.EXECUTE, reads=reads, writes=writes, **fields)

    @property
    def _fold(self) -> int:
        """Rows of the result that are made at a time."""
        return len(self.drained)

    @property
    def _columns(self) -> tuple[int, int] | None:
        """Columns that are computed, the first of which is in bank 0; None for all."""
        if isinstance(self.operation, Gemm):
            return self.operation.columns
        return None if self.part is None else self.part.columns

    @property
    def _broadcast(self) -> bool:
        return isinstance(self.operation, Pool) and self.operation.broadcast

    def _kernel_fields(self, target: Strip) -> dict[str, int]:
        """Sizes and strides; along an axis with a single output there is no stride."""
        operation = self.operation
        return {
            "kernel_y": operation.kernel[0] + (self._fold - 1) * operation.stride[0],
            "kernel_x": operation.kernel[1],
            "stride_y": operation.stride[0] * self._fold if target.height > 1 else 1,
            "stride_x": operation.stride[1] if target.place.width > 1 else 1,
        }

    def _residual_fields(self, residual: Strip | None, target: Strip, first: int) -> dict[str, int]:
        """Where the residual operand lies, from row ``first`` on, and of a pooling in the words
        that it reads of a pixel; where there is none the addresses are the target's."""
        operand = target if residual is None else residual
        pool = isinstance(self.operation, Pool)
        group = self.first * operand.place.group_pitch if pool else 0
        row = operand.row(0 if self._broadcast else first)
        return {
            "residual": residual is not None,
            "residual_planes": operand.place.planes - 1,
            "residual_address": (row + group) % WRAP,
            "residual_plane_pitch": operand.place.plane_pitch % WRAP,
            "residual_n": self.operation.residual_n,
        }


def tiles(
    image: ProgramImage, operation: Gemm | Pool, plan: Plan, target: TensorLayout
) -> Iterable[Tile]:
    """Tiles of an operation; each one's weights and slots are loaded when it is asked for.

    Raises CompileError for a layer whose schemes, sums or biases the array cannot take.
    """
    if isinstance(operation, Pool):
        yield from _pool_tiles(image, operation, plan)
        return
    config, source, window = (
        image.config,
        plan.places[operation.source],
        plan.window(operation.target),
    )
    biases = Biases(operation, source.planes)
    if window is not None or needs_slices(operation, source, config):
        for part in operation.parts(config.k):
            cut = slices(operation, part, source, target, config, window or MAX_KERNEL)
            yield from _gemm_tiles(image, operation, part, biases, target, cut)
        return
    for part in shared_tiles(operation, source, target, config):
        if isinstance(part, SharedTile):
            yield from _shared_tiles(image, operation, part, biases, target)
        else:
            yield from _gemm_tiles(image, operation, part, biases, target, ())


def _channel(gemm: Gemm, row: int) -> int:
    """Channel of the result that a row gives."""
    return row if gemm.channels is None else gemm.channels[row]


def _records(gemm: Gemm, drain: Drain, biases: Biases, config: AccelConfig) -> list[bytes]:
    """Stored drain slots."""
    engines = [placed.engine for placed in row_engines(config) for _ in placed.lanes]

    def result(lane: int, row: int) -> SlotResult:
        return SlotResult(
            lane=lane,
            column=_channel(gemm, row) % config.k,
            offset=drain.offsets[row],
            multiplier=int(gemm.multiplier[row]),
            bias=biases.of(row, engines[lane]),
            shift=int(gemm.shift[row]),
        )

    return [
        pack_slot([result(lane, row) for lane, row in slot], config, gemm.wide)
        for slot in drain.slots
    ]


def _code_drain(
    gemm: Gemm, taken: Sequence[tuple[int, int]], target: TensorLayout, config: AccelConfig
) -> Drain:
    """Drain of the lanes and rows ``taken`` whose results are codes."""
    offsets = {row: _channel(gemm, row) // config.k * target.group_pitch for _, row in taken}
    written = {_channel(gemm, row): row for _, row in taken}
    channels = [(lane, _channel(gemm, row)) for lane, row in taken]
    slots = [
        [(lane, written[place]) for lane, place in slot.results]
        for slot in schedule_slots(channels, config)
    ]
    return Drain([row for _, row in taken], slots, offsets)


def _shared_tiles(
    image: ProgramImage,
    gemm: Gemm,
    shared: SharedTile,
    biases: Biases,
    target: TensorLayout,
) -> Iterable[Tile]:
    """A tile for each part, with the same weights. Slots of a row of the result come together."""
    config = image.config
    packed = shared.pack(gemm.stride[0], config)
    weights = image.load_weights(packed)
    for part, of_part in zip(shared.parts, shared.lanes, strict=True):
        records, drained = [], []
        for below, lanes in enumerate(of_part):
            drain = _code_drain(gemm, list(zip(lanes, part.rows, strict=True)), target, config)
            first = below * target.row_pitch
            offsets = {row: (first + offset) % WRAP for row, offset in drain.offsets.items()}
            drain = dataclasses.replace(drain, offsets=offsets)
            records += _records(gemm, drain, biases, config)
            drained.append(len(drain.slots))
        yield Tile(
            gemm,
            weights,
            image.load_slots(records),
            table=image.load_table(gemm.table),
            first=part.first,
            words=part.words,
            rows=part.rows,
            drained=drained,
            packed=packed,
            records=records,
        )


def _gemm_tiles(
    image: ProgramImage,
    gemm: Gemm,
    part: Part,
    biases: Biases,
    target: TensorLayout,
    cut: Sequence[Slice],
) -> Iterable[Tile]:
    """Tiles of the rows of a part, whose inputs are ``cut`` in slices."""
    config = image.config
    try:
        split = split_rows([int(gemm.scheme[row]) for row in part.rows], config)
    except ValueError as error:
        raise CompileError(f"layer {gemm.name!r} {error}") from error
    for lanes in split:
        taken = [(lane, part.rows[row]) for lane, row in enumerate(lanes) if row >= 0]
        if gemm.wide:
            drains = raw_drains(gemm, taken, target, config)
        else:
            drains = [_code_drain(gemm, taken, target, config)]
        pieces: list[tuple[Slice, bytes]] = []
        packed = b""
        if cut:
            weights = Region("weights", 0, 0)
            pieces = [
                (piece, pack_weights(piece.values(part, config.k), lanes, config)) for piece in cut
            ]
        else:
            packed = pack_weights(part.values, lanes, config)
            weights = image.load_weights(packed)
        for drain in drains:
            records = _records(gemm, drain, biases, config)
            yield Tile(
                gemm,
                weights,
                Region("slots", 0, 0) if cut else image.load_slots(records),
                table=image.load_table(gemm.table),
                first=part.first,
                words=part.words,
                rows=drain.rows,
                sliced=SlicedTile(pieces, records) if cut else None,
                packed=packed,
                records=records,
            )


def _pool_tiles(image: ProgramImage, pool: Pool, plan: Plan) -> Iterable[Tile]:
    """The pool lanes are the channels of a word, so every group has the same slots."""
    table, window = image.load_table(pool.table), plan.window(pool.target)
    for part in pool.parts or [None]:
        chosen = pool if part is None else part
        records = _pool_slots(image.config, chosen.multiplier, chosen.bias, chosen.shift)
        operation, sliced = pool if part is None else pool.of(part), None
        if window is None:
            slots = image.load_slots(records)
        else:
            slots = Region("slots", 0, 0)
            sliced = SlicedTile([(s, b"") for s in row_slices(operation, window)], records)
        for group in range(plan.places[pool.source].groups):
            yield Tile(
                operation,
                Region("weights", 0, 0),
                slots,
                table=table,
                first=group,
                words=1,
                part=part,
                sliced=sliced,
                records=records,
            )


def _pool_slots(config: AccelConfig, multiplier: int, bias: int, shift: int) -> list[bytes]:
    lanes = [(config.rows + channel, channel) for channel in range(config.k)]
    return [
        pack_slot(
            [
                SlotResult(
                    lane=lane,
                    column=channel,
                    offset=0,
                    multiplier=multiplier,
                    bias=bias,
                    shift=shift,
                )
                for lane, channel in slot.results
            ],
            config,
        )
        for slot in schedule_slots(lanes, config)
    ]


def cuts(rows: int, parts: int) -> Sequence[tuple[int, int]]:
    """Ranges, first and last row (exclusive), that part ``rows`` about equally; none is empty."""
    edges = [rows * part // parts for part in range(parts + 1)]
    return [pair for pair in itertools.pairwise(edges) if pair[0] < pair[1]]
