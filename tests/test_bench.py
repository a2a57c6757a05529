# SPDX-License-Identifier: Apache-2.0
"""The synthesis bench, on a design whose cells can be counted by hand."""

from pathlib import Path

import pytest

from bench import synthesis
from gateware import estimate
from gateware.config import AccelConfig
from quant.cli import UserError
from quant.ratio import Ratio

MULTIPLIER = """
module accelerator(input clk, input signed [17:0] a, input signed [17:0] b,
                   output reg signed [35:0] p, output reg [4:0] q);
  always @(posedge clk) begin p <= a * b; q <= q ^ a[4:0]; end
endmodule
"""


def test_cells_of_a_known_design(tmp_path: Path) -> None:
    (tmp_path / "accelerator.v").write_text(MULTIPLIER)
    cells = synthesis.synthesise(tmp_path)
    assert cells["DSP48E1"] == 1
    assert cells["FDRE"] == 5
    assert cells["LUT2"] == 5


def test_estimates_are_held_against_cells() -> None:
    config = AccelConfig.from_ratio(Ratio(65, 30, 5), 16)
    guess = estimate.resources(config)
    table = synthesis.compare(
        {"LUT6": 1000, "LUT1": 1, "SRL16E": 2, "SRLC32E": 3, "RAM64M": 4, "FDRE": 7, "FDSE": 1,
         "DSP48E1": guess.dsp48e1, "RAMB36E1": 1, "RAMB18E1": 3} | dict.fromkeys(
             ("LUT2", "LUT3", "LUT4", "LUT5", "RAM32M"), 0), config)
    assert table["lut"]["measured"] == 1000 + 1 + 2 + 3 + 16
    assert table["ff"]["measured"] == 8
    assert table["bram36"]["measured"] == 2.5
    assert table["dsp48e1"]["error_percent"] == 0
    assert table["dsp48e1"]["estimated"] == guess.dsp48e1


def test_without_a_build(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gateware\.build"):
        synthesis.synthesise(tmp_path)


def test_broken_verilog(tmp_path: Path) -> None:
    (tmp_path / "accelerator.v").write_text("module accelerator(")
    with pytest.raises(UserError, match="Yosys failed"):
        synthesis.synthesise(tmp_path)
