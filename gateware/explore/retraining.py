# SPDX-License-Identifier: Apache-2.0
"""Cost of an array that a network was not trained for.

A row tile is full only where each layer has rows of every scheme in the proportion of the array's
lanes. A network that was trained for other lanes takes more tiles, and so more cycles.
"""

import dataclasses
from collections.abc import Sequence

from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import Compiled, compile_all
from gateware.compiler.operations import CompileError
from gateware.explore.shapes import shape_only
from gateware.explore.space import percent
from gateware.model.estimate import layer_cycles
from ir.graph import IntGraph
from ir.ratio import Ratio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retraining:
    """Cycles of an image on an array that the network was not trained for, and what they could be.

    Parameters
    ----------
    lanes : tuple of int
        PoT-4, Fixed-4 and Fixed-8 lanes of the array.
    trained_lanes : tuple of int
        Those that the rows of the network were assigned for.
    ratio : str
        Ratio that gives the array's lanes.
    tile_rows : int
        Row lanes of the array.
    cycles : int
        Of an image, as built; estimated.
    cycles_retrained : int
        Of an image, were the network trained for the array; estimated.
    """

    lanes: tuple[int, int, int]
    trained_lanes: tuple[int, int, int]
    ratio: str
    tile_rows: int
    cycles: int
    cycles_retrained: int

    @property
    def command(self) -> str:
        """Command that trains for the array."""
        return f"python -m quant.train --ratio {self.ratio} --tile-rows {self.tile_rows}"

    def __str__(self) -> str:
        """One line for people."""
        lanes, trained = (":".join(map(str, n)) for n in (self.lanes, self.trained_lanes))
        return (
            f"the array has {lanes} lanes, the graph was trained for {trained}: {self.cycles} "
            f"cycles per image as built, {self.cycles_retrained} (estimated) if trained for the "
            f"array: {self.command}"
        )


def retraining(
    graph: IntGraph,
    config: AccelConfig,
    compiled: Sequence[Compiled],
) -> Retraining | None:
    """Saving by training ``graph`` for the lanes of ``config``.

    None where it was trained for them, where no ratio in whole percent gives them, and where its
    shapes cannot be compiled for them.
    """
    trained = Ratio.parse(graph.header.ratio).lanes(graph.header.tile_rows)
    ratio = percent(config.lanes)
    if trained == config.lanes or ratio is None:
        return None
    try:
        batch = compiled[0].program.batch
        fitting = compile_all(shape_only(graph, ratio, config.rows), config, batch)
    except CompileError:
        return None
    return Retraining(
        lanes=config.lanes,
        trained_lanes=trained,
        ratio=str(ratio),
        tile_rows=config.rows,
        cycles=sum(layer_cycles(compiled).values()),
        cycles_retrained=sum(layer_cycles(fitting).values()),
    )
