# SPDX-License-Identifier: Apache-2.0
"""Delays of ECP5 cells on netlists made by hand."""

import pytest

from gateware.model.delays_ecp5 import NET_BASE, NET_MULTIPLIER, Ecp5Delays
from gateware.model.netlist import JoinedNetlist
from gateware.model.paths import TimingGraph, TimingPath
from tests.helpers.netlists import Module


class Design(Module):
    def __init__(self) -> None:
        super().__init__()
        self.clock = self.port("clk", "input", self.bits())

    def register(self, d: list, **pins: list) -> list[int]:
        q = self.bits()
        self.cell("TRELLIS_FF", f"ff{q[0]}", CLK=self.clock, DI=d, Q=q, **pins)
        return q

    def path(self) -> TimingPath:
        path = TimingGraph(JoinedNetlist({"modules": {"top": self.json}}, "top"), Ecp5Delays())
        longest = path.longest()
        assert longest is not None
        return longest


def test_carry_chain() -> None:
    d = Design()
    lut, carry, total = d.bits(), d.bits(), d.bits()
    d.cell("LUT4", "lut", A=d.register(["0"]), Z=lut)
    d.cell("CCU2C", "low", A0=["0"], B0=lut, CIN=["0"], COUT=carry)
    d.cell("CCU2C", "high", A0=["0"], CIN=carry, S1=total)
    d.register(total)
    path = d.path()
    # Register, LUT, its net, into the chain, out of it, to the register beside it.
    assert path.ns == pytest.approx(0.525 + NET_BASE + 0.236 + NET_BASE + 0.447 + 0.443 + 0.13)
    assert (path.levels, path.carries) == (1, 2)


def test_multiplexer_of_two_luts() -> None:
    d = Design()
    lut, z = d.bits(), d.bits()
    d.cell("LUT4", "lut", A=d.register(["0"]), Z=lut)
    d.cell("PFUMX", "mux", ALUT=lut, C0=["0"], Z=z)
    d.json["cells"]["mux"]["port_directions"]["ALUT"] = "input"
    d.register(z)
    assert d.path().ns == pytest.approx(0.525 + NET_BASE + 0.236 + 0.173 + 0.13)


def test_multiplier() -> None:
    d = Design()
    p = d.bits()
    d.cell("MULT18X18D", "mul", A0=d.register(["0"]), P0=p)
    d.register(p)
    expected = 0.525 + NET_BASE + 3.927 + NET_BASE + NET_MULTIPLIER
    assert d.path().ns == pytest.approx(expected)
    d.json["cells"]["mul"]["parameters"]["REG_INPUTA_CLK"] = "CLK0"
    with pytest.raises(ValueError, match="MULT18X18D with registers at INPUTA alone are not known"):
        d.path()


def test_multiplier_with_registers() -> None:
    d = Design()
    p, z = d.bits(), d.bits()
    d.cell("MULT18X18D", "mul", A0=d.register(["0"]), CLK0=d.clock, P0=p)
    d.json["cells"]["mul"]["parameters"] |= {
        f"REG_{name}_CLK": "CLK0" for name in ("INPUTA", "INPUTB", "OUTPUT")
    }
    d.register(p)
    # From register to register inside, which takes longer than the net behind the product.
    assert d.path().ns == pytest.approx(3.86)
    d.cell("LUT4", "lut", A=p, Z=z)
    d.register(z)
    fanout = 0.12  # two pins
    expected = 0.735 + NET_BASE + fanout + NET_MULTIPLIER + 0.236 + NET_BASE
    assert d.path().ns == pytest.approx(max(3.86, expected - NET_BASE + 0.13))
