# SPDX-License-Identifier: Apache-2.0
"""The Vivado project, and what is done with Vivado's reports; a script stands in for Vivado."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateware.arch.results import ToolError
from gateware.flow.vivado import read_report

ROOT = Path(__file__).resolve().parents[3]

UTILISATION = """
+----------------------------+-------+-------+------------+-----------+-------+
|          Site Type         |  Used | Fixed | Prohibited | Available | Util% |
+----------------------------+-------+-------+------------+-----------+-------+
| Slice LUTs                 | 21034 |     0 |          0 |    218600 |  9.62 |
| Slice Registers            | 20321 |     0 |          0 |    437200 |  4.65 |
| Block RAM Tile             |  81.5 |     0 |          0 |       545 | 14.95 |
| DSPs                       |   104 |     0 |          0 |       900 | 11.56 |
"""
TIMING = """
| Design Timing Summary
| ---------------------

    WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)
    -------      -------  ---------------------  -------------------      -------
      {slack}        0.000                      0                60000        0.021
"""
VIVADO = """#!/bin/sh
[ {status} = 0 ] || exit {status}
cat > top_utilization_place.rpt <<'X'
{utilisation}
X
cat > top_timing.rpt <<'X'
{timing}
X
"""


def write_reports(folder: Path, slack: str = "0.412") -> None:
    (folder / "top_utilization_place.rpt").write_text(UTILISATION)
    (folder / "top_timing.rpt").write_text(TIMING.format(slack=slack))


def test_reports_are_read(tmp_path: Path) -> None:
    write_reports(tmp_path)
    reports = read_report(tmp_path)
    assert reports.resources == {"lut": 21034, "ff": 20321, "dsp48e1": 104, "bram36": 81.5}
    assert reports.slack_ns == 0.412
    assert abs(reports.routed_hz(100_000_000) - 104_297_038) < 1000
    write_reports(tmp_path, "-1.250")
    assert read_report(tmp_path).slack_ns == -1.25


@pytest.mark.parametrize("name", ["top_utilization_place.rpt", "top_timing.rpt"])
def test_missing_and_empty_reports(tmp_path: Path, name: str) -> None:
    write_reports(tmp_path)
    (tmp_path / name).write_text("nothing\n")
    with pytest.raises(ToolError, match=name):
        read_report(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ToolError, match=name):
        read_report(tmp_path)


def build(tmp_path: Path, slack: str, status: int = 0) -> subprocess.CompletedProcess:
    """gateware.build with a Vivado that ends like that."""
    tools = tmp_path / "bin"
    tools.mkdir()
    vivado = tools / "vivado"
    vivado.write_text(
        VIVADO.format(status=status, utilisation=UTILISATION, timing=TIMING.format(slack=slack))
    )
    vivado.chmod(vivado.stat().st_mode | stat.S_IXUSR)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slack", "status", "words"),
    [
        ("-0.350", 0, ("timing is missed by 0.350 ns", "--clock-mhz")),
        ("0.1", 3, ("exit status 3", "build.out")),
    ],
)
def test_a_missed_clock_and_a_failure_are_loud(
    tmp_path: Path, slack: str, status: int, words: tuple
) -> None:
    done = build(tmp_path, slack, status)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr
