# SPDX-License-Identifier: Apache-2.0
"""The synthesis bench, on a design whose cells can be counted by hand, and that of training."""

import collections
import json
import sys
from pathlib import Path

import pytest

from bench import synthesis, train_step
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
    table = synthesis.compare(collections.Counter(
        {"LUT6": 1000, "LUT1": 1, "LUT6_2": 5, "SRL16E": 2, "SRLC32E": 3, "RAM64M": 4, "FDRE": 7,
         "FDSE": 1, "DSP48E1": guess.dsp48e1, "RAMB36E1": 1, "RAMB18E1": 3}), config)
    assert table["lut"]["measured"] == 1000 + 1 + 5 + 2 + 3 + 16
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


SMALL = ["--model", "tiny", "--width", "2", "--size", "8", "--batch", "2", "--steps", "1"]


def test_training_step_without_brevitas(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "brevitas", None)      # as if it were not installed
    assert train_step.main([*SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["unavailable"] == {"brevitas": "not installed"}
    assert set(result["milliseconds"]) == {"float", "ours"}
    assert min(result["milliseconds"].values()) > 0 and result["ratio"]["float"] == 1
    assert train_step.main(SMALL) == 0
    assert "not installed" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "message"), [
    (["--steps", "0"], "--steps must be at least 1, not 0"), (["--size", "2"], "too small"),
])
def test_training_step_of_nothing(option, message) -> None:
    with pytest.raises(UserError, match=message):
        train_step.main([*SMALL, *option])
