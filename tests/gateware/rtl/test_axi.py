# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Signatures of AXI3 and AXI4-Lite: names in Verilog, equality, refusals."""

import pytest
from amaranth import Module
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import Axi3Signature, AxiLiteSignature


class Passthrough(wiring.Component):
    """One port of each signature, straight through."""

    def __init__(self) -> None:
        super().__init__(
            {
                "gp0": In(Axi3Signature(32, 32, 12)),
                "hp0": Out(Axi3Signature(32, 32, 12)),
                "axil": In(AxiLiteSignature(12, 32)),
                "lite": Out(AxiLiteSignature(12, 32)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        wiring.connect(m, wiring.flipped(self.gp0), wiring.flipped(self.hp0))
        wiring.connect(m, wiring.flipped(self.axil), wiring.flipped(self.lite))
        return m


def test_names_in_verilog() -> None:
    text = verilog.convert(Passthrough(), name="top")
    widths = {"awlen": 4, "arlen": 4, "awlock": 2, "wid": 12, "wstrb": 4, "rdata": 32}
    for name, width in widths.items():
        assert f" [{width - 1}:0] hp0__{name};" in text
    assert "input [11:0] axil__awaddr;" in text
    assert "output axil__awready;" in text
    assert "output [11:0] lite__awaddr;" in text


def test_signatures_compare_by_their_widths() -> None:
    assert Axi3Signature(32, 64, 6) == Axi3Signature(32, 64, 6)
    assert Axi3Signature(32, 64, 6) != Axi3Signature(32, 64, 12)
    assert AxiLiteSignature(12, 32) == AxiLiteSignature(12, 32)
    assert AxiLiteSignature(12, 32) != AxiLiteSignature(13, 32)
    assert AxiLiteSignature(12, 32) != Axi3Signature(12, 32, 6)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: AxiLiteSignature(0, 32), r"addr_bits must be an integer in 1\.\.64, not 0"),
        (lambda: AxiLiteSignature(12, 16), "data_bits must be 32 or 64, not 16"),
        (lambda: Axi3Signature(11, 64, 6), r"addr_bits must be an integer in 12\.\.64, not 11"),
        (lambda: Axi3Signature(32, 128, 6), "data_bits must be 32 or 64, not 128"),
        (lambda: Axi3Signature(32, 64, 0), r"id_bits must be an integer in 1\.\.16, not 0"),
    ],
)
def test_init_wrong(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
