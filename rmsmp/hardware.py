# SPDX-License-Identifier: Apache-2.0
"""Steps from the integer graph to an accelerator and its proof."""

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateware import assembly
from gateware.arch.config import SIZES, AccelConfig
from gateware.explore import configure
from ir import cli
from ir.cli import UserError

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

    def __repr__(self) -> str:
        return f"<Build: {self.folder}>"


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
    search: bool = True,
    strict: bool = False,
    **sizes: int,
) -> Build:
    """Accelerator for a board with the program of a graph, in ``out``/``board``.

    What is not given of the array is found for the network and the board, in seconds to two
    minutes; the answer is kept in ``out``.

    Parameters
    ----------
    graph : path
        ``.safetensors`` file of :func:`rmsmp.export` or ``python -m quant.train``.
    board : str
        Name of a supported board, such as ``zedboard``.
    ratio, rows : optional
        Lanes of the array (default: found). Ratio ``"auto"`` is the array of ``boards/arrays``.
    clock_mhz : float, optional
        Clock asked for, in MHz (default: the board's).
    batch : int
        Images of a run, which share the weights that they load.
    bitstream : bool
        Go on to the board's tools where they are installed; takes long.
    search : bool
        False for small sizes where none are given, and the lanes that the graph was trained for: an
        array that is quick to simulate.
    strict : bool
        Refuse a graph that takes more cycles because it was trained for other lanes.
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
    assembly.check_batch(batch)
    target, network, vectors = assembly.load(board, Path(graph))
    assert network is not None
    hz = None if clock_mhz is None else round(clock_mhz * 1e6)
    folder = Path(out) / target.name
    options: dict[str, Any] = {"ratio": ratio, "rows": rows, "clock_hz": hz, **sizes}
    if search and ratio != "auto":
        config = configure.decide(target, network, configure.choices(folder), **options).config
    else:
        config = configure.configure(target, network, **options)
    report = assembly.build(
        target,
        config,
        network,
        folder,
        vectors=vectors,
        batch=batch,
        bitstream=bitstream,
        quiet=quiet,
        strict=strict,
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
