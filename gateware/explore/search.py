# SPDX-License-Identifier: Apache-2.0
"""Array and ratio of the schemes solved together, for a network and a board.

Of the arrays that a device holds (:mod:`gateware.explore.space`), those are found that no other
dominates in cycles, LUTs, multipliers and block RAMs, and the one to choose.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.arch.results import DoesNotFit
from gateware.compiler.hybrid import compile_all
from gateware.compiler.lower import needs_tables
from gateware.compiler.operations import CompileError
from gateware.compiler.slices import needs_parts
from gateware.explore.shapes import shape_only
from gateware.explore.space import FIXED8_SHARE, LANES, Given, Splits, arrays, percent, used
from gateware.flow.target import TARGETS, driver_bytes
from gateware.model import estimate
from gateware.rtl.array import GemmArray
from ir.graph import Conv, IntGraph, Linear
from ir.numerics import ACT_BITS, Scheme
from ir.ratio import Ratio

NEAR = 1.05  #: times the fewest cycles are as good, where less is PoT-4
SLOWEST = 1.5  #: times the fewest cycles are too many to be listed
#: Of a memory's peak rate, what long reads get from it; assumed, not measured.
SUSTAINED = 0.75
WEIGHT_DEPTH_MIN = 512  #: words of a block RAM of 64 bits
ANY = Given()  #: nothing decided


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
    def logic(self) -> float:
        """Share of the device's LUTs, 0..1."""
        return next(iter(self.used.values()))

    @property
    def pot4_share(self) -> float:
        """Share of PoT-4 lanes, 0..1."""
        return self.config.pot4_rows / self.config.rows

    @property
    def costs(self) -> tuple[int, ...]:
        """Cycles (see :attr:`objective`), and percent of LUTs, multipliers and block RAMs."""
        # A percent is less than what the estimates may be wrong by.
        cells = [share for name, share in self.used.items() if name != "ff"]
        return (self.objective, *(round(100 * share) for share in cells))

    def dominates(self, other: "DesignPoint") -> bool:
        """True if it is no worse in costs, 8-bit rows and PoT-4 rows, and better in one."""
        mine = (*self.costs, -self.fixed8_share, self.pot4_share)
        theirs = (*other.costs, -other.fixed8_share, other.pot4_share)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


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
        """Points that no other dominates in cycles, LUTs, multipliers and block RAMs, the fastest
        first; of equal ones that with the smallest share of PoT-4 rows."""
        distinct: dict[tuple[int, ...], DesignPoint] = {}
        for point in sorted(self.points, key=lambda point: point.pot4_share):
            distinct.setdefault(point.costs, point)
        left = [
            point
            for costs, point in distinct.items()
            if not any(
                other != costs and all(a <= b for a, b in zip(other, costs, strict=True))
                for other in distinct
            )
        ]
        return tuple(sorted(left, key=lambda point: point.costs))

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
                point.logic,
            ),
        )


def beats_per_cycle(board: Board, config: AccelConfig) -> float:
    """Bus beats that the memory of a board gives in a cycle, to all ports together."""
    if not board.memory.hp_ports:  # block RAM
        return config.ports
    peak = board.memory.peak_bytes_per_second / config.clock_hz / (config.bus_bits // 8)
    return min(config.ports, SUSTAINED * peak)


def explore(
    graph: IntGraph,
    board: Board,
    *,
    given: Given = ANY,
    say: Callable[[str], None] = lambda text: None,
    known: dict[tuple, int | str] | None = None,
    programs: float = math.inf,
    slowest: float | None = None,
    lanes_of: Splits | None = None,
) -> SearchResult:
    """Search of the arrays that ``board`` holds with a network's shapes.

    With a ratio in ``given`` only arrays of that, until no other can be faster. ``known`` keeps
    cycles from one search of a network to the next. Arrays that are ``slowest`` times as slow as
    another, or that another one dominates, even with :func:`least_cycles` are left out; so are all
    after ``programs`` that were compiled. With ``lanes_of`` the lanes are those, and rows have the
    schemes that they were trained for.
    """
    refused, known = Counter(), {} if known is None else known
    bounds = sorted(_bounds(graph, board, given, refused, lanes_of), key=lambda p: p.objective)
    points: list[DesignPoint] = []
    if slowest is None:
        slowest = 1.0 if given.ratio else SLOWEST
    for index, bound in enumerate(bounds):
        tried = programs if any(point.cycles is not None for point in points) else 2 * programs
        if len(known) >= tried:
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
        ratio = None if lanes_of else bound.ratio
        point = estimated_on(graph, board, config, ratio, known)
        points.append(point)
        say(
            f"{index + 1} of {len(bounds)}: {describe(config)}: "
            f"{point.refusal or f'{point.cycles} cycles'}"
        )
    if any(point.cycles is not None for point in points):
        refused.update(re.split("[:,]", point.refusal)[0] for point in points if point.refusal)
        points = [point for point in points if point.cycles is not None]
    return SearchResult(tuple(points), refused)


def _bounds(
    graph: IntGraph, board: Board, given: Given, refused: Counter, lanes_of: Splits | None
) -> list[DesignPoint]:
    """Arrays of the board with the fewest cycles that they may take."""
    found = []
    for config in arrays(board, given, refused, lanes_of=lanes_of, tables=needs_tables(graph)):
        parts = needs_parts(graph, config)
        ratio = given.ratio or percent(config.lanes)
        if ratio is None and lanes_of is None:
            continue  # no training would give its lanes
        config = dataclasses.replace(config, parts=parts)
        found.append(_point(graph, board, config, ratio, least_cycles(graph, board, config)))
    return found


def shallower(
    graph: IntGraph, board: Board, found: SearchResult, known: dict[tuple, int | str]
) -> SearchResult:
    """``found`` and its best arrays with half the weight buffer, a quarter and so on: fewer block
    RAMs for more cycles. ``known`` is that of :func:`explore`."""
    points = list(found.points)
    fewest = min((point.objective for point in points), default=0)
    for point in found.pareto if fewest > 0 else ():
        config = point.config
        while config.weight_depth >= 2 * WEIGHT_DEPTH_MIN:
            depth = config.weight_depth // 2 // WEIGHT_DEPTH_MIN * WEIGHT_DEPTH_MIN
            config = dataclasses.replace(config, weight_depth=depth)
            config = dataclasses.replace(config, parts=needs_parts(graph, config))
            less = estimated_on(graph, board, config, point.ratio, known)
            if less.cycles is None or less.cycles > SLOWEST * fewest:
                break
            points.append(less)
    return SearchResult(tuple(points), found.refused)


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
        groups, last = divmod(width - 1, config.pixels)
        full, partial = (
            config.drain_turns(count, raw=node.wide) for count in (config.pixels, last + 1)
        )
        for first in range(0, rows, config.rows):
            slots = -(-min(config.rows, rows - first) // config.requant_lanes)
            word_cycles = words * (source.bits // ACT_BITS)
            array += height * (
                groups * max(word_cycles, slots * phases * full)
                + max(word_cycles, slots * phases * partial)
            )
            weight_words += words
    beats = weight_words * config.weight_beats
    return max(array, math.floor(beats / beats_per_cycle(board, config)))


def _point(
    graph: IntGraph,
    board: Board,
    config: AccelConfig,
    ratio: Ratio | None,
    cycles: int | None,
    refusal: str = "",
) -> DesignPoint:
    """Design point of an array; without ``ratio`` the rows have the schemes of ``graph``."""
    schemes = [layer.scheme for layer in graph.layers.values()]
    fixed8 = sum(
        ratio.rows(len(rows), config.rows)[Scheme.FIXED8]
        if ratio
        else int((rows == Scheme.FIXED8).sum())
        for rows in schemes
    )
    need, limits = used(board.device.family, config), board.device.limits
    return DesignPoint(
        config=config,
        ratio=ratio or percent(config.lanes) or Ratio.parse(graph.header.ratio),
        used={name: count / limits[name] for name, count in need.items()},
        cycles=cycles,
        fixed8_share=fixed8 / max(1, sum(map(len, schemes))),
        refusal=refusal,
    )


def estimated_on(
    graph: IntGraph,
    board: Board,
    config: AccelConfig,
    ratio: Ratio | None,
    known: dict[tuple, int | str],
) -> DesignPoint:
    """Design point of ``config`` with the shapes of ``graph``, its rows in ``ratio``; without one
    they have the schemes of ``graph``.

    What scheme a row has changes cycles only by the beats of a weight word and by the array's
    latency, so arrays that differ in nothing else are compiled once; ``known`` keeps what was
    found.
    """
    key = _key(board, config, ratio)
    if key not in known:
        try:
            known[key] = _cycles(graph, board, config, ratio)
        except (CompileError, DoesNotFit) as error:
            known[key] = str(error)
    found = known[key]
    if isinstance(found, str):
        return _point(graph, board, config, ratio, None, found)
    return _point(graph, board, config, ratio, found)


def _key(board: Board, config: AccelConfig, ratio: Ratio | None) -> tuple:
    fields = dataclasses.asdict(config)
    if ratio is None or not board.memory.hp_ports:  # lanes count, and block RAMs that they leave
        return (str(ratio), *fields.values())
    rows, rate = sum(fields.pop(name) for name in LANES), beats_per_cycle(board, config)
    return (rows, rate, config.weight_beats, GemmArray.latency_for(config), *fields.values())


def _cycles(graph: IntGraph, board: Board, config: AccelConfig, ratio: Ratio | None) -> int:
    """Cycles of an image. Raises CompileError or DoesNotFit where there is no program."""
    rows = graph if ratio is None else shape_only(graph, ratio, config.rows)
    compiled = compile_all(rows, config)
    TARGETS[board.device.family].check_memory(
        board, config, driver_bytes(one.program for one in compiled)
    )
    return sum(estimate.layer_cycles(compiled, beats_per_cycle(board, config)).values())


def describe(config: AccelConfig) -> str:
    """Description of an array in a few words."""
    requantisers = config.requant_lanes * config.drain_pixels
    return (
        f"{':'.join(map(str, config.lanes))} x {config.k} x {config.pixels}, "
        f"{requantisers} requantisers, {config.ports} ports, activations "
        f"{config.act_copies} x {config.act_depth}, weights {config.weight_depth}"
    )
