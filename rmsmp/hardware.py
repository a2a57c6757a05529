# SPDX-License-Identifier: Apache-2.0
"""Steps from the integer graph to an accelerator and its proof."""

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gateware import build as builder
from gateware.arch.config import SIZES, AccelConfig
from ir import cli
from ir.board_arrays import board_array, board_files
from ir.cli import UserError
from ir.graph import IntGraph

if TYPE_CHECKING:
    from sim.verify.hybrid import HybridResult
    from sim.verify.network import NetworkResult


@dataclasses.dataclass(frozen=True)
class Build:
    """Folder of a build: Verilog, project of the board's tools, program, report.

    Parameters
    ----------
    folder : Path
        Place of the files.
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
    board : str
        Name of a supported board, such as ``zedboard``.
    ratio, rows : optional
        Lanes of the array (default: what the graph was trained for; where that is the board's
        array of ``boards/arrays``, its other sizes, too).
    clock_mhz : float, optional
        Clock asked for, in MHz (default: the board's).
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
    if unknown := sizes.keys() - SIZES.keys():
        raise UserError(f"no size is called {min(unknown)!r}; sizes are {', '.join(SIZES)}")
    if clock_mhz is not None and not math.isfinite(clock_mhz):
        raise UserError(f"a clock is a number of MHz, not {clock_mhz}")
    target, network, vectors = builder.load(board, Path(graph))
    assert network is not None
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
        vectors=vectors,
        batch=batch,
        bitstream=bitstream,
        quiet=quiet,
    )
    return Build(folder, config, report)


def simulate(
    build: Build | str | os.PathLike[str],
    *,
    images: int = 10,
    check: str | None = None,
    stall: int = 0,
    seed: int = 1,
    ddr_bytes: int | None = None,
    quiet: bool = False,
) -> "NetworkResult | HybridResult":
    """Proof of a build: its Verilog in a simulator, against PyTorch's integers, bit for bit.

    The result has ``images`` that were simulated, how many of them are ``equal``, ``cycles`` per
    image, and the first of the ``differences``. Compiling the simulator's model takes a minute or
    more, once for each accelerator.

    Parameters
    ----------
    build : Build or path
        What :func:`build` gave, or a folder of ``python -m gateware.build``.
    images : int
        Images at most, of the test vectors that the build carries.
    check : str, optional
        ``"layers"`` compares every layer's output, not the logits alone.
    stall : int
        Chance, 0 to 255 out of 256, that a channel of the bus pauses in a clock cycle; ``seed`` is
        that of the pauses.
    ddr_bytes : int, optional
        Bytes per cycle of the memory, both directions together (default: what the ports take).

    Raises
    ------
    ir.cli.UserError
        In one line, for what cannot be simulated.
    """
    run = cli.require("sim.run")  # names the extra where no simulator is installed
    from sim.verify.conditions import Conditions

    conditions = Conditions(stall=stall, seed=seed, ddr_bytes=ddr_bytes)
    return run.verify(Path(build), images=images, check=check, conditions=conditions, quiet=quiet)


def _is_for_array_of(graph: IntGraph, board: str) -> bool:
    """Whether the rows of ``graph`` were assigned for the array that suits ``board``."""
    if board not in board_files():
        return False
    array = board_array(board)
    return (graph.header.ratio, graph.header.tile_rows) == (str(array.ratio), array.rows)
