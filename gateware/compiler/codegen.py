# SPDX-License-Identifier: Apache-2.0
"""Code generation: the operations of a plan, in order, as descriptors and data of a program."""

import dataclasses
import itertools

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Base
from gateware.compiler import rearrange
from gateware.compiler.banded import BandedCode
from gateware.compiler.batch import together
from gateware.compiler.emit import Tile, cuts, tiles
from gateware.compiler.layout import Strip
from gateware.compiler.lower import Lowered
from gateware.compiler.operations import (
    Gemm,
    Operation,
    Pool,
    Rearrange,
    Reload,
    Spill,
    TensorKey,
    input_rows,
    operands,
    result,
)
from gateware.compiler.outputs import OutputMemory
from gateware.compiler.plan import NoPlan
from gateware.compiler.program_image import ProgramImage
from gateware.compiler.raw import RawRegion
from gateware.compiler.source import Source
from gateware.compiler.transfers import Home, load_rows, store_raw, store_rows
from ir.graph import IntGraph


@dataclasses.dataclass(frozen=True)
class _PairStrip:
    """Rows ``first`` to ``last`` of a pooling, and the convolution's rows ``top`` to ``bottom``
    that they are made from; all ends exclusive."""

    first: int
    last: int
    top: int
    bottom: int


class CodeGenerator:
    """Generator of a program's memory image.

    Parameters
    ----------
    graph : IntGraph
    lowered : Lowered
        The graph in terms of the tile engine.
    config : AccelConfig
    memory : OutputMemory
        Where outputs and spilled tensors go.
    batch : int
        Images of a run.
    """

    def __init__(
        self,
        graph: IntGraph,
        lowered: Lowered,
        config: AccelConfig,
        memory: OutputMemory,
        *,
        batch: int,
    ) -> None:
        self.graph, self.config, self.plan, self.memory = graph, config, lowered.plan, memory
        self.image = ProgramImage(config)
        self.input_key, height = lowered.input_key, lowered.space_to_depth.y.size
        self.input = dataclasses.replace(self.plan.places[self.input_key], height=height)
        size = self.input.beats * config.bus_bits // 8
        homes = {
            self.input_key.of_image(image): Home(Base.INPUT, image * size) for image in range(batch)
        }
        self.sources = {
            key: Source(self.image, self.input_key, self.plan.places[key], height=height, home=home)
            for key, home in homes.items()
            if key not in self.plan.memory
        }
        self.banded = BandedCode(self.image, self.plan, memory, homes)

    def run(self) -> ProgramImage:
        """Memory image of the whole program, END included. Raises CompileError."""
        self._first(self.plan.operations[0])
        for bands, operations in itertools.groupby(self.plan.operations, self._bands):
            if bands is None:
                self._operations(list(operations))
            else:
                self._in_bands([o for o in operations if isinstance(o, Gemm | Pool | Rearrange)])
        self.image.end()
        return self.image

    def _bands(self, operation: Operation) -> TensorKey | None:
        """The result, of an operation in bands that makes codes."""
        target = result(operation)
        wide = isinstance(operation, Gemm) and operation.wide
        return target if target in self.plan.bands and not wide else None

    def _operations(self, operations: list[Operation]) -> None:
        """Operations of whole tensors, of strips of them, or with raw outputs."""
        runs = together(operations) if self.plan.together else iter([o] for o in operations)
        for run in runs:
            match run[0]:
                case Spill() as move:
                    self._spill(move)
                case Reload() as move:
                    self._reload(move)
                case Rearrange() as move:
                    self._rearrange(move)
                case Gemm() as gemm if gemm.target in self.plan.strips:
                    pool = next(runs)[0]
                    assert isinstance(pool, Pool)
                    self._pair(gemm, pool)
                case Gemm(wide=True):
                    self._wide([gemm for gemm in run if isinstance(gemm, Gemm)])
                case _:
                    self._whole([o for o in run if isinstance(o, Gemm | Pool)])

    def _in_bands(self, operations: list[Gemm | Pool | Rearrange]) -> None:
        """Operations that make one tensor, some rows of it at a time."""
        with self.image.segment(operations[-1].name):
            for key in {key for operation in operations for key in operands(operation)}:
                if key in self.sources:
                    self.sources[key].need()
        self.banded.run(operations)

    def _first(self, operation: Operation) -> None:
        """Load what the first operation reads, unless it begins before all of it is there."""
        key = self.input_key
        if key not in self.sources:
            return
        early = (
            self.sources[key].large
            and isinstance(operation, Gemm | Pool)
            and not operation.wide
            and operation.source == key
            and operation.residual != key
        )
        if not (early or self.plan.input_strips):
            with self.image.segment("input"):
                self.sources[key].need()

    def _strip(self, key: TensorKey) -> Strip:
        return Strip.whole(self.plan.places[key])

    def _execute(
        self,
        tile: Tile,
        operation: Gemm | Pool,
        source: Strip,
        target: Strip,
        first: int,
        last: int,
        raw: RawRegion | None = None,
    ) -> None:
        """Output rows ``first`` to ``last`` of a tile, in as many parts as the input comes."""
        residual = self._strip(operation.residual) if operation.residual else None
        read = None if self.plan.input_strips else self.sources.get(operation.source)
        if operation.residual in self.sources:
            self.sources[operation.residual].need()
        parts = read.parts((last - first) / target.height) if read and not raw else 1
        for part, end in cuts(last - first, parts):
            if read:
                read.need(input_rows(operation, source.height, first, first + end)[1])
            tile.execute(
                self.image,
                source=source,
                target=target,
                residual=residual,
                first=first + part,
                last=first + end,
                raw=raw,
            )

    def _whole(self, run: list[Gemm | Pool]) -> None:
        """An operation for one image, or for several with the same weights."""
        with self.image.segment(run[0].name):
            form = self.plan.places[run[0].target]
            for tile in tiles(self.image, run[0], self.plan, form):
                for operation in run:
                    target = self._strip(operation.target)
                    self._execute(
                        tile, operation, self._strip(operation.source), target, 0, target.height
                    )
            for operation in run:
                partial = isinstance(operation, Gemm) and operation.partial
                if self.memory.wanted(operation.target) and not partial:
                    self._store(operation, self._strip(operation.target), 0, form.height)

    def _wide(self, run: list[Gemm]) -> None:
        """An operation whose results leave the chip, as the buffer for them has room."""
        form = self.plan.places[run[0].target]
        ends = [self.memory.output(operation.target).offset for operation in run]
        made = []
        with self.image.segment(run[0].name):
            for tile in tiles(self.image, run[0], self.plan, form):
                made.append(tile.rows)
                for index, operation in enumerate(run):
                    target, output = (
                        self._strip(operation.target),
                        self.memory.output(operation.target),
                    )
                    parts = itertools.product(
                        output.ranges, range(0, form.height, output.wide_rows)
                    )
                    for (left, right), first in parts:
                        last = min(first + output.wide_rows, form.height)
                        region = self.image.wide.take(output.entries(len(tile.rows)))
                        self._execute(
                            tile,
                            operation,
                            self._raw_source(operation, first, last),
                            target,
                            first,
                            last,
                            RawRegion(region, left, right),
                        )
                        store_raw(self.image, region, ends[index])
                        ends[index] += region.words * isa.WIDE_BITS // 8
        self.memory.set_tiles(run[0].target.name, tuple(made))

    def _raw_source(self, operation: Gemm, first: int, last: int) -> Strip:
        """What raw outputs of some rows are made from."""
        if operation.target in self.plan.bands:
            return self.banded.source(operation, first, last)
        return self._strip(operation.source)

    def _spill(self, operation: Spill) -> None:
        key = operation.source
        place = self.plan.places[key]
        offset = self.memory.spill(key, place.beats * self.config.bus_bits // 8)
        with self.image.segment(f"{key} spilled"):
            home = Home(Base.OUTPUT, offset)
            store_rows(self.image, key, Strip.whole(place), 0, place.height, home)

    def _reload(self, operation: Reload) -> None:
        key = operation.target
        offset = self.memory.spilled(operation.spilled)
        with self.image.segment(str(key)):
            place, home = self.plan.places[key], Home(Base.OUTPUT, offset)
            load_rows(self.image, key, Strip.whole(place), 0, place.height, home)

    def _rearrange(self, operation: Rearrange) -> None:
        if operation.source in self.sources:
            self.sources[operation.source].need()
        source, target = (self.plan.places[k] for k in (operation.source, operation.target))
        words = rearrange.size(operation, source, target)
        offset = self.memory.spill(operation.target, words * self.config.bus_bits // 8)
        with self.image.segment(operation.name):
            rearrange.emit(self.image, operation, source, target, offset)
            if self.memory.wanted(operation.target):
                self._store(operation, self._strip(operation.target), 0, target.height)

    def _pair(self, gemm: Gemm, pool: Pool) -> None:
        """A convolution and the pooling after it, some rows of the result at a time."""
        place, target = self.plan.places[gemm.target], self._strip(pool.target)
        height = self.graph.tensor(gemm.target.name).shape[1]
        with self.image.segment(gemm.name):
            convolutions = list(tiles(self.image, gemm, self.plan, place))
        with self.image.segment(pool.name):
            pools = list(tiles(self.image, pool, self.plan, target.place))
        self._check_loaded(gemm, [*convolutions, *pools[:1]])
        parts = self._strips(gemm, pool, height)
        edges = [(part.top, part.bottom) for part in parts]
        whole = itertools.repeat(self._strip(gemm.source))
        in_strips = self.plan.input_strips and gemm.source in self.sources
        sources = self.sources[gemm.source].strips(gemm, edges) if in_strips else whole
        for part in parts:
            strip = Strip(place, part.top, height)
            with self.image.segment(gemm.name):
                source = next(sources)
                for tile in convolutions:
                    self._execute(tile, gemm, source, strip, part.top, part.bottom)
                if self.memory.wanted(gemm.target) and part.top < part.bottom:
                    self._store(gemm, strip, part.top, part.bottom)
            if part.first < part.last:
                with self.image.segment(pool.name):
                    for tile in pools:
                        self._execute(tile, pool, strip, target, part.first, part.last)
        if self.memory.wanted(pool.target):
            with self.image.segment(pool.name):
                self._store(pool, target, 0, target.height)

    def _check_loaded(self, gemm: Gemm, tiles: list[Tile]) -> None:
        """What all strips use is loaded once, and must be there at once. Raises NoPlan."""
        weights = sum(tile.weights.words for tile in tiles)
        slots = sum(tile.slots.words for tile in tiles)
        if weights > self.config.weight_depth or slots > self.config.slot_depth:
            raise NoPlan(
                f"layer {gemm.name!r} must be made in strips, and its {weights} weight words and "
                f"{slots} drain slots do not fit the buffers at once"
            )

    def _strips(self, gemm: Gemm, pool: Pool, height: int) -> list[_PairStrip]:
        """Strips of a convolution's ``height`` rows and of the pooling after it, from the top.

        Where the convolution's result is stored, too, also those rows that the pooling skips.
        """
        rows, most = self.plan.strips[gemm.target], self.plan.places[gemm.target].height
        strips, made = [], 0

        def make_up_to(row: int) -> None:
            for top in range(made, row, most):
                strips.append(_PairStrip(0, 0, top, min(top + most, row)))

        end = self.plan.places[pool.target].height
        for first in range(0, end, rows):
            last = min(first + rows, end)
            top, bottom = input_rows(pool, height, first, last)
            if self.memory.wanted(gemm.target):
                make_up_to(top)
            strips.append(_PairStrip(first, last, top, bottom))
            made = max(made, bottom)
        if self.memory.wanted(gemm.target):
            make_up_to(height)
        return strips

    def _store(
        self, operation: Gemm | Pool | Rearrange, strip: Strip, first: int, last: int
    ) -> None:
        """Store rows of a result; its region of the output begins with the first of them."""
        store_rows(
            self.image,
            operation.target,
            strip,
            first,
            last,
            Home(Base.OUTPUT, self.memory.output(operation.target).offset),
        )
