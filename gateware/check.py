# SPDX-License-Identifier: Apache-2.0
"""Questions of training: can an accelerator run a network, and for which array to train it."""

import dataclasses

import boards
from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import compile_all
from gateware.compiler.lower import needs_tables
from gateware.compiler.slices import needs_parts
from gateware.explore import choose
from gateware.explore.space import Given
from ir.graph import IntGraph
from ir.ratio import Ratio

#: Sizes that leave nothing to wish for, where no board is known: what remains is refused by all.
ROWS = 64
SIZES = {
    "act_depth": 1 << 16,
    "weight_depth": 1 << 15,
    "slot_depth": 1 << 12,
    "wide_depth": 1 << 12,
}


def check(graph: IntGraph) -> None:
    """Check that ``graph`` compiles, for a large array of its ratio.

    Raises :class:`~gateware.compiler.operations.CompileError` naming the layer and the reason.
    """
    config = AccelConfig.from_ratio(
        Ratio.parse(graph.header.ratio), ROWS, tables=needs_tables(graph), **SIZES
    )
    if needs_parts(graph, config):
        config = dataclasses.replace(config, parts=True)
    compile_all(graph, config)


def array_for(
    graph: IntGraph, board: str, ratio: Ratio | None = None, rows: int | None = None
) -> tuple[Ratio, int]:
    """Ratio and row lanes of the array that ``gateware.build`` will choose on a board for a
    network of these shapes, where it is trained for them; ``ratio`` and ``rows`` where given.

    Raises :class:`~gateware.compiler.operations.CompileError` where no array of the board runs it,
    and ValueError for an unknown board.
    """
    given = Given(ratio=ratio, rows=None if rows is None else (rows,))
    return choose.array_for(graph, boards.get(board), given)
