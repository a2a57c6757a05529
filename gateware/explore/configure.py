# SPDX-License-Identifier: Apache-2.0
"""Configuration of the accelerator that a build is asked for: sizes that are given, and the rest.

:func:`configure` fills what is left open with small defaults or a kept array, :func:`decide` with
the answer of the search.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.arch.results import DoesNotFit
from gateware.compiler.lower import needs_tables
from gateware.compiler.operations import CompileError
from gateware.compiler.slices import needs_parts
from gateware.explore import presets
from gateware.explore.choose import Choice, cached
from gateware.explore.space import Given
from gateware.flow import clock
from gateware.flow.target import TARGETS, check_fit
from ir.cli import UserError
from ir.graph import IntGraph
from ir.ratio import Ratio


def configure(
    board: Board,
    graph: IntGraph | None,
    *,
    ratio: str | None,
    rows: int | None,
    clock_hz: int | None,
    **sizes: int,
) -> AccelConfig:
    """Configuration that the options ask for, with tables where the network needs them.

    Raises UserError.
    """
    target = TARGETS[board.device.family]
    try:
        if clock_hz is not None:
            target.check_clock(board, clock_hz)
        if ratio == "auto":
            found = presets.auto(board)
            chosen, rows = found.ratio, found.rows if rows is None else rows
            sizes = {**found.sizes, **sizes}
        elif ratio == "paper":
            chosen = presets.paper(board)
        elif ratio is not None:
            chosen = Ratio.parse(ratio)
        elif graph is not None:
            chosen = Ratio.parse(graph.header.ratio)
        else:
            chosen = presets.paper(board)
        if rows is None:
            rows = graph.header.tile_rows if graph else 16
        config = AccelConfig.from_ratio(
            chosen,
            rows,
            clock_hz=board.clock_hz if clock_hz is None else clock_hz,
            tables=graph is not None and needs_tables(graph),
            **{**sizes, **target.sizes},
        )
        if graph is not None and needs_parts(graph, config):
            config = dataclasses.replace(config, parts=True)
        if clock_hz is None:
            config = dataclasses.replace(config, clock_hz=clock.default_hz(board, config))
        target.check(board, config)
        check_fit(board, target.resources(config))
    except (DoesNotFit, ValueError) as error:
        raise UserError(str(error)) from error
    return config


def choices(folder: Path) -> Path:
    """File beside a build folder that keeps what was chosen."""
    return folder.with_name(f"{folder.name}.choices.json")


def decide(
    board: Board,
    graph: IntGraph,
    cache: Path,
    *,
    ratio: str | None = None,
    rows: int | None = None,
    clock_hz: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    **sizes: int,
) -> Choice:
    """Array for ``graph``; what the options leave open, :mod:`gateware.explore.choose` finds.

    The answer is kept in the file ``cache``. Raises UserError.
    """
    try:
        chosen = presets.paper(board) if ratio == "paper" else ratio and Ratio.parse(ratio)
        given = Given(
            ratio=chosen or None,
            rows=None if rows is None else (rows,),
            pixels=(sizes.pop("pixels"),) if "pixels" in sizes else None,
            sizes=sizes,
            clock_hz=clock_hz,
        )
        if clock_hz is not None:
            TARGETS[board.device.family].check_clock(board, clock_hz)
        choice = cached(graph, board, given, cache, say)
    except (CompileError, ValueError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot write to {cache}: {error.strerror}") from error
    if clock_hz is not None:
        return choice
    hz = clock.default_hz(board, choice.config)
    return dataclasses.replace(choice, config=dataclasses.replace(choice.config, clock_hz=hz))
