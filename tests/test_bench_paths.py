# SPDX-License-Identifier: Apache-2.0
"""The bench of longest paths: its reports, its bounds, and its model beside routed designs."""

import json
import math
import re
from pathlib import Path

import pytest

from bench import paths, paths_ecp5
from gateware.flow.verilog import accelerator_verilog
from gateware.model.netlist import JoinedNetlist
from gateware.pe.series7 import Series7
from ir.cli import UserError
from tests.helpers.netlists import Module

RECORDED = paths.kept()


def two_units(luts: int) -> JoinedNetlist:
    """``queue.head`` through some LUTs to ``storer.busy``."""
    storer = Module("gateware/rtl/storer.py:68")
    (clock,) = storer.port("C", "input", storer.bits())
    (net,) = storer.port("D", "input", storer.bits())
    for i in range(luts):
        (after,) = storer.bits()
        storer.cell("LUT6", f"lut{i}", I0=[net], O=[after])
        net = after
    q = storer.name("busy", storer.bits(), "gateware/rtl/storer.py:70")
    storer.cell("FDRE", "ff", C=[clock], D=[net], Q=q)
    queue = Module("gateware/rtl/control.py:156")
    (clock,) = queue.port("C", "input", queue.bits())
    head = queue.port("head", "output", queue.bits())
    queue.cell("FDRE", "ff", C=[clock], D=["0"], Q=head)
    top = Module()
    clk = top.port("clk", "input", top.bits())
    wire = top.bits()
    top.cell("queue", "queue", C=clk, head=wire)
    top.cell("storer", "storer", C=clk, D=wire)
    modules = {"queue": queue.json, "storer": storer.json, "accelerator": top.json}
    return JoinedNetlist({"modules": modules}, "accelerator")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Synthesis gives two LUTs between two units; results go to the file that this gives."""
    monkeypatch.setattr(paths, "synthesised", lambda design: two_units(2))
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "paths.json")
    monkeypatch.setattr(paths, "REPORT", tmp_path / "paths.md")
    return tmp_path / "paths.json"


def test_report(small: Path, capsys: pytest.CaptureFixture) -> None:
    assert paths.main(["--small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (unit,) = found["units"]
    assert unit["ns"] == round(0.456 + 0.5 + 0.124 + 0.5 + 0.124 + 0.07, 3) == 1.774
    assert (unit["start_unit"], unit["end_unit"], unit["levels"]) == ("queue", "storer", 2)
    assert unit["start"] == "queue.head" and unit["end_source"] == "gateware/rtl/storer.py:70"
    clocks = found["clock"]["xc7z020clg484-1"]
    assert clocks["1"] == {"ns": 1.77, "mhz": 563.7, "with_margin_mhz": 490.2}
    assert clocks["2"]["ns"] == round(0.85 * 1.774, 2)
    assert paths.main(["--small"]) == 0
    said = capsys.readouterr().out
    assert "| XC7Z020 | -1 * | 1.77 ns | 563.7 MHz | 490.2 MHz |" in said
    assert "| storer | 1.77 | 2 | 0 | 1 | `queue.head` gateware/rtl/control.py:156 |" in said


def test_detail(small: Path, capsys: pytest.CaptureFixture) -> None:
    assert paths.main(["--small", "--detail", "storer"]) == 0
    said = capsys.readouterr().out
    assert "| 0.46 | FDRE | 1 | `queue.head` |" in said and "| 1.08 | LUT6 | 1 |" in said
    with pytest.raises(UserError, match="no path ends in 'loader'; units are storer"):
        paths.main(["--small", "--detail", "loader"])


def test_check(small: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    assert paths.main(["--small", "--keep"]) == 0
    assert json.loads(small.read_text())["designs"]["small"]["units"][0]["ns"] == 1.774
    assert "## small: 2:1:1 x 8 x 2" in small.with_suffix(".md").read_text()
    assert paths.main(["--small", "--check"]) == 0
    monkeypatch.setattr(paths, "synthesised", lambda design: two_units(1))
    assert paths.main(["--small", "--check"]) == 0  # shorter
    capsys.readouterr()
    monkeypatch.setattr(paths, "synthesised", lambda design: two_units(3))
    assert paths.main(["--small", "--check"]) == 1
    assert "storer: 2.40 ns, kept 1.77 ns, from queue.head" in capsys.readouterr().err


def test_nets_with_too_many_inputs_are_found(small: Path, monkeypatch, capsys) -> None:
    paths.main(["--small", "--keep"])
    monkeypatch.setattr(paths, "MAX_PINS", 1)
    assert paths.main(["--small", "--check"]) == 0
    monkeypatch.setattr(paths, "MAX_PINS", 0)
    assert paths.main(["--small", "--check"]) == 1
    assert "queue.head: 1 inputs, 0 at most" in capsys.readouterr().err


#: Arrays of eight pixels still have nets of up to 256 inputs, in buffers.py and ram.py.
EIGHT_PIXELS = pytest.mark.xfail(reason="addresses of writes, and of the slots' first beat")
#: Its path has 5.12 ns all the same.
OF_REGISTERS = pytest.mark.xfail(reason="address of the register to read: 215 inputs")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[EIGHT_PIXELS] * (name in ("zc706", "xc7z045 RMSMP-2"))
            + [OF_REGISTERS] * (name == "zedboard"),
        )
        for name in RECORDED["designs"]
    ],
)
def test_no_kept_net_has_too_many_inputs(name: str) -> None:
    assert paths.over_pins(RECORDED["designs"][name]) == []


def test_a_unit_without_a_bound_is_found(small: Path) -> None:
    paths.main(["--small", "--keep"])
    found = json.loads(small.read_text())["designs"]["small"]
    assert paths.longer(found, {"units": []}) == ["storer: 1.77 ns, and no bound is kept"]


def test_kept_report(capsys: pytest.CaptureFixture) -> None:
    assert paths.main(["--report"]) == 0
    assert capsys.readouterr().out == paths.REPORT.read_text()
    assert set(RECORDED["designs"]) >= {"small", "default", "zedboard", "zc706"}


@pytest.mark.parametrize("name", ["zedboard", "zc706"])
def test_kept_arrays_are_those_of_the_boards(name: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # without arrays of the user's own
    paths._bounds(paths.design_of_board(name))


def test_model_of_ecp5_is_near_what_was_routed() -> None:
    rows = RECORDED["ecp5"]
    known = {row["name"]: row["mhz"] for row in json.loads(paths_ecp5.ROUTED.read_text())}
    assert len(rows) >= 5
    for row in rows:
        error = 100 * (row["predicted_mhz"] / known[row["name"]] - 1)
        assert math.isclose(error, row["error_percent"], abs_tol=0.15)
        assert abs(error) <= 15
    others = RECORDED["ecp5_held_out"]
    assert [row["name"] for row in others[:-1]] == list(paths_ecp5.HELD_OUT)
    assert math.isclose(others[-1]["routed_mhz"], paths_ecp5.bitstream_mhz(), abs_tol=0.1)
    assert max(abs(row["error_percent"]) for row in others) <= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Pot4Engine", "Fixed8Engine"])
def test_ecp5_predictions_are_as_kept(name: str) -> None:
    (row,) = paths_ecp5.routed(name)
    assert row in RECORDED["ecp5"]


@pytest.mark.slow
def test_no_path_of_the_small_array_became_longer(capsys: pytest.CaptureFixture) -> None:
    assert paths.main(["--small", "--check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lines = [unit["start_source"] for unit in found["units"] if unit["start_unit"] != "ports"]
    assert all(line.startswith("gateware/") for line in lines)


@pytest.mark.slow
def test_lines_of_source_change_nothing_else() -> None:
    plain = accelerator_verilog(paths.SMALL, Series7())
    told = accelerator_verilog(paths.SMALL, Series7(sources=True))
    assert "src = " not in plain and "gateware/rtl/control.py" in told

    def bare(text: str) -> list[str]:
        return re.sub(r"\(\*.*?\*\)", "", text).split()

    assert bare(told) == bare(plain)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--board", "ulx3s_85f"], r"no answer for|has no 7-series device"),
        (["--board", "zedbord"], "no board is called 'zedbord'"),
        (["nowhere"], "nowhere is no build folder"),
        (["nowhere", "--small"], "leave out the other options"),
        (["--small", "--check"], r"cannot be read|no paths of small are kept"),
    ],
)
def test_wrong_arguments(small: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        paths.main(arguments)


def test_bounds_of_another_array_are_refused(small: Path, monkeypatch) -> None:
    paths.main(["--small", "--keep"])
    monkeypatch.setattr(paths, "SMALL", paths.synthesis.DESIGNS["default"][1])
    with pytest.raises(UserError, match="the kept paths of small are of another array"):
        paths.main(["--small", "--check"])


def test_a_build_folder(small: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "config.json").write_text(paths.SMALL.to_json())
    (tmp_path / "accelerator.json").write_text(json.dumps({"board": "zc706"}))
    (tmp_path / "accelerator.v").write_text("")
    assert paths.main([str(tmp_path)]) == 0
    assert "| XC7Z045 | -2 * | 1.10 ns |" in capsys.readouterr().out
