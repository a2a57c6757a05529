# SPDX-License-Identifier: Apache-2.0
"""Choice of the array for a network and a board: what ``gateware.build`` builds without options.

:func:`array_for` looks at shapes alone; training for a board asks it, so that both sides agree.
:func:`choose` begins with its answer. A graph whose rows were assigned for other lanes may be
faster on other arrays, so those of its own lanes are tried, too, with the rows as they are.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boards
import gateware
import ir
from boards.board import Board
from gateware.arch.config import SIZES, AccelConfig
from gateware.compiler.operations import CompileError
from gateware.explore.search import (
    ANY,
    NEAR,
    SUSTAINED,
    DesignPoint,
    SearchResult,
    describe,
    estimated_on,
    explore,
)
from gateware.explore.space import Given, Split
from ir.graph import IntGraph
from ir.ratio import Ratio

PROGRAMS = 12  #: compiled for the shapes of a network; a large one takes seconds each
WORTH = 1.01  #: times the cycles that training for the board brings are worth a line
PROGRAMS_AS_TRAINED = 8  #: compiled for rows as they are
LISTED = 12  #: arrays of an explanation
CACHED = 20  #: answers kept in a file

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Array that was chosen, and why.

    Parameters
    ----------
    config : AccelConfig
        Sizes of the array.
    cycles : int
        Of an image, estimated, with the memory that the board has.
    reasons : tuple of str
        Sentences that say why it is this one.
    considered : tuple of str
        Arrays that were compiled, a line each, the fastest first.
    refused : dict of str to int
        Why others were not, and how many.
    seconds : float
        Time of the search.
    advice : str
        How to train for an array on which the network is faster; often nothing.
    """

    config: AccelConfig
    cycles: int
    reasons: tuple[str, ...]
    considered: tuple[str, ...]
    refused: dict[str, int]
    seconds: float
    advice: str = ""

    def explanation(self) -> str:
        """Lines for people: what was considered, and why this one."""
        return "\n".join(
            (
                f"chosen: {describe(self.config)}",
                *self.reasons,
                *([self.advice] if self.advice else ()),
                "considered, the fastest first (estimated):",
                *(f"  {line}" for line in self.considered),
                *(f"not among them: {count} arrays, {why}" for why, count in self.refused.items()),
                f"searched for {self.seconds:.1f} s",
            )
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-able content, the inverse of :meth:`from_json`."""
        return dataclasses.asdict(self) | {"config": self.config.fields()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Choice":
        """Choice of its content; ValueError, TypeError or KeyError for content of none."""
        return cls(
            config=AccelConfig(**content["config"]),
            cycles=int(content["cycles"]),
            reasons=tuple(content["reasons"]),
            considered=tuple(content["considered"]),
            refused=dict(content["refused"]),
            seconds=float(content["seconds"]),
            advice=str(content["advice"]),
        )


def search(
    graph: IntGraph, board: Board, given: Given = ANY, say: Say = lambda text: None
) -> SearchResult:
    """Search of the fastest arrays for the shapes of ``graph``, with rows assigned for them.

    Raises CompileError where no array of the board runs it.
    """
    found = explore(graph, board, given=given, say=say, programs=PROGRAMS, slowest=NEAR)
    if not found.points:
        raise CompileError(f"no array fits {board.title}: {_most_common(found.refused)}")
    if found.points[0].cycles is None:
        raise CompileError(f"no array of {board.title} runs it: {found.points[0].refusal}")
    return found


def array_for(graph: IntGraph, board: Board, given: Given = ANY) -> tuple[Ratio, int]:
    """Ratio and row lanes of the array that suits the shapes of ``graph``, to train it for.

    Raises CompileError where no array of the board runs it.
    """
    best = search(graph, board, given).best
    return best.ratio, best.config.rows


def choose(
    graph: IntGraph, board: Board, given: Given = ANY, say: Say = lambda text: None
) -> Choice:
    """Fastest array of ``board`` for ``graph`` as it was trained.

    Raises CompileError where no array of the board runs it.
    """
    started = time.monotonic()
    say(f"looking for the array of {board.title} that suits {graph.header.name}")
    found = search(graph, board, given, say)
    best, refused, trained = found.best, found.refused, lanes_of(graph)
    points = sorted(found.points, key=lambda point: point.objective)
    reasons = [
        f"its {best.cycles} cycles are the fewest of {len(points)} arrays that were compiled, or "
        f"within {NEAR - 1:.0%} of them with the fewest PoT-4 rows"
    ]
    advice = ""
    if best.config.lanes != trained:
        say(f"trying arrays for the lanes that it was trained for, {_text(trained)}")
        target = best
        best, points = _as_trained(graph, board, given, say, found, refused)
        reasons = [
            f"the rows of the network were assigned for {_text(trained)} lanes; its {best.cycles} "
            f"cycles are the fewest of {len(points)} arrays with rows as they are"
        ]
        if WORTH * target.objective < best.objective:
            advice = (
                f"the graph was trained for {_text(trained)} lanes: {best.cycles} cycles per image "
                f"on {_text(best.config.lanes)} x {best.config.k} x {best.config.pixels}, "
                f"{target.cycles} (estimated) if trained for {_text(target.config.lanes)} x "
                f"{target.config.k} x {target.config.pixels}: "
                f"python -m quant.train --board {board.name}"
            )
    memory = f"{SUSTAINED:.0%} of the peak rate" if board.memory.hp_ports else "a beat per cycle"
    reasons.append(
        f"cycles count a memory that gives {memory} at {best.config.clock_hz / 1e6:g} MHz"
    )
    return Choice(
        config=best.config,
        cycles=best.cycles or 0,
        reasons=tuple(reasons),
        considered=tuple(map(_line, points[:LISTED])),
        refused=dict(refused.most_common()),
        seconds=round(time.monotonic() - started, 1),
        advice=advice,
    )


def lanes_of(graph: IntGraph) -> Split:
    """Lanes that the rows of ``graph`` were assigned for."""
    return Ratio.parse(graph.header.ratio).lanes(graph.header.tile_rows)


def _as_trained(
    graph: IntGraph,
    board: Board,
    given: Given,
    say: Say,
    found: SearchResult,
    refused: Counter,
) -> tuple[DesignPoint, list[DesignPoint]]:
    """Fastest array for the rows as they are, and others: of the lanes of ``graph``, or the best
    for its shapes."""
    own, target = lanes_of(graph), found.best
    mix = given.ratio or Ratio.parse(graph.header.ratio)

    def splits(rows: int) -> list[list[Split]]:
        times, rest = divmod(rows, sum(own))
        whole = [(own[0] * times, own[1] * times, own[2] * times)]
        return [[lanes] for lanes in {mix.lanes(rows), *([] if rest or given.ratio else whole)}]

    known: dict[tuple, int | str] = {}
    points = [estimated_on(graph, board, target.config, None, known)]
    points += explore(
        graph,
        board,
        given=given,
        say=say,
        known=known,
        programs=PROGRAMS_AS_TRAINED,
        slowest=1.0,
        lanes_of=splits,
    ).points
    running = sorted(
        (point for point in points if point.cycles is not None),
        key=lambda point: (point.objective, point.logic),
    )
    if not running:
        raise CompileError(points[0].refusal)
    refused.update(point.refusal for point in points if point.refusal)
    return running[0], running


def _text(lanes: Sequence[int]) -> str:
    return ":".join(map(str, lanes))


def _line(point: DesignPoint) -> str:
    shares = ", ".join(f"{name.upper()} {share:.0%}" for name, share in point.used.items())
    return f"{point.cycles} cycles: {describe(point.config)}; {shares}"


def _most_common(refused: Counter) -> str:
    """Reasons of most shapes, each with their number where they differ."""
    if len(refused) == 1:
        return next(iter(refused))
    return ", ".join(f"{why} ({count})" for why, count in refused.most_common(3))


def cached(
    graph: IntGraph, board: Board, given: Given, path: Path, say: Say = lambda text: None
) -> Choice:
    """:func:`choose`, its answer kept in the file ``path``, whatever else it holds.

    An answer counts for the same network, board, options and sources of ours.
    """
    key, kept = _key(graph, board, given), _kept(path)
    try:
        choice = Choice.from_json(kept[key])
        say(f"{describe(choice.config)}: chosen before, {path}")
        return choice
    except (KeyError, TypeError, ValueError):
        choice = choose(graph, board, given, say)
    kept.pop(key, None)
    kept[key] = choice.to_json()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(dict(list(kept.items())[-CACHED:]), indent=1) + "\n")
    unfinished.replace(path)
    return choice


def _kept(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _key(graph: IntGraph, board: Board, given: Given) -> str:
    digest = hashlib.sha256(graph.digest.encode())
    limits = (board.name, dict(board.device.limits), dataclasses.asdict(board.memory))
    digest.update(repr((limits, dataclasses.asdict(given), SIZES)).encode())
    for package in (boards, gateware, ir):
        root = Path(package.__file__ or "").parent
        for file in sorted(root.rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:32]
