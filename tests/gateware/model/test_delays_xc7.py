# SPDX-License-Identifier: Apache-2.0
"""Delays of 7-series cells on netlists made by hand: sums of the constants, by hand."""

import math

import pytest

from gateware.model.delays_xc7 import Series7Delays
from gateware.model.fabrics_xc7 import ARTIX, KINTEX, fabric_of
from gateware.model.netlist import JoinedNetlist
from gateware.model.paths import TimingGraph, TimingPath
from tests.helpers.netlists import Module

OUT, SETUP, NET, LUT = 0.456, 0.070, 0.5, 0.124  # Artix -1


class Design(Module):
    def __init__(self) -> None:
        super().__init__()
        self.clock = self.port("clk", "input", self.bits())

    def register(self, d: list, **pins: list) -> list[int]:
        q = self.bits()
        self.cell("FDRE", f"ff{q[0]}", C=self.clock, D=d, Q=q, **pins)
        return q

    def path(self, grade: int = 1, fabric=ARTIX) -> TimingPath:
        netlist = JoinedNetlist({"modules": {"top": self.json}}, "top")
        path = TimingGraph(netlist, Series7Delays(fabric, grade)).longest()
        assert path is not None
        return path

    def ns(self, grade: int = 1, fabric=ARTIX) -> float:
        return round(self.path(grade, fabric).ns, 6)


def one_lut() -> Design:
    """Register, LUT6, register."""
    d = Design()
    o = d.bits()
    d.cell("LUT6", "lut", I0=d.register(["0"]), I5=["1"], O=o)
    d.register(o)
    return d


def test_register_lut_register() -> None:
    d = one_lut()
    assert d.ns() == round(OUT + NET + LUT + SETUP, 6)  # the register is beside the LUT
    assert d.ns(2) == round(0.85 * d.ns(), 6) and d.ns(3) == round(0.76 * d.ns(), 6)
    assert d.ns(2, KINTEX) == round(0.223 + 0.38 + 0.043 + 0.030, 6)
    assert d.ns(1, KINTEX) == round(1.18 * d.ns(2, KINTEX), 6)
    assert (d.path().levels, d.path().carries) == (1, 0)


def test_a_lut_of_two_registers_is_beside_neither() -> None:
    d = one_lut()
    d.register(d.json["cells"]["lut"]["connections"]["O"])
    assert d.ns() == round(OUT + NET + LUT + NET + 0.12 + SETUP, 6)


@pytest.mark.parametrize("fanout", [1, 2, 16, 100])
def test_net_by_fanout(fanout: int) -> None:
    d = Design()
    q = d.register(["0"])
    for _ in range(fanout):
        d.register(q)
    assert d.ns() == round(OUT + NET + 0.12 * math.log2(fanout) + SETUP, 6)


def test_enable_and_reset() -> None:
    d = Design()
    d.register(["0"], CE=d.register(["0"]))
    assert d.ns() == round(OUT + NET + 0.205, 6)
    d.register(["0"], R=d.register(["0"]))
    assert d.ns() == round(OUT + NET + 0.429, 6)


def test_carry_chain() -> None:
    d = Design()
    lut, carry, total = d.bits(), d.bits(4), d.bits(4)
    zeros = ["0"] * 4
    d.cell("LUT2", "lut", I0=d.register(["0"]), I1=["0"], O=lut)
    d.cell("CARRY4", "low", S=lut + ["0"] * 3, DI=zeros, CI=["0"], CYINIT=["0"], CO=carry)
    d.cell("CARRY4", "high", S=zeros, DI=zeros, CI=[carry[3]], CYINIT=["0"], O=total)
    d.register([total[1]])
    # No net up to the chain, in it, and behind it; S0 to CO3, CI to O1.
    assert d.ns() == round(OUT + NET + LUT + 0.508 + 0.334 + SETUP, 6)
    assert (d.path().levels, d.path().carries) == (1, 2)


def test_a_bit_of_a_carry_chain_does_not_depend_on_those_above() -> None:
    d = Design()
    total = d.bits(4)
    late = d.register(["0"])
    d.cell("CARRY4", "sum", S=["0"] * 3 + late, DI=["0"] * 4, CI=["0"], O=total)
    netlist = JoinedNetlist({"modules": {"top": d.json}}, "top")
    d.register([total[0]])
    assert TimingGraph(netlist, Series7Delays(ARTIX, 1)).longest() is None
    d.register([total[3]])
    assert d.ns() == round(OUT + NET + 0.227 + SETUP, 6)


def test_multiplexers() -> None:
    d = Design()
    low, seven, eight = d.bits(), d.bits(), d.bits()
    d.cell("LUT6", "lut", I0=d.register(["0"]), O=low)
    d.cell("MUXF7", "seven", I0=low, I1=["0"], S=["0"], O=seven)
    d.cell("MUXF8", "eight", I0=seven, I1=["0"], S=["0"], O=eight)
    d.register(eight)
    assert d.ns() == round(OUT + NET + LUT + 0.223 + 0.104 + SETUP, 6)
    d.json["cells"]["seven"]["connections"].update(I0=["0"], S=low)
    assert d.ns() == round(OUT + NET + LUT + NET + 0.314 + 0.104 + SETUP, 6)


@pytest.mark.parametrize(
    ("init", "i5", "output", "found"),
    [
        ("10" * 32, "1", "O6", False),  # I0 is not at the path's pin: O6 = not I0
        ("1100" * 16, "1", "O6", True),  # not I1
        ("1100" * 8 + "10" * 16, "1", "O6", True),
        ("1100" * 8 + "10" * 16, "1", "O5", False),  # the lower half is not I0
        ("1100" * 8 + "10" * 16, "0", "O6", False),
    ],
)
def test_a_half_of_a_lut_depends_on_what_its_table_says(init, i5, output, found) -> None:
    d = Design()
    o = d.bits()
    pins = {"I0": ["0"], "I1": d.register(["0"]), "I5": [i5], output: o}
    d.cell("LUT6_2", "lut", {"INIT": init}, **pins)
    d.register(o)
    netlist = JoinedNetlist({"modules": {"top": d.json}}, "top")
    assert (TimingGraph(netlist, Series7Delays(ARTIX, 1)).longest() is not None) is found


def test_memories_of_luts() -> None:
    d = Design()
    o = d.bits()
    d.cell("RAM32M", "ram", WCLK=d.clock, ADDRA=d.register(["0"]), DOA=o)
    d.register(o)
    # The content changes with the clock, and that is later than the address.
    assert d.ns() == round(1.314 + SETUP, 6)
    write = Design()
    write.cell("RAM32M", "ram", WCLK=write.clock, WE=write.register(["0"]))
    assert write.ns() == round(OUT + NET + 0.654, 6)
    shift = Design()
    o = shift.bits()
    shift.cell("SRL16E", "srl", CLK=shift.clock, D=["0"], Q=o)
    shift.register(o)
    assert shift.ns() == round(1.605 + NET + SETUP, 6)


@pytest.mark.parametrize(
    ("parameters", "port", "ns"),
    [
        ({}, "DOADO", 2.454),
        ({"DOA_REG": "1"}, "DOADO", 0.882),
        ({"DOA_REG": "1"}, "DOBDO", 2.454),
        ({"DOA_REG": "1", "RAM_MODE": "SDP"}, "DOBDO", 0.882),
    ],
)
def test_block_ram(parameters: dict, port: str, ns: float) -> None:
    d = Design()
    o = d.bits()
    d.cell("RAMB36E1", "ram", parameters, CLKARDCLK=d.clock, **{port: o})
    d.register(o)
    assert d.ns() == round(ns + NET + SETUP, 6)


def test_block_ram_inputs() -> None:
    d = Design()
    d.cell("RAMB18E1", "ram", CLKARDCLK=d.clock, ADDRARDADDR=d.register(["0"]))
    assert d.ns() == round(OUT + NET + 0.566, 6)
    enable = Design()
    enable.cell("RAMB18E1", "ram", CLKARDCLK=enable.clock, ENARDEN=enable.register(["0"]))
    assert enable.ns() == round(OUT + NET + 0.443, 6)


DSP_NONE = {f"{name}REG": "0" for name in ("A", "B", "C", "D", "AD", "M", "P")}


@pytest.mark.parametrize(
    ("registers", "pin", "setup", "within"),
    [
        ("A", "A", 0.362, 0),
        ("AM", "A", 0.362, 1.928 + 0.168),
        ("AMP", "A", 0.362, 2.305 - 0.119),
        ("AP", "A", 0.362, 4.009 - 0.119),
        ("BP", "B", 0.450, 3.813 - 0.119),
        ("MP", "A", 1.928, 0),
        ("MP", "B", 1.743, 0),
        ("P", "B", 3.536, 0),
        ("P", "C", 1.701, 0),
        ("CP", "C", 0.233, 2.291 - 0.119),
    ],
)
def test_dsp_inputs(registers: str, pin: str, setup: float, within: float) -> None:
    """Up to the first register; the longest way may be from there to the next."""
    d = Design()
    parameters = DSP_NONE | {f"{name}REG": "1" for name in registers}
    d.cell("DSP48E1", "dsp", parameters, CLK=d.clock, **{pin: d.register(["0"])})
    assert d.ns() == round(max(OUT + NET + setup, within), 6)


def test_dsp_pre_adder() -> None:
    d = Design()
    parameters = DSP_NONE | {"MREG": "1", "PREG": "1", "USE_DPORT": "TRUE"}
    d.cell("DSP48E1", "dsp", parameters, CLK=d.clock, D=d.register(["0"]))
    assert d.ns() == round(OUT + NET + 3.158, 6)
    d.json["cells"]["dsp"]["parameters"]["ADREG"] = "1"
    assert d.ns() == round(OUT + NET + 1.626, 6)
    d.json["cells"]["dsp"]["parameters"]["DREG"] = "1"
    # Now the longest way is within: the register of the sum to that of the product, 1.928 + 0.168;
    # from that one to P it is 2.305 - 0.119.
    assert d.ns() == round(2.305 - 0.119, 6)


@pytest.mark.parametrize(
    ("registers", "ns"), [("P", 0.434), ("M", 2.305), ("A", 4.009), ("C", 2.291), ("AMP", 0.434)]
)
def test_dsp_outputs(registers: str, ns: float) -> None:
    d = Design()
    p = d.bits()
    parameters = DSP_NONE | {f"{name}REG": "1" for name in registers}
    d.cell("DSP48E1", "dsp", parameters, CLK=d.clock, P=p)
    d.register(p)
    assert d.ns() == round(max(ns + NET + SETUP, 2.305 - 0.119 if registers == "AMP" else 0), 6)


def test_dsp_without_registers_and_its_cascade() -> None:
    d = Design()
    p, sum_ = d.bits(), d.bits()
    d.cell("DSP48E1", "first", DSP_NONE, CLK=d.clock, B=d.register(["0"]), PCOUT=p)
    d.cell("DSP48E1", "second", DSP_NONE | {"PREG": "1"}, CLK=d.clock, PCIN=p, P=sum_)
    assert d.ns() == round(OUT + NET + 3.536 + 0.119 + 0.195 + 1.400, 6)


def test_fabric_of_a_part() -> None:
    assert fabric_of("xc7z020clg484-1") is ARTIX and fabric_of("xc7z010clg400-1") is ARTIX
    assert fabric_of("xc7z045ffg900-2") is KINTEX


def test_an_unknown_cell_is_refused() -> None:
    d = Design()
    d.cell("LATCH", "latch", D=["0"])
    with pytest.raises(ValueError, match="the delays of a LATCH are not known"):
        d.path()
