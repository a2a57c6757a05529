# SPDX-License-Identifier: Apache-2.0
"""Delays of ECP5 devices of speed grade 6 before placement.

Cells: what nextpnr-ecp5 reports of them (``--report``), which are those of Project Trellis, but for
those marked as assumed. Nets: ``base + doubling * log2(fan-out)``, more from a multiplier, whose
columns are far apart; fitted to the routed designs of ``bench/results/timing.json``.
"""

import math

from gateware.model.delays import Arc, CellTiming, DelayModel, Hop
from gateware.model.netlist import Cell

NET_BASE = 0.9
NET_DOUBLING = 0.12
NET_MULTIPLIER = 1.0
LUT = 0.236
PFUMX, L6MUX = 0.173, 0.148  #: assumed
FF_OUT, FF_SETUP, FF_ENABLE, FF_RESET = 0.525, 0.0, 0.0, 0.424
CARRY_IN, CARRY_THROUGH, CARRY_SUM = 0.447, 0.071, 0.443
SUM = 0.698  #: from the lower bit of a CCU2C to the sum of the upper one, assumed
MULTIPLIER = 3.927
#: MULT18X18D with registers at its operands and its product: clock to product; setup of an operand
#: is assumed; from register to register the longer of both ways with one register alone.
MULTIPLIER_OUT, MULTIPLIER_SETUP, MULTIPLIER_INNER = 0.735, 0.2, 3.86
ALU = 2.7  #: assumed
RAM_OUT, RAM_SETUP = 5.6, 0.3  #: assumed
LUTRAM_OUT, LUTRAM_SETUP = 0.9, 0.1  #: assumed
LOCAL_NET = 0.13  #: to the flip-flop beside a LUT
_SLICE_OUTPUTS = ("LUT4", "PFUMX", "L6MUX21", "CCU2C")


class Ecp5Delays(DelayModel):
    """Delays of the ECP5 in speed grade 6.

    Parameters
    ----------
    scale : float
        Factor of the nets' delays.
    """

    port_in = port_out = 0.0

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale

    def key(self, cell: Cell) -> object:
        return cell.kind, frozenset(_registers(cell))

    def timing(self, cell: Cell) -> CellTiming:
        kind, inputs, outputs = cell.kind, list(cell.inputs), list(cell.outputs)
        if kind in ("VHI", "VLO"):
            return CellTiming()
        if kind == "TRELLIS_FF":
            return CellTiming(
                starts={"Q": FF_OUT},
                ends={"DI": FF_SETUP, "M": FF_SETUP, "CE": FF_ENABLE, "LSR": FF_RESET},
                clocks=frozenset({"CLK"}),
            )
        if kind in ("LUT4", "PFUMX", "L6MUX21"):
            ns = {"LUT4": LUT, "PFUMX": PFUMX, "L6MUX21": L6MUX}[kind]
            return CellTiming(arcs={"Z": tuple(Arc(port, ns) for port in inputs)})
        if kind == "CCU2C":
            return _CCU2C
        if kind == "MULT18X18D" and _registers(cell) == _ALL_REGISTERS:
            return CellTiming(
                starts=dict.fromkeys(outputs, MULTIPLIER_OUT),
                ends={port: MULTIPLIER_SETUP for port in inputs if port[0] in "AB"},
                inner=MULTIPLIER_INNER,
                clocks=frozenset({"CLK0"}),
            )
        if kind in ("MULT18X18D", "ALU54B"):
            return _multiplier(cell, MULTIPLIER if kind == "MULT18X18D" else ALU)
        if kind == "TRELLIS_DPR16X4":
            return CellTiming(
                starts={"DO": LUTRAM_OUT},
                ends={"DI": LUTRAM_SETUP, "WAD": LUTRAM_SETUP, "WRE": LUTRAM_SETUP},
                arcs={"DO": (Arc("RAD", LUT),)},
                clocks=frozenset({"WCK"}),
            )
        if kind in ("DP16KD", "PDPW16KD"):
            clocks = frozenset(port for port in inputs if port.startswith("CLK"))
            return CellTiming(
                starts=dict.fromkeys(outputs, RAM_OUT),
                ends={port: RAM_SETUP for port in inputs if port not in clocks},
                clocks=clocks,
            )
        raise ValueError(f"the delays of a {kind} are not known")

    def net(self, hop: Hop) -> float:
        if _is_inside(hop):
            return 0.0
        if hop.registers == 1 and hop.input == "DI" and hop.driver in _SLICE_OUTPUTS:
            return LOCAL_NET
        ns = NET_BASE + NET_DOUBLING * math.log2(max(1, hop.fanout))
        if hop.driver in ("MULT18X18D", "ALU54B"):
            ns += NET_MULTIPLIER
        return self._scale * ns

    def is_level(self, kind: str) -> bool:
        return kind in ("LUT4", "TRELLIS_DPR16X4")

    def is_carry(self, kind: str) -> bool:
        return kind == "CCU2C"

    def is_register(self, kind: str) -> bool:
        return kind == "TRELLIS_FF"

    def is_reset(self, kind: str, port: str) -> bool:
        return self.is_register(kind) and port == "LSR"


def _is_inside(hop: Hop) -> bool:
    """A net that does not leave its slice, or its carry chain."""
    if hop.sink == "CCU2C":
        return hop.input == "CIN" and hop.driver == "CCU2C"
    return (hop.sink, hop.input) in {
        ("PFUMX", "ALUT"),
        ("PFUMX", "BLUT"),
        ("L6MUX21", "D0"),
        ("L6MUX21", "D1"),
    }


_ALL_REGISTERS = {"INPUTA", "INPUTB", "OUTPUT"}


def _registers(cell: Cell) -> set[str]:
    """Registers that a multiplier uses."""
    return {
        name.removeprefix("REG_").removesuffix("_CLK")
        for name, value in cell.parameters.items()
        if name.startswith("REG_") and name.endswith("_CLK") and value != "NONE"
    }


def _multiplier(cell: Cell, ns: float) -> CellTiming:
    if used := _registers(cell):
        raise ValueError(
            f"the delays of a {cell.kind} with registers at {', '.join(sorted(used))} alone are "
            f"not known"
        )
    inputs = [port for port in cell.inputs if not port.startswith(("CLK", "CE", "RST"))]
    return CellTiming(
        arcs={port: tuple(Arc(source, ns) for source in inputs) for port in cell.outputs}
    )


def _ccu2c() -> CellTiming:
    """Two bits of a sum: A0..D0 and CIN give S0, those of both bits give S1 and COUT."""
    low, high = ([f"{letter}{bit}" for letter in "ABCD"] for bit in (0, 1))
    return CellTiming(
        arcs={
            "COUT": (*(Arc(p, CARRY_IN) for p in (*low, *high)), Arc("CIN", CARRY_THROUGH)),
            "S0": (*(Arc(p, LUT) for p in low), Arc("CIN", CARRY_SUM)),
            "S1": (
                *(Arc(p, SUM) for p in low),
                *(Arc(p, LUT) for p in high),
                Arc("CIN", CARRY_SUM),
            ),
        }
    )


_CCU2C = _ccu2c()
