# SPDX-License-Identifier: Apache-2.0
"""Synthesis of designs whose cells can be counted by hand, and the build that reports them."""

import collections
import json
from pathlib import Path

import pytest

import boards
from gateware import build
from gateware.arch.config import AccelConfig
from gateware.arch.results import ToolReport
from gateware.flow import target, yosys
from gateware.report.page import page
from gateware.report.summary import markdown, report
from ir.cli import UserError
from ir.ratio import Ratio

# Names as Amaranth writes them; one module is there three times, with one of its own inside.
DESIGN = """
module \\accelerator.part (input clk, input [4:0] a, output reg [4:0] q);
  always @(posedge clk) q <= q ^ a;
endmodule
module engine(input clk, input signed [17:0] a, input signed [17:0] b, output reg signed [35:0] p);
  wire [35:0] q;
  inner i(clk, a[3:0], q[3:0]);
  always @(posedge clk) p <= a * b;
endmodule
module inner(input clk, input [3:0] a, output reg [3:0] q);
  (* keep *) reg [3:0] r;
  always @(posedge clk) begin r <= a; q <= r; end
endmodule
module \\accelerator.memory (input clk, input we, input [9:0] at, input [31:0] d,
                            output reg [31:0] q);
  reg [31:0] words [1023:0];
  always @(posedge clk) begin if (we) words[at] <= d; q <= words[at]; end
endmodule
module accelerator(input clk, input signed [17:0] a, input signed [17:0] b, input we,
                   output signed [35:0] p0, p1, p2, output [4:0] q, output [31:0] r);
  engine e0(clk, a, b, p0);
  engine e1(clk, b, a, p1);
  engine e2(clk, a, a, p2);
  \\accelerator.part part(clk, a[4:0], q);
  \\accelerator.memory memory(clk, we, a[9:0], {a, b[13:0]}, r);
endmodule
"""


@pytest.fixture(scope="module")
def netlist(tmp_path_factory: pytest.TempPathFactory) -> yosys.Netlist:
    folder = tmp_path_factory.mktemp("synthesis")
    (folder / "accelerator.v").write_text(DESIGN)
    return yosys.synthesise(folder / "accelerator.v", "accelerator")


@pytest.mark.slow
def test_cells_of_a_known_design(netlist: yosys.Netlist) -> None:
    counted = yosys.summary(netlist.cells)
    assert counted["dsp48e1"] == 3
    assert counted["bram36"] == 1
    assert counted["lut"] == netlist.cells["LUT2"] == 5
    assert netlist.cells["FDRE"] == counted["ff"] == 5 + 3 * 8


def test_shared_modules_count_as_often_as_they_are_there(netlist: yosys.Netlist) -> None:
    units = {unit.name: unit for unit in netlist.units()}
    assert units["engine"].instances == 3
    assert units["engine"].cells["DSP48E1"] == 3
    assert units["engine"].cells["FDRE"] == 3 * 8  # those of the module inside
    assert "inner" not in units
    assert units["accelerator.part"].cells["LUT2"] == 5
    assert units["accelerator.memory"].cells["RAMB36E1"] == 1


def test_deep_modules_count_for_the_part_around_them() -> None:
    netlist = yosys.Netlist(
        "accelerator",
        {
            "accelerator": {"accelerator.a": 1, "LUT1": 1},
            "accelerator.a": {"accelerator.a.b$7": 1, "LUT2": 1},
            "accelerator.a.b$7": {"accelerator.a.b.c": 2, "shared": 1},
            "accelerator.a.b.c": {"LUT3": 1, "$scopeinfo": 1},
            "shared": {"LUT4": 1},
        },
    )
    assert {unit.name: dict(unit.cells) for unit in netlist.units()} == {
        "accelerator": {"LUT1": 1},
        "accelerator.a": {"LUT2": 1},
        "accelerator.a.b": {"LUT3": 2},
        "shared": {"LUT4": 1},
    }
    assert sum(netlist.cells.values()) == 5


def test_what_a_lut_is() -> None:
    counted = yosys.summary(
        collections.Counter(
            {
                "LUT6": 1000,
                "LUT1": 1,
                "LUT6_2": 5,
                "SRL16E": 2,
                "SRLC32E": 3,
                "RAM64M": 4,
                "RAM64X1D": 2,
                "FDRE": 7,
                "FDSE": 1,
                "DSP48E1": 4,
                "RAMB36E1": 1,
                "RAMB18E1": 3,
            }
        )
    )
    assert counted["lut"] == 1000 + 1 + 5 + 2 + 3 + 16 + 4
    assert (counted["ff"], counted["dsp48e1"], counted["bram36"]) == (8, 4, 2.5)
    with pytest.raises(ValueError, match="RAM512X1S"):
        yosys.summary(collections.Counter({"RAM512X1S": 1}))


def test_broken_verilog(tmp_path: Path) -> None:
    (tmp_path / "accelerator.v").write_text("module accelerator(")
    with pytest.raises(UserError, match=r"Yosys failed \(.*syntax error.*\), see"):
        yosys.synthesise(tmp_path / "accelerator.v", "accelerator")


MODULES = (
    {
        "name": "accelerator.engine.drain",
        "instances": 1,
        "lut": 12345,
        "ff": 5,
        "dsp48e1": 8,
        "bram36": 0.5,
    },
)
SYNTHESIS = [
    "-q",
    "--board",
    "zedboard",
    "--synth",
    "yosys",
    "--rows",
    "4",
    "--requant-lanes",
    "4",
    "--ratio",
    "50:25:25",
]
CELLS = {"lut": 22_000, "ff": 24_000, "dsp48e1": 57, "bram36": 82.5}


def synthesised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **cells: float) -> Path:
    """Build for the ZedBoard with ``--synth yosys``, Yosys replaced; the folder of builds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        target, "_synthesise", lambda folder: ToolReport({**CELLS, **cells}, modules=MODULES)
    )
    return tmp_path / "build" / "zedboard"


@pytest.mark.slow
def test_build_reports_measured_cells(monkeypatch, tmp_path: Path) -> None:
    folder = synthesised(monkeypatch, tmp_path)
    assert build.main(SYNTHESIS) == 0
    result = json.loads((folder / "report.json").read_text())
    assert {name: row["used"] for name, row in result["resources"].items()} == CELLS
    assert {row["how"] for row in result["resources"].values()} == {"measured"}
    assert result["modules"] == list(MODULES)
    assert result["routed_hz"] is None
    assert "accelerator.engine.drain | 1 | 12345" in (folder / "report.md").read_text()
    assert "12,345" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_measured_cells_are_held_against_the_device(monkeypatch, tmp_path: Path) -> None:
    folder = synthesised(monkeypatch, tmp_path, bram36=140.5)
    with pytest.raises(UserError, match=r"needs 140\.5 BRAM36 \(measured\), .* has 140;"):
        build.main(SYNTHESIS)
    used = json.loads((folder / "report.json").read_text())["resources"]["bram36"]
    assert used == {"used": 140.5, "limit": 140, "how": "measured"}


def test_boards_that_are_not_synthesised_alone(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="ECP5 boards are placed and routed"):
        build.main(["-q", "--board", "ulx3s_85f", "--synth", "yosys"])
    assert not list(tmp_path.iterdir())


def test_reports_without_modules_have_no_table() -> None:
    config = AccelConfig.from_ratio(Ratio(65, 30, 5), 16)
    for measured in (None, ToolReport(CELLS, 0.5)):
        document = report(boards.get("zc706"), config, None, [], measured)
        assert "By module" not in markdown(document)
        assert "By module" not in page(document)
