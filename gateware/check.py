# SPDX-License-Identifier: Apache-2.0
"""Check that an accelerator can run a network, before the network is trained for it."""

import dataclasses

from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import compile_all
from gateware.compiler.lower import needs_tables
from gateware.compiler.slices import needs_parts
from ir.board_arrays import board_array
from ir.graph import IntGraph
from ir.ratio import Ratio

#: Sizes that leave nothing to wish for, where no array is known: what remains is refused by all.
ROWS = 64
SIZES = {
    "act_depth": 1 << 16,
    "weight_depth": 1 << 15,
    "slot_depth": 1 << 12,
    "wide_depth": 1 << 12,
}


def check(graph: IntGraph, board: str | None = None) -> None:
    """Check that ``graph`` compiles, for the array of ``board`` where its rows were assigned for
    that, else for a large one of its ratio.

    Raises :class:`~gateware.compiler.operations.CompileError` naming the layer and the reason.
    """
    ratio, rows, sizes = Ratio.parse(graph.header.ratio), ROWS, SIZES
    if board is not None:
        array = board_array(board)
        if (array.ratio, array.rows) == (ratio, graph.header.tile_rows):
            rows, sizes = array.rows, array.sizes
    config = AccelConfig.from_ratio(ratio, rows, tables=needs_tables(graph), **sizes)
    if needs_parts(graph, k=config.k, weight_depth=config.weight_depth):
        config = dataclasses.replace(config, parts=True)
    compile_all(graph, config)
