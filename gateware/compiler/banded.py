# SPDX-License-Identifier: Apache-2.0
"""Descriptors of operations in bands: loads of a band's operands, its EXECUTEs, its store."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from gateware.arch.isa import Base
from gateware.compiler import rearrange
from gateware.compiler.bands import Bands, Step
from gateware.compiler.emit import Tile, tiles
from gateware.compiler.layout import Strip, WindowStrip
from gateware.compiler.operations import Gemm, Pool, Rearrange, TensorKey
from gateware.compiler.outputs import OutputMemory
from gateware.compiler.plan import Plan
from gateware.compiler.program_image import ProgramImage
from gateware.compiler.transfers import Home, load_groups, load_rows, store_rows


class BandedCode:
    """Generator of the operations of a plan that run in bands.

    Parameters
    ----------
    image : ProgramImage
        The program.
    plan : Plan
    memory : OutputMemory
    homes : dict of TensorKey to Home
        Inputs that live in memory; tensors that are made there are added.
    """

    def __init__(
        self, image: ProgramImage, plan: Plan, memory: OutputMemory, homes: dict[TensorKey, Home]
    ) -> None:
        self._image, self._plan, self._memory, self._homes = image, plan, memory, homes
        self._turn = 0  # of the two places that rows for raw outputs take

    def run(self, operations: Sequence[Gemm | Pool | Rearrange]) -> None:
        """Addition of the operations that make a tensor. Raises CompileError."""
        step = Step(tuple(operations), self._plan.places, self._image.config)
        bands, ready = self._plan.bands[step.target], list[Tile]()
        if step.target in bands.places:
            self._homes[step.target] = self._home(step.target)
        if bands.groups is not None:
            self._by_groups(step, bands, bands.groups)
        elif bands.window is not None:
            self._by_windows(step, bands)
        in_bands = bands.groups is None and bands.window is None
        edges = step.edges(bands.rows) if in_bands else []
        for index, (first, last) in enumerate(edges):
            with self._image.segment(operations[-1].name):
                strips = self._strips(step, bands, index, first, last)
                if bands.copies == 1 or index == 0:
                    self._load(step, bands, strips, first, last)
                ahead = bands.copies > 1 and index + 1 < len(edges)
                for _ in self._run_band(step, strips, ready, first, last):
                    if ahead:  # while the band is computed
                        following = self._strips(step, bands, index + 1, *edges[index + 1])
                        self._load(step, bands, following, *edges[index + 1])
                    ahead = False
                self._store(step.target, bands, strips[step.target], first, last)
        if self._memory.wanted(step.target) and step.target not in bands.places:
            with self._image.segment(operations[-1].name):
                whole = Strip.whole(self._plan.places[step.target])
                store_rows(
                    self._image, step.target, whole, 0, whole.height, self._output(step.target)
                )

    def source(self, operation: Gemm, first: int, last: int) -> Strip:
        """Rows that raw outputs ``first`` to ``last`` are made from, loaded."""
        bands = self._plan.bands[operation.target]
        if bands.window is not None:
            return self._window(operation.source, bands)
        step = Step((operation,), self._plan.places, self._image.config)
        strips = self._strips(step, bands, self._turn, first, last)
        self._load(step, bands, strips, first, last)
        self._turn += 1
        return strips[operation.source]

    def _output(self, key: TensorKey) -> Home:
        return Home(Base.OUTPUT, self._memory.output(key).offset)

    def _home(self, key: TensorKey) -> Home:
        """Place of a new tensor: that of the output that it is, unless it lies in slabs."""
        slab = self._plan.slab(key)
        if self._memory.wanted(key) and slab is None:
            return self._output(key)
        beats, beat = self._plan.places[key].beats, self._image.config.bus_bits // 8
        return Home(Base.OUTPUT, self._memory.spill(key, beats * beat), slab)

    def _strips(
        self, step: Step, bands: Bands, index: int, first: int, last: int
    ) -> dict[TensorKey, Strip]:
        """Where the rows lie that a band reads and makes."""
        strips = {}
        for key in (*step.operands, step.target):
            whole = self._plan.places[key]
            if key not in bands.places:
                strips[key] = Strip.whole(whole)
                continue
            begin, end = (first, last) if key == step.target else step.needed(key, first, last)
            place = bands.places[key]
            address = place.address + index % bands.copies * place.words
            height = end - begin if step.rearranges else place.height
            place = dataclasses.replace(place, address=address, height=height)
            strips[key] = Strip(place, begin, whole.height)
        return strips

    def _load(
        self, step: Step, bands: Bands, strips: dict[TensorKey, Strip], first: int, last: int
    ) -> None:
        for key in step.operands:
            begin, end = step.needed(key, first, last)
            if key in bands.places and begin < end:
                load_rows(self._image, key, strips[key], begin, end, self._homes[key])

    def _store(self, key: TensorKey, bands: Bands, strip: Strip, first: int, last: int) -> None:
        """Stores of a band of a result that lives in memory; in slabs it is no output."""
        if key not in bands.places:
            return
        homes = [self._homes[key]]
        if self._memory.wanted(key) and homes[0].slab is not None:
            homes.append(self._output(key))
        for home in homes:
            store_rows(self._image, key, strip, first, last, home)

    def _by_groups(self, step: Step, bands: Bands, size: int) -> None:
        """A pooling, in each band with some groups of its operand's channels after the others."""
        pool, ready = step.operations[0], list[Tile]()
        assert isinstance(pool, Pool)
        form, place = self._plan.places[pool.source], bands.places[pool.source]
        turns = itertools.product(enumerate(step.edges(bands.rows)), range(0, form.groups, size))
        for index, ((band, (first, last)), group) in enumerate(turns):
            strips = self._strips(step, bands, band, first, last)
            address = place.address + index % bands.copies * place.words
            channels = min(size, form.groups - group) * form.k
            part = dataclasses.replace(place, address=address, channels=channels)
            begin, end = step.needed(pool.source, first, last)
            strips[pool.source] = source = Strip(part, begin, form.height, group)
            with self._image.segment(pool.name):
                load_groups(
                    self._image, pool.source, source, form, (begin, end), self._homes[pool.source]
                )
                mine = range(group, group + part.groups)
                if not ready:
                    tiles_now = self._first(step, strips, ready)
                else:
                    tiles_now = self._again([tile for tile in ready if tile.first in mine])
                for tile in tiles_now:
                    if tile.first in mine:
                        tile.execute(
                            self._image,
                            source=source,
                            target=strips[step.target],
                            residual=None,
                            first=first,
                            last=last,
                        )
                if group + size >= form.groups:
                    self._store(step.target, bands, strips[step.target], first, last)

    def _by_windows(self, step: Step, bands: Bands) -> None:
        """A layer or pooling some rows of its operand after the others."""
        operation, places = step.operations[0], self._plan.places
        assert isinstance(operation, Gemm | Pool)
        source = self._window(operation.source, bands)
        target = Strip.whole(bands.places.get(step.target, places[step.target]))
        residual = Strip.whole(places[operation.residual]) if operation.residual else None
        with self._image.segment(operation.name):
            for tile in tiles(self._image, operation, self._plan, target.place):
                tile.execute(
                    self._image,
                    source=source,
                    target=target,
                    residual=residual,
                    first=0,
                    last=target.height,
                )
            self._store(step.target, bands, target, 0, target.height)

    def _window(self, key: TensorKey, bands: Bands) -> WindowStrip:
        """Strip of an operand whose rows are loaded as slices of a window need them."""
        form, place = self._plan.places[key], bands.places[key]

        def load(first: int, last: int) -> Strip:
            address = place.address + self._turn % bands.copies * place.words
            self._turn += 1
            strip = Strip(dataclasses.replace(place, address=address), first, form.height)
            load_rows(self._image, key, strip, first, last, self._homes[key])
            return strip

        return WindowStrip(place, 0, form.height, load=load)

    def _run_band(
        self, step: Step, strips: dict[TensorKey, Strip], ready: list[Tile], first: int, last: int
    ) -> Iterator[None]:
        """Addition of the EXECUTEs of a band, tile by tile; ``ready`` are those of the bands
        before, which are loaded again if there is no room for all at once."""
        rearranged = step.operations[0]
        if isinstance(rearranged, Rearrange):
            self._rearrange(rearranged, strips, first, last)
            yield
            return
        for tile in self._again(ready) if ready else self._first(step, strips, ready):
            operation = tile.operation
            tile.execute(
                self._image,
                source=strips[operation.source],
                target=strips[operation.target],
                residual=strips[operation.residual] if operation.residual else None,
                first=first,
                last=last,
            )
            yield

    def _first(
        self, step: Step, strips: dict[TensorKey, Strip], ready: list[Tile]
    ) -> Iterator[Tile]:
        for operation in step.operations:
            assert isinstance(operation, Gemm | Pool)
            for tile in tiles(self._image, operation, self._plan, strips[step.target].place):
                ready.append(tile)
                yield tile

    def _again(self, ready: list[Tile]) -> Iterator[Tile]:
        config = self._image.config
        # Groups of channels share either.
        slots = {id(tile.records): tile.slots.words for tile in ready}
        weights = {id(tile.packed): tile.weights.words for tile in ready}
        resident = (
            sum(weights.values()) <= config.weight_depth
            and sum(slots.values()) <= config.slot_depth
            and not any(tile.sliced for tile in ready)
        )
        before = None
        for tile in ready:
            self._image.load_table(tile.operation.table)
            if not resident:
                tile.load_again(self._image, before)
                before = tile
            yield tile

    def _rearrange(
        self, operation: Rearrange, strips: dict[TensorKey, Strip], first: int, last: int
    ) -> None:
        source, target = strips[operation.source], strips[operation.target]
        ends = (first == 0, last == target.height)
        words = rearrange.size(operation, source.place, target.place, ends)
        offset = self._memory.spill(operation.target, words * self._image.config.bus_bits // 8)
        rearrange.emit(self._image, operation, source.place, target.place, offset, ends)
