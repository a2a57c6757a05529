# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The models of 7-series primitives that simulations use equal the library of Yosys, as far as the
accelerator uses the primitives: for all inputs.

Mirrors no module: it is about sim/backend/series7.v.
"""

import random
import re
from pathlib import Path

import pytest
from amaranth.lib import wiring

from gateware.pe.dsp48 import DspAccumulator, DspMac, Head
from gateware.pe.series7 import Series7, to_verilog
from sim.backend.harness import SERIES7_MODELS
from sim.formal.smt import ProofFailed, check

MODELS = SERIES7_MODELS.read_text()
_COMBINATIONAL = """
module proof (input clk, input [9:0] i);
  wire [7:0] one, other;
  {primitive} #({parameters}) original ({ports});
  model_{primitive} #({parameters}) model ({model_ports});
  always @* assert (one[{top}:0] == other[{top}:0]);
endmodule
"""
PORTS = {
    "LUT6": (1, ".O({0}[0]), .I0(i[0]), .I1(i[1]), .I2(i[2]), .I3(i[3]), .I4(i[4]), .I5(i[5])"),
    "LUT6_2": (
        2,
        ".O6({0}[0]), .O5({0}[1]), .I0(i[0]), .I1(i[1]), .I2(i[2]), .I3(i[3]), "
        ".I4(i[4]), .I5(i[5])",
    ),
    "CARRY4": (8, ".CO({0}[3:0]), .O({0}[7:4]), .CI(i[0]), .CYINIT(i[1]), .DI(i[5:2]), .S(i[9:6])"),
}
SLICES = {
    "product": DspMac(head=Head.PRODUCT),
    "sum": DspMac(head=Head.SUM),
    "start": DspMac(head=Head.START),
    "pre-adder": DspMac(preadd=-(8 << 20) - 8, head=Head.SUM),
    "accumulator": DspAccumulator(),
}


def models(text: str = MODELS) -> str:
    """Models under names of their own, without the check of how they are used."""
    named = re.sub(r"^module (\w+)", r"module model_\1", text, flags=re.MULTILINE)
    return re.sub(r"^  initial$.*?^    end$", "", named, flags=re.MULTILINE | re.DOTALL)


def equal(primitive: str, folder: Path, *, init: int | None = None, text: str = MODELS) -> None:
    bits, ports = PORTS[primitive]
    proof = _COMBINATIONAL.format(
        primitive=primitive,
        top=bits - 1,
        ports=ports.format("one"),
        model_ports=ports.format("other"),
        parameters="" if init is None else f".INIT(64'd{init})",
    )
    check(models(text) + proof, cycles=1, folder=folder, what=f"{primitive} is another")


@pytest.mark.parametrize("primitive", ["LUT6", "LUT6_2"])
def test_lut(primitive: str, seed: int, tmp_path: Path) -> None:
    # A wrong index is seen whatever the table holds, unless it holds the same everywhere.
    equal(primitive, tmp_path, init=random.Random(seed).getrandbits(64))


def test_carry4(tmp_path: Path) -> None:
    equal("CARRY4", tmp_path)


def test_a_wrong_model_is_found(tmp_path: Path) -> None:
    wrong = MODELS.replace("S[2] ? CO[1] : DI[2]", "S[2] ? CO[1] : DI[1]")
    with pytest.raises(ProofFailed, match="CARRY4 is another"):
        equal("CARRY4", tmp_path, text=wrong)


@pytest.mark.parametrize("name", SLICES)
def test_dsp48e1(name: str, tmp_path: Path) -> None:
    prove_slices_equal(SLICES[name], MODELS, tmp_path)


def test_a_wrong_slice_is_found(tmp_path: Path) -> None:
    wrong = MODELS.replace("ad <= d + a;", "ad <= d - a;")
    with pytest.raises(ProofFailed, match="DSP48E1 is another"):
        prove_slices_equal(SLICES["pre-adder"], wrong, tmp_path)


def prove_slices_equal(slices: wiring.Component, text: str, folder: Path) -> None:
    """Proof that both forms of a slice are equal, for as long as its pipeline and two cycles."""
    original = to_verilog(slices, "original", Series7())
    model = original.replace("module original", "module model").replace("DSP48E1", "model_DSP48E1")
    inputs, outputs = {}, {}
    for (name,), member, value in slices.signature.flatten(slices):
        (inputs if member.flow is wiring.In else outputs)[name] = len(value)
    declared = ", ".join(f"input [{bits - 1}:0] {name}" for name, bits in inputs.items())
    wires = "".join(
        f"  wire [{bits - 1}:0] {side}_{name};\n"
        for name, bits in outputs.items()
        for side in ("original", "model")
    )
    instances = "".join(
        f"  {side} {side} (.clk(clk), .rst(1'b0), "
        + ", ".join(
            [f".{name}({name})" for name in inputs]
            + [f".{name}({side}_{name})" for name in outputs]
        )
        + ");\n"
        for side in ("original", "model")
    )
    asserts = "".join(
        f"  always @* assert (original_{name} == model_{name});\n" for name in outputs
    )
    proof = f"module proof (input clk, {declared});\n{wires}{instances}{asserts}endmodule\n"
    check(
        original + model + models(text) + proof, cycles=7, folder=folder, what="DSP48E1 is another"
    )
