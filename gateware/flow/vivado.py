# SPDX-License-Identifier: Apache-2.0
"""Vivado project of an accelerator, and what Vivado said about it."""

import re
import shutil
import subprocess
from pathlib import Path

from amaranth.build.run import BuildPlan

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.arch.results import ToolError, ToolReport
from gateware.flow.verilog import AcceleratorBox
from gateware.soc.zynq7 import Zynq7Top

TOP = "top"


def build_plan(board: Board, config: AccelConfig, accelerator: str) -> BuildPlan:
    """Plan of a build for Vivado: Verilog, constraints, Tcl, a script to start it."""
    design = Zynq7Top(AcceleratorBox(config, accelerator), config.clock_hz)
    return board.platform().prepare(design, name=TOP)


def find() -> str | None:
    """Path of Vivado, if it is installed."""
    return shutil.which("vivado")


def run(folder: Path) -> ToolReport:
    """Synthesis, placement and routing of the plan extracted to ``folder``; returns the report.

    Raises ToolError for a failure or a missed clock.
    """
    log = folder / f"{TOP}.log"
    done = subprocess.run(
        ["sh", f"build_{TOP}.sh"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        (folder / "build.out").write_text(done.stdout + done.stderr)
        raise ToolError(
            f"Vivado failed with exit status {done.returncode}; see {log} and "
            f"{folder / 'build.out'}"
        )
    report = read_report(folder)
    slack = report.slack_ns
    if slack is not None and slack < 0:
        raise ToolError(
            f"timing is missed by {-slack:.3f} ns (worst negative slack "
            f"{slack:.3f} ns); lower --clock-mhz, see {folder / f'{TOP}_timing.rpt'}"
        )
    return report


def read_report(folder: Path) -> ToolReport:
    """Report of Vivado in ``folder``: cells after placement, and worst negative slack in ns.

    Raises ToolError when a file is missing or says nothing.
    """
    try:
        used = (folder / f"{TOP}_utilization_place.rpt").read_text()
        timing = (folder / f"{TOP}_timing.rpt").read_text()
    except FileNotFoundError as error:
        raise ToolError(f"Vivado left no {Path(error.filename).name} in {folder}") from error

    def cells(name: str) -> float:
        row = re.search(rf"^\|\s*{name}\s*\|\s*([\d.]+)\s*\|", used, re.MULTILINE)
        if row is None:
            raise ToolError(f"{folder / f'{TOP}_utilization_place.rpt'} has no line for {name}")
        return float(row[1])

    summary = re.search(r"WNS\(ns\).*?\n[\s-]*\n\s*(-?[\d.]+)", timing)
    if summary is None:
        raise ToolError(f"{folder / f'{TOP}_timing.rpt'} has no timing summary")
    resources = {
        "lut": int(cells("Slice LUTs")),
        "ff": int(cells("Slice Registers")),
        "dsp48e1": int(cells("DSPs")),
        "bram36": cells("Block RAM Tile"),
    }
    return ToolReport(resources, float(summary[1]))
