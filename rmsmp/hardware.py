# SPDX-License-Identifier: Apache-2.0
"""Steps from the integer graph to an accelerator and its proof."""

import dataclasses
import os
from pathlib import Path

import boards
from gateware import build as builder
from gateware.arch.config import AccelConfig
from ir.board_arrays import board_array, board_files
from ir.graph import IntGraph
from ir.vectors import find


@dataclasses.dataclass(frozen=True)
class Build:
    """Folder of a build: Verilog, project of the board's tools, program, report.

    Parameters
    ----------
    folder : Path
    config : AccelConfig
        Sizes of the accelerator.
    report : dict
        Content of ``report.json``: resources, cycles per layer, and where each figure is from.
    """

    folder: Path
    config: AccelConfig
    report: dict[str, object]

    def __fspath__(self) -> str:
        return str(self.folder)


def build(
    graph: str | os.PathLike[str],
    board: str,
    *,
    ratio: str | None = None,
    rows: int | None = None,
    clock_mhz: float | None = None,
    out: str | os.PathLike[str] = "build",
    batch: int = 1,
    bitstream: bool = False,
    quiet: bool = False,
    **sizes: int,
) -> Build:
    """Accelerator for a board with the program of a graph, in ``out``/``board``.

    Parameters
    ----------
    graph : path
        ``.safetensors`` file of :func:`rmsmp.export` or ``python -m quant.train``.
    ratio, rows : optional
        Lanes of the array (default: what the graph was trained for; where that is the board's
        array of ``boards/arrays``, its other sizes, too).
    clock_mhz : float, optional
        Clock asked for (default: the board's).
    batch : int
        Images of a run, which share the weights that they load.
    bitstream : bool
        Go on to the board's tools where they are installed; takes long.
    sizes : int
        Fields of :class:`gateware.arch.config.AccelConfig`, such as ``pixels=4``.

    Raises
    ------
    ir.cli.UserError
        In one line, for whatever cannot be built.
    """
    target, path = boards.get(board), Path(graph)
    network = IntGraph.load(path)
    if ratio is None and rows is None and _is_for_array_of(network, board):
        ratio = "auto"
    config = builder.configure(
        target,
        network,
        ratio=ratio,
        rows=rows,
        clock_hz=None if clock_mhz is None else round(clock_mhz * 1e6),
        **sizes,
    )
    folder = Path(out) / target.name
    report = builder.build(
        target,
        config,
        network,
        folder,
        vectors=find(path, network),
        batch=batch,
        bitstream=bitstream,
        quiet=quiet,
    )
    return Build(folder, config, report)


def _is_for_array_of(graph: IntGraph, board: str) -> bool:
    """Whether the rows of ``graph`` were assigned for the array that suits ``board``."""
    if board not in board_files():
        return False
    array = board_array(board)
    return (graph.header.ratio, graph.header.tile_rows) == (str(array.ratio), array.rows)
