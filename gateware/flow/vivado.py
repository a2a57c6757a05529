# SPDX-License-Identifier: Apache-2.0
"""Vivado project of an accelerator, and a run of Vivado on it."""

import shutil
import subprocess
from pathlib import Path

from amaranth.build.run import BuildPlan

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.arch.results import ToolError, ToolReport
from gateware.flow import vivado_reports
from gateware.flow.verilog import AcceleratorBox
from gateware.soc.zynq7 import Zynq7Top

TOP = "top"
IMPLEMENT = Path(__file__).with_name("implement.tcl")
#: Steps of Amaranth's script that :data:`IMPLEMENT` takes the place of.
STEPS = ("opt_design", "place_design", "route_design", "phys_opt_design")


def build_plan(board: Board, config: AccelConfig, accelerator: str) -> BuildPlan:
    """Plan of a build for Vivado: Verilog, constraints, Tcl, a script to start it."""
    platform = board.platform()
    platform.add_file(IMPLEMENT.name, IMPLEMENT.read_text())
    design = Zynq7Top(AcceleratorBox(config, accelerator), config.clock_hz)
    plan = platform.prepare(design, name=TOP)
    plan.files[f"{TOP}.tcl"] = _with_attempts(plan.files[f"{TOP}.tcl"])
    return plan


def _with_attempts(script: str) -> str:
    """Amaranth's script with :data:`IMPLEMENT` instead of its own steps. Raises ToolError where it
    has others."""
    lines = script.splitlines()
    if [line for line in lines if line in STEPS] != list(STEPS):
        raise ToolError(f"Amaranth's Tcl has other steps than {', '.join(STEPS)}")
    lines[lines.index(STEPS[0])] = f"source {IMPLEMENT.name}"
    return "\n".join(line for line in lines if line not in STEPS) + "\n"


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
    report = vivado_reports.read(folder)
    if missed := _missed(report):
        for suffix in (".bit", ".bin"):
            (folder / TOP).with_suffix(suffix).unlink(missing_ok=True)
        raise ToolError(f"{missed}, see {folder / vivado_reports.TIMING}")
    return report


def _missed(report: ToolReport) -> str | None:
    """Sentence about slack that is negative, None where none is."""
    tried = f"after {len(report.attempts)} placement(s)"
    if report.slack_ns is not None and report.slack_ns < 0:
        return (
            f"timing is missed by {-report.slack_ns:.3f} ns (worst negative slack "
            f"{report.slack_ns:.3f} ns) {tried}; lower --clock-mhz"
        )
    if report.hold_slack_ns is not None and report.hold_slack_ns < 0:
        return (
            f"hold times are missed by {-report.hold_slack_ns:.3f} ns {tried}, which no clock cures"
        )
    return None
