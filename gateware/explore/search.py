# SPDX-License-Identifier: Apache-2.0
"""Array and ratio of the schemes solved together, from the device's resources.

Of the arrays that a device holds, those are found that no other dominates. Per shape and number of
Fixed-8 rows only one split matters: PoT-4 rows cost LUTs and accuracy, Fixed-4 rows DSP48E1, and
neither changes the cycles. So each shape has as many Fixed-4 rows as its DSPs allow.
"""

import bisect
import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.compiler.lower import needs_tables
from gateware.compiler.operations import CompileError
from gateware.compiler.program import compile_graph
from gateware.compiler.slices import needs_parts
from gateware.explore.shapes import shape_only
from gateware.model import estimate
from gateware.rtl.array import GemmArray
from ir.graph import Conv, IntGraph, Linear
from ir.numerics import ACT_BITS, Scheme
from ir.ratio import Ratio, largest_remainder

#: Share of each resource that an array may take: above this much of the LUTs, routing is hard.
SHARES = {"lut": 0.8, "ff": 1.0, "dsp48e1": 1.0, "bram36": 1.0}
ROWS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128)
PIXELS = (2, 4, 8, 16)
REQUANT_LANES = (4, 8, 16)
LANES = ("pot4_rows", "fixed4_rows", "fixed8_rows")
ACT_DEPTHS = (4096, 8192)  #: a nibble column of fewer words takes as many block RAMs
WEIGHT_DEPTH_STEP = 512  #: words that a block RAM of 64 bits holds
WEIGHT_DEPTH_MAX = 4096
SLOT_DEPTHS = (128, 64)  #: more let weights be fetched further ahead
FIXED8_SHARE = 0.05  #: the paper's share of 8-bit rows
NEAR = 1.05  #: times the fewest cycles are as good, where less is PoT-4
SLOWEST = 1.5  #: times the fewest cycles are too many to be listed
#: Of a memory's peak rate, what long reads get from it; assumed, not measured.
SUSTAINED = 0.75


@dataclasses.dataclass(frozen=True, kw_only=True)
class DesignPoint:
    """Array that the device holds, and what it does.

    used : share of the device by resource, 0..1
    cycles : of one image, estimated; None where there is no program
    fixed8_share : share of Fixed-8 rows in the network, all layers together, 0..1
    refusal : why there is no program
    """

    config: AccelConfig
    ratio: Ratio
    used: Mapping[str, float]
    cycles: int | None
    fixed8_share: float
    refusal: str = ""

    @property
    def objective(self) -> int:
        """Objective to minimise: cycles, or else the negative of the MACs per cycle."""
        return -self.config.macs_per_cycle if self.cycles is None else self.cycles

    @property
    def pot4_share(self) -> float:
        """Share of PoT-4 lanes, 0..1."""
        return self.config.pot4_rows / self.config.rows

    def dominates(self, other: "DesignPoint") -> bool:
        """True if it is no worse in cycles, LUTs, 8-bit rows and PoT-4 rows, and better in one."""
        mine, theirs = self._costs(), other._costs()
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))

    def _costs(self) -> tuple[float, ...]:
        # A percent of the LUTs is less than what the estimate may be wrong by.
        return (self.objective, round(100 * self.used["lut"]), -self.fixed8_share, self.pot4_share)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """Outcome of a search.

    points : arrays that the device holds and that run the network; where none does, those that the
        device holds
    refused : why the others are not among them, and how many
    """

    points: tuple[DesignPoint, ...]
    refused: Counter

    @property
    def pareto(self) -> tuple[DesignPoint, ...]:
        """Points that no other dominates, the fastest first."""
        left = [
            point
            for point in self.points
            if not any(other.dominates(point) for other in self.points)
        ]
        return tuple(sorted(left, key=lambda point: (point.objective, -point.fixed8_share)))

    @property
    def best(self) -> DesignPoint:
        """Point of choice: of those about as fast as the fastest the one with the smallest share of
        PoT-4 rows, then with a share of 8-bit rows nearest to the paper's.

        Raises ValueError where nothing fits.
        """
        if not self.points:
            raise ValueError(
                "no array fits: "
                + ", ".join(f"{reason} ({count})" for reason, count in self.refused.items())
            )
        fastest = min(point.objective for point in self.points)
        most = fastest * NEAR if fastest > 0 else fastest / NEAR
        return min(
            (point for point in self.points if point.objective <= most),
            key=lambda point: (
                point.pot4_share,
                abs(point.config.fixed8_rows / point.config.rows - FIXED8_SHARE),
                point.objective,
            ),
        )


def percent(lanes: tuple[int, int, int]) -> Ratio | None:
    """Ratio in whole percent that gives these lanes, the nearest one; None without one."""
    ratio = Ratio(*largest_remainder(100, lanes))
    return ratio if ratio.lanes(sum(lanes)) == lanes else None


def limits(board: Board) -> dict[str, int]:
    """Largest number of cells that an array may take, by resource of the device."""
    return {name: math.floor(limit * SHARES[name]) for name, limit in board.device.limits.items()}


def beats_per_cycle(board: Board, config: AccelConfig) -> float:
    """Bus beats that the memory of a board gives in a cycle, to all ports together."""
    peak = board.memory.peak_bytes_per_second / config.clock_hz / (config.bus_bits // 8)
    return min(config.ports, SUSTAINED * peak)


def explore(
    graph: IntGraph,
    board: Board,
    *,
    say: Callable[[str], None] = lambda text: None,
    given: Ratio | None = None,
    rows: Iterable[int] = ROWS,
    pixels: Iterable[int] = PIXELS,
    known: dict[tuple, int | str] | None = None,
    programs: float = math.inf,
) -> SearchResult:
    """Search of the arrays of ``rows`` by ``pixels`` that ``board`` holds with a network's shapes.

    With ``given`` only arrays of that ratio, until no other can be faster. ``known`` keeps cycles
    from one search of a network to the next. Arrays that are slow, or that another one dominates,
    even with :func:`least_cycles` are left out; so are all after ``programs`` that were compiled.
    """
    most, refused = limits(board), Counter()
    arrays = list(_arrays(graph, board, most, refused, given, rows, pixels))
    bounds = sorted(
        (
            _point(graph, board, config, ratio, least_cycles(graph, board, config))
            for config, ratio in arrays
        ),
        key=lambda point: point.objective,
    )
    points: list[DesignPoint] = []
    known = {} if known is None else known
    slowest = 1.0 if given else SLOWEST
    copied: set[tuple[int, ...]] = set()  # shapes that run with two ports of the activation buffer
    for index, bound in enumerate(bounds):
        if sum(point.cycles is not None for point in points) >= programs:
            refused["promised fewer cycles less than those that were tried"] += 1
            continue
        if any(
            point.cycles is not None
            and (point.dominates(bound) or slowest * point.cycles <= bound.objective)
            for point in points
        ):
            refused["too slow or dominated by another even with the fewest cycles possible"] += 1
            continue
        config = bound.config
        shape = (*config.lanes, config.pixels, config.requant_lanes)
        if config.act_copies == 1 and shape in copied:
            refused["need no activation buffer of one port, which makes the drain slow"] += 1
            continue
        point = estimated_on(graph, board, bound.config, bound.ratio, known)
        points.append(point)
        if point.cycles is not None and config.act_copies == 2:
            copied.add(shape)
        say(
            f"{index + 1} of {len(bounds)}: {describe(bound.config)}: "
            f"{point.refusal or f'{point.cycles} cycles'}"
        )
    if any(point.cycles is not None for point in points):
        refused.update(re.split("[:,]", point.refusal)[0] for point in points if point.refusal)
        points = [point for point in points if point.cycles is not None]
    return SearchResult(tuple(points), refused)


def least_cycles(graph: IntGraph, board: Board, config: AccelConfig) -> int:
    """Lower bound on the cycles of an image: those of the array's words and of the drain, one
    layer after the other with nothing between, or those of loading the weights."""
    array, weight_words = 0, 0
    for node in graph.nodes:
        if not isinstance(node, Conv | Linear):
            continue
        source, target = graph.tensor(node.input), graph.tensor(node.output)
        rows, height, width = target.shape
        words = -(-graph.layers[node.name].rows.shape[1] // config.k)
        phases = config.requant_lanes if node.wide else target.bits // ACT_BITS
        if node.residual:
            phases = max(phases, graph.tensor(node.residual.tensor).bits // ACT_BITS)
        turns = phases * (1 if node.wide else config.drain_turn)
        groups, last = divmod(width - 1, config.pixels)
        for first in range(0, rows, config.rows):
            slots = -(-min(config.rows, rows - first) // config.requant_lanes)
            word_cycles = words * (source.bits // ACT_BITS)
            array += height * (
                groups * max(word_cycles, slots * turns * config.pixels)
                + max(word_cycles, slots * turns * (last + 1))
            )
            weight_words += words
    beats = weight_words * config.weight_beats
    return max(array, math.floor(beats / beats_per_cycle(board, config)))


def _point(
    graph: IntGraph,
    board: Board,
    config: AccelConfig,
    ratio: Ratio,
    cycles: int | None,
    refusal: str = "",
) -> DesignPoint:
    rows = [len(layer.scheme) for layer in graph.layers.values()]
    fixed8 = sum(ratio.rows(count, config.rows)[Scheme.FIXED8] for count in rows)
    used = {name: count / board.device.limits[name] for name, count in _used(config).items()}
    return DesignPoint(
        config=config,
        ratio=ratio,
        used=used,
        cycles=cycles,
        fixed8_share=fixed8 / sum(rows),
        refusal=refusal,
    )


def estimated_on(
    graph: IntGraph, board: Board, config: AccelConfig, ratio: Ratio, known: dict[tuple, int | str]
) -> DesignPoint:
    """Design point of ``config`` with the shapes of ``graph``, its rows in ``ratio``.

    What scheme a row has changes cycles only by the beats of a weight word and by the array's
    latency, so arrays that differ in nothing else are compiled once; ``known`` keeps what was
    found.
    """
    rate, fields = beats_per_cycle(board, config), dataclasses.asdict(config)
    rows = sum(fields.pop(name) for name in LANES)
    key = (rows, rate, config.weight_beats, GemmArray.latency_for(config), *fields.values())
    if key not in known:
        try:
            program = compile_graph(shape_only(graph, ratio, config.rows), config)
            known[key] = sum(estimate.cycles(program, rate).values())
        except CompileError as error:
            known[key] = str(error)
    found = known[key]
    if isinstance(found, str):
        return _point(graph, board, config, ratio, None, found)
    return _point(graph, board, config, ratio, found)


def describe(config: AccelConfig) -> str:
    """Description of an array in a few words."""
    return (
        f"{':'.join(map(str, config.lanes))} x {config.k} x {config.pixels}, "
        f"{config.requant_lanes} requantisers, {config.ports} ports, activations "
        f"{config.act_copies} x {config.act_depth}, weights {config.weight_depth}"
    )


def _arrays(
    graph: IntGraph,
    board: Board,
    most: Mapping[str, int],
    refused: Counter,
    given: Ratio | None,
    rows: Iterable[int],
    pixels: Iterable[int],
) -> Iterator[tuple[AccelConfig, Ratio]]:
    """The best split of each shape that fits, and its ratio."""
    for count, lanes, width in itertools.product(rows, REQUANT_LANES, pixels):
        if count % lanes:
            continue
        sizes = {
            "pixels": width,
            "requant_lanes": lanes,
            "ports": board.memory.hp_ports,
            "wide_depth": _power_of_two(2 * count),
            "clock_hz": board.clock_hz,
            "tables": needs_tables(graph),
            "parts": needs_parts(graph, weight_depth=WEIGHT_DEPTH_STEP),
        }
        for splits in [[given.lanes(count)]] if given else _splits(count):
            fitting = [
                config
                for copies, depth in itertools.product((2, 1), ACT_DEPTHS)
                if (config := _deepest(splits, most, act_depth=depth, act_copies=copies, **sizes))
            ]
            for config in fitting:
                if ratio := given or percent(config.lanes):
                    yield config, ratio
            if not fitting:
                config = _config(
                    splits[-1],
                    weight_depth=WEIGHT_DEPTH_STEP,
                    act_copies=1,
                    act_depth=ACT_DEPTHS[0],
                    slot_depth=max(SLOT_DEPTHS[-1], _power_of_two(count)),
                    **sizes,
                )
                refused[f"needs too many {_shortest(config, most).upper()}"] += 1


def _splits(rows: int) -> list[list[tuple[int, int, int]]]:
    """Lanes to try, those with more Fixed-4 rows first, for each number of Fixed-8 rows: the
    paper's share rounded both ways, at least one."""
    share = FIXED8_SHARE * rows
    return [
        [
            lanes
            for fixed4 in range(rows - fixed8, -1, -1)
            if percent(lanes := (rows - fixed8 - fixed4, fixed4, fixed8))
        ]
        for fixed8 in sorted({max(1, math.floor(share)), math.ceil(share)})
    ]


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _config(lanes: tuple[int, int, int], **sizes: Any) -> AccelConfig:
    return AccelConfig(**dict(zip(LANES, lanes, strict=True)), **sizes)


def _used(config: AccelConfig) -> dict[str, int]:
    return dataclasses.asdict(estimate.resources(config))


def _fits(config: AccelConfig, most: Mapping[str, int]) -> bool:
    return all(_used(config)[name] <= limit for name, limit in most.items())


def _shortest(config: AccelConfig, most: Mapping[str, int]) -> str:
    """The resource that ``config`` exceeds most."""
    used = _used(config)
    return max(most, key=lambda name: used[name] / most[name])


def _deepest(
    splits: Sequence[tuple[int, int, int]], most: Mapping[str, int], **sizes: int
) -> AccelConfig | None:
    """The first of the splits that fits, and with it the most drain slots and the deepest weight
    buffer.

    Fewer Fixed-4 rows take fewer DSPs and more LUTs, so only a few splits are looked at.
    """
    slots = _power_of_two(sum(splits[0]))
    smallest = {
        "weight_depth": WEIGHT_DEPTH_STEP,
        "slot_depth": max(SLOT_DEPTHS[-1], slots),
        **sizes,
    }
    first = bisect.bisect_left(
        splits,
        True,
        key=lambda lanes: _used(_config(lanes, **smallest))["dsp48e1"] <= most["dsp48e1"],
    )
    for lanes in splits[first : first + 2]:
        if _fits(_config(lanes, **smallest), most):
            return next(
                config
                for slot_depth, depth in itertools.product(
                    SLOT_DEPTHS, range(WEIGHT_DEPTH_MAX, 0, -WEIGHT_DEPTH_STEP)
                )
                if _fits(
                    config := _config(
                        lanes, **sizes, weight_depth=depth, slot_depth=max(slot_depth, slots)
                    ),
                    most,
                )
            )
    return None
