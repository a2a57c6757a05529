# SPDX-License-Identifier: Apache-2.0
"""The Vivado project: its Tcl runs in an interpreter with Vivado's commands stood in for, and so
does gateware.build with a script instead of Vivado."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import boards
from gateware.arch.config import AccelConfig
from gateware.arch.results import ToolError
from gateware.flow import vivado, vivado_reports
from gateware.flow.verilog import accelerator_verilog
from gateware.pe.series7 import Series7
from tests.helpers import vivado as reports

ROOT = Path(__file__).resolve().parents[3]
CONFIG = AccelConfig(pot4_rows=2, fixed4_rows=1, fixed8_rows=1, requant_lanes=4)
VIVADO = """#!/bin/sh
[ {status} = 0 ] || exit {status}
cp {reports}/* .
touch top.bit
"""


def implemented(slacks: Sequence[tuple[float, float] | None], folder: Path) -> list[str]:
    """Commands of Vivado that implement.tcl gives when its attempts end with these slacks of setup
    and hold, or in a router that fails."""
    tkinter = pytest.importorskip("tkinter", reason="Python without Tcl")
    tcl = tkinter.Tcl()
    given, left = [], list(slacks)

    def command(name: str, arguments: tuple[str, ...]) -> str:
        given.append(" ".join((name, *arguments)))
        if name == "place_design":
            given.append(f"# attempt {len(slacks) - len(left)}")
            left.append(left.pop(0))
        slack = left[-1]
        if name == "route_design" and slack is None:
            raise RuntimeError("congestion")
        if name == "get_timing_paths":
            return arguments[1]
        if name == "get_property":
            return str(slack[0 if arguments == ("SLACK", "max") else 1])
        return ""

    for name in (
        *("opt_design", "place_design", "phys_opt_design", "route_design", "close_project"),
        *("open_checkpoint", "write_checkpoint", "get_timing_paths", "get_property"),
    ):
        tcl.createcommand(name, lambda *arguments, name=name: command(name, arguments))
    tcl.eval(f"cd {{{folder}}}")
    tcl.eval(f"source {{{vivado.IMPLEMENT}}}")
    return [line for line in given if not line.startswith(("get_", "#"))]


def test_the_first_placement_that_meets_the_clock_is_taken(tmp_path: Path) -> None:
    assert implemented([(0.1, 0.02)], tmp_path) == [
        "opt_design",
        "write_checkpoint -force top_opt.dcp",
        "close_project",
        "open_checkpoint top_opt.dcp",
        "place_design -directive Default",
        "phys_opt_design -directive Default",
        "route_design -directive Default",
        "phys_opt_design",
        "write_checkpoint -force top_best.dcp",
    ]
    assert (tmp_path / "top_attempts.rpt").read_text().splitlines()[1:] == [
        "Default Default Default 0.1 0.02"
    ]


def test_placements_are_tried_until_setup_and_hold_are_met(tmp_path: Path) -> None:
    given = implemented([(-0.5, 0.1), None, (0.2, -0.1), (0.0, 0.0), (1.0, 1.0)], tmp_path)
    assert given.count("open_checkpoint top_opt.dcp") == 4
    assert given.count("close_project") == 4  # the project, and three attempts
    assert given[-1] == "write_checkpoint -force top_best.dcp"
    found = vivado_reports.attempts((tmp_path / "top_attempts.rpt").read_text(), tmp_path)
    assert [attempt.slack_ns for attempt in found] == [-0.5, None, -0.1, 0.0]
    assert found[1].directives == "Explore, AggressiveExplore, Explore"


def test_the_best_placement_is_left_where_none_meets_the_clock(tmp_path: Path) -> None:
    slacks = [(-0.5, 0.1), (-0.3, 0.1), (-0.4, 0.1), (-0.9, 0.1), None, (-0.6, 0.1)]
    given = implemented(slacks, tmp_path)
    assert given.count("write_checkpoint -force top_best.dcp") == 2
    assert given[-1] == "open_checkpoint top_best.dcp"
    assert len((tmp_path / "top_attempts.rpt").read_text().splitlines()) == 1 + len(slacks)


def test_no_routed_design_is_an_error(tmp_path: Path) -> None:
    tkinter = pytest.importorskip("tkinter", reason="Python without Tcl")
    with pytest.raises(tkinter.TclError, match="no set of directives led to a routed design"):
        implemented([None] * 6, tmp_path)


def test_the_project_has_these_attempts_between_synthesis_and_reports() -> None:
    text = accelerator_verilog(CONFIG, Series7())
    plan = vivado.build_plan(boards.get("zc706"), CONFIG, text)
    lines = [line for line in plan.files["top.tcl"].splitlines() if line]
    at = lines.index("source implement.tcl")
    assert "synth_design -top top" in "\n".join(lines[:at])
    assert any(line.startswith("report_power") for line in lines[at:])
    assert any(line.startswith("write_bitstream") for line in lines[at:])
    assert not set(vivado.STEPS) & set(lines)
    implement = plan.files["implement.tcl"]
    assert implement in (vivado.IMPLEMENT.read_text(), vivado.IMPLEMENT.read_bytes())


@pytest.mark.parametrize("script", ["opt_design\n", "place_design\n" * 2 + "opt_design\n"])
def test_other_scripts_of_amaranth_are_refused(script: str) -> None:
    with pytest.raises(ToolError, match="Amaranth's Tcl has other steps"):
        vivado._with_attempts(script)


def build(
    tmp_path: Path, slack: str, status: int = 0, hold: str = "0.021"
) -> subprocess.CompletedProcess:
    """gateware.build with a Vivado that ends like that."""
    tools = tmp_path / "bin"
    tools.mkdir()
    said = tmp_path / "said"
    said.mkdir()
    reports.write(said, slack=slack, hold=hold)
    script = tools / "vivado"
    script.write_text(VIVADO.format(status=status, reports=said))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    command = [
        sys.executable,
        "-m",
        "gateware.build",
        "-q",
        "--json",
        "--board",
        "zc706",
        "--rows",
        "4",
        "--requant-lanes",
        "4",
        "--ratio",
        "50:25:25",
        "--clock-mhz",
        "100",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tools}:{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_measured_figures_replace_estimates(tmp_path: Path) -> None:
    done = build(tmp_path, "0.412")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["slack_ns"], result["routed_hz"]) == (0.412, 104297038)
    assert result["resources"]["lut"] == {"used": 21034, "limit": 218600, "how": "measured"}
    assert result["clock"]["times"] == [{"hz": 100_000_000, "basis": "routed (Vivado WNS)"}]
    routing = result["routing"]
    assert (routing["tool"], routing["tns_ns"], routing["whs_ns"]) == ("Vivado 2023.2", 0, 0.021)
    assert routing["power"]["total_w"] == 2.391
    assert [attempt["slack_ns"] for attempt in routing["attempts"]] == [-0.31, None, 0.021]
    markdown = (tmp_path / "build" / "zc706" / "report.md").read_text()
    assert "Power 2.391 W: 2.178 W dynamic, 0.213 W static (estimated by Vivado" in markdown
    assert "| Explore, AggressiveExplore, Explore | failed |" in markdown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slack", "status", "hold", "words"),
    [
        ("-0.350", 0, "0.1", ("timing is missed by 0.350 ns", "--clock-mhz", "3 placement(s)")),
        ("0.350", 0, "-0.1", ("hold times are missed by 0.100 ns", "top_timing.rpt")),
        ("0.1", 3, "0.1", ("exit status 3", "build.out")),
    ],
)
def test_a_missed_clock_and_a_failure_are_loud(
    tmp_path: Path, slack: str, status: int, hold: str, words: tuple
) -> None:
    done = build(tmp_path, slack, status, hold)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "build" / "zc706" / "vivado" / "top.bit").exists()
