# SPDX-License-Identifier: Apache-2.0
"""Bands: operations from memory to memory, some rows of their result at a time.

Where tensors do not fit the activation buffer together, some of them live in memory. An operation
that reads or makes one of those runs in bands of rows of its result: the rows that a band is made
from are loaded, those above and below it among them, and its result is stored. With two places for
each such tensor, neighbouring bands are loaded and stored while one is computed.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from gateware.arch.config import AccelConfig
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import (
    Gemm,
    Operation,
    Pool,
    Rearrange,
    TensorKey,
    input_rows,
    operands,
)
from gateware.compiler.raw import RawParts
from ir.numerics import Scheme

EXECUTE_CYCLES = 40  #: of an EXECUTE, for what it does not overlap with others


@dataclasses.dataclass(frozen=True)
class Bands:
    """Bands that operations with one result run in.

    Parameters
    ----------
    rows : of the result in a band
    copies : places of each tensor in memory, one after the other, which bands take in turns
    places : of a band of each tensor in memory; of several copies the first
    groups : of a pooling: the groups of channels of its operand that are there at a time; None for
        all
    window : of a single band: the rows of its operand that are there at a time, of a window with
        more; None for all that it needs
    """

    rows: int
    copies: int
    places: Mapping[TensorKey, TensorLayout]
    groups: int | None = dataclasses.field(default=None, kw_only=True)
    window: int | None = dataclasses.field(default=None, kw_only=True)

    @functools.cached_property
    def words(self) -> int:
        """Words of all places in every bank."""
        return self.copies * sum(place.words for place in self.places.values())


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """Operations that make one tensor, one after the other: but for copies of channels or columns
    a single one.

    Parameters
    ----------
    operations : of the same target
    forms : of all tensors of the network
    config : AccelConfig
    """

    operations: tuple[Gemm | Pool | Rearrange, ...]
    forms: Mapping[TensorKey, TensorLayout]
    config: AccelConfig

    @property
    def target(self) -> TensorKey:
        """Tensor that they make."""
        return self.operations[0].target

    @functools.cached_property
    def operands(self) -> tuple[TensorKey, ...]:
        """Tensors that they read, each once."""
        return tuple(dict.fromkeys(key for o in self.operations for key in operands(o)))

    @functools.cached_property
    def fixed(self) -> set[TensorKey]:
        """Tensors that cannot be in memory meanwhile: an operand for all pixels, raw outputs."""
        found = {o.residual for o in self.operations if isinstance(o, Pool) and o.broadcast}
        if self.wide:
            found |= {self.target, self.operations[0].residual}
        return {key for key in found if key is not None}

    @property
    def wide(self) -> bool:
        """True if the result is raw outputs."""
        return self.operations[0].wide

    @property
    def rearranges(self) -> bool:
        """True for a rearrangement, which runs alone."""
        return isinstance(self.operations[0], Rearrange)

    @functools.cached_property
    def tied(self) -> set[TensorKey]:
        """Tensors that are in memory together, or none of them.

        Of a rearrangement operand and result. Of a layer the residual operand and the result, too,
        because a drain slot has one distance between the groups of both.
        """
        operation = self.operations[0]
        if isinstance(operation, Rearrange):
            return {operation.source, operation.target}
        return {
            key
            for o in self.operations
            if isinstance(o, Gemm) and o.residual is not None and not o.wide
            for key in (o.residual, o.target)
        }

    def edges(self, rows: int) -> list[tuple[int, int]]:
        """Bands of about ``rows`` rows of the result, first and last (exclusive)."""
        operation, height = self.operations[0], self.forms[self.target].height
        cuts = range(rows, height, rows)
        if isinstance(operation, Rearrange):  # what a row becomes stays together
            rows = max(1, rows // operation.rows_for_one)
            inner = range(rows, self.forms[operation.source].height, rows)
            cuts = [operation.border[0] + row * operation.rows_for_one for row in inner]
        return list(itertools.pairwise([0, *cuts, height]))

    def needed(self, key: TensorKey, first: int, last: int) -> tuple[int, int]:
        """Rows of an operand that rows ``first`` to ``last`` (exclusive) of the result are made
        from; (0, 0) for none."""
        height, ranges = self.forms[key].height, list[tuple[int, int]]()
        for operation in self.operations:
            if operation.source == key:
                ranges += _source_rows(operation, height, first, last)
            if operation.residual == key:
                ranges.append((first, last))
        ranges = [(begin, end) for begin, end in ranges if begin < end]
        if not ranges:
            return 0, 0
        return min(begin for begin, _ in ranges), max(end for _, end in ranges)

    def options(self, memory: frozenset[TensorKey]) -> list[Bands]:
        """Bands in which it can run with its tensors of ``memory`` there, the fastest first."""
        key = memory & {*self.operands, self.target}
        if key not in self._options:
            found = [
                self._bands(key, rows, copies) for rows in self._heights() for copies in (2, 1)
            ]
            found.sort(key=self.cycles)
            self._options[key] = found + list(self._by_groups(key)) + list(self._by_windows(key))
        return self._options[key]

    @functools.cached_property
    def _options(self) -> dict[frozenset[TensorKey], list[Bands]]:
        return {}

    def _heights(self) -> Iterator[int]:
        """Rows of the result that a band can have, the most first; of those that give the same
        number of bands the fewest."""
        operation, form = self.operations[0], self.forms[self.target]
        if isinstance(operation, Gemm) and operation.wide:
            yield RawParts.of(operation, form, self.config).rows
            return
        yield from dict.fromkeys(-(-form.height // n) for n in range(1, form.height + 1))

    def _bands(self, memory: frozenset[TensorKey], rows: int, copies: int) -> Bands:
        bands, heights = self.edges(rows), dict[TensorKey, int]()
        for key in sorted(memory, key=str):
            height = max(last - first for first, last in bands) if key == self.target else 0
            if key in self.operands:
                ranges = [self.needed(key, *band) for band in bands]
                height = max(height, *(end - begin for begin, end in ranges))
            heights[key] = max(height, 1)
        if not self.rearranges and self.tied <= memory:
            heights |= dict.fromkeys(self.tied, max((heights[key] for key in self.tied), default=1))
        places = {
            key: dataclasses.replace(self.forms[key], height=height)
            for key, height in heights.items()
        }
        return Bands(rows, copies if len(bands) > 1 else 1, places)

    def _by_groups(self, memory: frozenset[TensorKey]) -> Iterator[Bands]:
        """A pooling group of channels by group, for a window that does not fit with all of them."""
        pool, form = self.operations[0], self.forms[self.operations[0].source]
        if not isinstance(pool, Pool) or pool.residual is not None or pool.source not in memory:
            return
        sizes = [1 << n for n in reversed(range((form.groups - 1).bit_length()))]
        for rows, size, copies in itertools.product(self._heights(), sizes, (2, 1)):
            bands = self._bands(memory, rows, copies)
            places = dict(bands.places)
            places[pool.source] = dataclasses.replace(places[pool.source], channels=size * form.k)
            yield dataclasses.replace(bands, copies=copies, places=places, groups=size)

    def _by_windows(self, memory: frozenset[TensorKey]) -> Iterator[Bands]:
        """A layer or pooling some rows of its window after the others, which an array with parts
        adds up for the pixels of one group."""
        operation, target = self.operations[0], self.forms[self.target]
        if (
            len(self.operations) > 1
            or not self.config.parts
            or isinstance(operation, Rearrange)
            or operation.source not in memory
            or operation.residual in memory
            or target.width > self.config.pixels
            or (operation.wide and target.height > 1)
        ):
            return
        tiles = operation.parts if isinstance(operation, Pool) and operation.parts else [operation]
        if any(padding > 0 for tile in tiles for padding in tile.padding):
            return
        form, height = self.forms[operation.source], max(tile.kernel[0] for tile in tiles)
        places = {key: self.forms[key] for key in memory}
        for rows in dict.fromkeys(-(-height // n) for n in range(2, height + 1)):
            part = dataclasses.replace(form, height=rows)
            for copies in (2, 1):
                yield Bands(target.height, copies, places | {operation.source: part}, window=rows)

    def cycles(self, bands: Bands) -> float:
        """Cycles that it takes in bands, estimated: to tell better ones from worse."""
        tiles, array, weights = self.work
        resident = weights <= self.config.weight_depth
        count, moved = self._moved(bands.rows)
        passes = 1 if resident or not bands.places else count
        weight_beats = passes * weights * self.config.weight_beats / self.config.ports
        loads = sum(moved[key] for key in bands.places if key in moved)
        stores = self.forms[self.target].beats if self.target in bands.places else 0
        if self.wide or bands.window:
            loads *= tiles
        array += tiles * count * EXECUTE_CYCLES
        if bands.copies > 1:
            return max(array, loads + weight_beats, stores) + (loads + stores) / count
        return max(array, weight_beats) + loads + stores

    def _moved(self, rows: int) -> tuple[int, dict[TensorKey, int]]:
        """Number of bands of ``rows`` rows, and bus beats of each operand that they load."""
        if rows not in self._moves:
            bands, moved = self.edges(rows), dict[TensorKey, int]()
            for key in self.operands:
                form = self.forms[key]
                ranges = [self.needed(key, *band) for band in bands]
                lines = sum(end - begin for begin, end in ranges)
                moved[key] = form.beats // form.height * lines
            self._moves[rows] = len(bands), moved
        return self._moves[rows]

    @functools.cached_property
    def _moves(self) -> dict[int, tuple[int, dict[TensorKey, int]]]:
        return {}

    @functools.cached_property
    def whole(self) -> float:
        """Cycles that it takes with all its tensors in the buffer, estimated."""
        return self.cycles(Bands(self.forms[self.target].height, 1, {}))

    @functools.cached_property
    def work(self) -> tuple[int, int, int]:
        """EXECUTEs of all rows, cycles of the array, weight words."""
        tiles = array = weights = 0
        for operation in self.operations:
            found = _work(operation, self.forms, self.config)
            tiles, array, weights = (
                have + more for have, more in zip((tiles, array, weights), found, strict=True)
            )
        return tiles, array, weights


def _source_rows(
    operation: Gemm | Pool | Rearrange, height: int, first: int, last: int
) -> Iterator[tuple[int, int]]:
    if isinstance(operation, Rearrange):
        yield operation.source_rows(height, first, last)
    elif isinstance(operation, Pool) and operation.parts:
        for part in operation.parts:
            top, bottom = max(first, part.rows[0]), min(last, part.rows[1])
            if top < bottom:
                yield input_rows(operation.of(part), height, top, bottom)
    else:
        yield input_rows(operation, height, first, last)


def _work(
    operation: Gemm | Pool | Rearrange,
    forms: Mapping[TensorKey, TensorLayout],
    config: AccelConfig,
) -> tuple[int, int, int]:
    source, target = forms[operation.source], forms[operation.target]
    if isinstance(operation, Rearrange):
        return 1, source.beats + target.beats, 0
    groups = target.height * -(-target.width // config.pixels)
    tiles = array = weights = 0
    if isinstance(operation, Pool):
        for part in operation.parts or (operation,):
            words = math.prod(part.kernel) * source.planes
            drain = config.k // config.requant_lanes * config.pixels
            tiles += source.groups
            array += source.groups * groups * max(words, drain)
        return tiles, array, 0
    residual = forms[operation.residual].planes if operation.residual else 1
    planes = max(target.planes, residual)
    for part in operation.parts(config.k):
        words = part.words * math.prod(operation.kernel)
        schemes = [int(operation.scheme[row]) for row in part.rows]
        count = max(
            -(-schemes.count(scheme) // max(1, lanes))
            for scheme, lanes in zip(Scheme, config.lanes, strict=True)
        )
        rows = min(config.rows, -(-len(schemes) // count))
        drain = -(-rows // config.requant_lanes) * config.pixels * planes
        tiles += count
        weights += count * words
        array += count * groups * max(words * source.planes, drain)
    return tiles, array, weights


def steps_of(
    operations: Sequence[Operation],
    forms: Mapping[TensorKey, TensorLayout],
    config: AccelConfig,
) -> list[Step]:
    """Steps of operations; those of one target follow one another, where the last of them was."""
    last = {o.target: i for i, o in enumerate(operations) if isinstance(o, Gemm | Pool | Rearrange)}
    ordered = sorted(
        (o for o in operations if isinstance(o, Gemm | Pool | Rearrange)),
        key=lambda o: last[o.target],
    )
    whole = {key: forms[key] for o in ordered for key in (*operands(o), o.target)}
    return [
        Step(tuple(group), whole, config)
        for _, group in itertools.groupby(ordered, lambda o: o.target)
    ]
