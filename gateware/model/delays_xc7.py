# SPDX-License-Identifier: Apache-2.0
"""Delays of 7-series devices before placement; the constants are :mod:`gateware.model.fabrics_xc7`.

Nets: assumed, ``base + doubling * log2(fan-out)``. Nothing is placed, so that this is the part to
doubt. A net inside a slice takes no time: LUT to the select of a carry chain, to MUXF7 and MUXF8,
from a carry chain to the next, to the one flip-flop at an output; nor do cascades of DSP48E1.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping

from gateware.model.delays import Arc, CellTiming, DelayModel, Hop
from gateware.model.delays_dsp48e1 import Dsp48e1
from gateware.model.fabrics_xc7 import Fabric
from gateware.model.netlist import Cell

_LUTRAM = re.compile(r"RAM\d+(X\d+[SD]|M)")
_RESETS = ("R", "S", "CLR", "PRE")
_SLICE_OUTPUTS = ("LUT", "MUXF", "CARRY4", "RAM32", "RAM64")


class Series7Delays(DelayModel):
    """Delays of a 7-series fabric in one of its speed grades, 1 (the slowest) to 3.

    Parameters
    ----------
    fabric : Fabric
    grade : int
    """

    def __init__(self, fabric: Fabric, grade: int) -> None:
        self._fabric = fabric
        self._factor = fabric.factors[grade]
        self.port_in = fabric.port_in * self._factor
        self.port_out = fabric.port_out * self._factor

    def key(self, cell: Cell) -> object:
        if cell.kind == "LUT6_2":
            fixed = tuple(cell.is_constant(f"I{i}") for i in range(6))
            return cell.kind, cell.integer("INIT"), fixed
        if cell.kind.startswith(("DSP", "RAMB")):
            return cell.kind, tuple(
                sorted(
                    (k, str(v))
                    for k, v in cell.parameters.items()
                    if k.endswith(("REG", "_MODE")) or k.startswith("USE_")
                )
            )
        return cell.kind

    def timing(self, cell: Cell) -> CellTiming:
        return _scaled(_timing(self._fabric, cell), self._factor)

    def net(self, hop: Hop) -> float:
        if _is_inside(hop):
            return 0.0
        fabric = self._fabric
        return self._factor * (
            fabric.net_base + fabric.net_doubling * math.log2(max(1, hop.fanout))
        )

    def is_level(self, kind: str) -> bool:
        return kind.startswith("LUT") or bool(_LUTRAM.fullmatch(kind)) or kind == "INV"

    def is_carry(self, kind: str) -> bool:
        return kind == "CARRY4"

    def is_register(self, kind: str) -> bool:
        return kind.startswith("FD")

    def is_reset(self, kind: str, port: str) -> bool:
        return self.is_register(kind) and port in _RESETS


def _is_inside(hop: Hop) -> bool:
    """A net that does not leave its slice, or its column of DSPs."""
    lut = hop.driver.startswith(("LUT", "INV"))
    if hop.sink == "CARRY4":
        return (
            (hop.input == "CI" and hop.driver == "CARRY4")
            or (hop.input == "S" and lut)
            or (hop.input == "DI" and hop.driver == "LUT6_2")
        )
    if hop.sink.startswith("MUXF") and hop.input != "S":
        return lut or hop.driver.startswith("MUXF")
    if hop.sink.startswith("FD") and hop.input == "D":
        return hop.registers == 1 and hop.driver.startswith(_SLICE_OUTPUTS)
    return hop.sink == "DSP48E1" and hop.input in ("PCIN", "ACIN", "BCIN")


def _scaled(timing: CellTiming, factor: float) -> CellTiming:
    return CellTiming(
        starts={port: ns * factor for port, ns in timing.starts.items()},
        ends={port: ns * factor for port, ns in timing.ends.items()},
        arcs={
            port: tuple(dataclasses.replace(arc, ns=arc.ns * factor) for arc in arcs)
            for port, arcs in timing.arcs.items()
        },
        inner=timing.inner * factor,
        clocks=timing.clocks,
    )


def _timing(fabric: Fabric, cell: Cell) -> CellTiming:
    kind = cell.kind
    if kind in ("VCC", "GND"):
        return CellTiming()
    if kind in ("INV", "BUF"):
        return CellTiming(arcs={"O": (Arc("I", fabric.lut),)})
    if kind == "LUT6_2":
        return _lut6_2(fabric, cell)
    if re.fullmatch(r"LUT\d", kind):
        return CellTiming(arcs={"O": tuple(Arc(port, fabric.lut) for port in cell.inputs)})
    if kind in ("MUXF7", "MUXF8"):
        data, select = (
            (fabric.muxf7, fabric.muxf7_select)
            if kind == "MUXF7"
            else (fabric.muxf8, fabric.muxf8_select)
        )
        return CellTiming(arcs={"O": (Arc("I0", data), Arc("I1", data), Arc("S", select))})
    if kind == "CARRY4":
        return _carry4(fabric)
    if re.fullmatch(r"FD[RSCP]E(_1)?", kind):
        reset = dict.fromkeys(_RESETS, fabric.ff_reset)
        return CellTiming(
            starts={"Q": fabric.ff_out},
            ends={"D": fabric.ff_setup, "CE": fabric.ff_enable, **reset},
            clocks=frozenset("C"),
        )
    if kind.startswith("SRL"):
        return CellTiming(
            starts={"Q": fabric.srl_out, "Q15": fabric.srl_out, "Q31": fabric.srl_out},
            ends={"D": fabric.srl_setup, "CE": fabric.srl_enable},
            arcs={"Q": tuple(Arc(p, fabric.lut) for p in cell.inputs if p.startswith("A"))},
            clocks=frozenset({"CLK"}),
        )
    if _LUTRAM.fullmatch(kind):
        return _lutram(fabric, cell)
    if kind in ("RAMB18E1", "RAMB36E1"):
        return _block_ram(fabric, cell)
    if kind == "DSP48E1":
        return Dsp48e1(fabric.dsp, cell).timing()
    raise ValueError(f"the delays of a {kind} are not known")


def _lut6_2(fabric: Fabric, cell: Cell) -> CellTiming:
    """Of each half the inputs that it depends on; rarely all of them."""
    init = cell.integer("INIT")
    fixed = {i: int(bit) for i in range(6) if (bit := cell.is_constant(f"I{i}")) in ("0", "1")}

    def depends(pin: int, known: Mapping[int, int]) -> bool:
        return pin not in known and any(
            (init >> at ^ init >> (at ^ 1 << pin)) & 1
            for at in range(64)
            if all(at >> i & 1 == value for i, value in known.items())
        )

    halves = {"O6": (fixed, fabric.lut), "O5": ({**fixed, 5: 0}, fabric.lut5)}
    return CellTiming(
        arcs={
            port: tuple(Arc(f"I{i}", ns) for i in range(6) if depends(i, known))
            for port, (known, ns) in halves.items()
        }
    )


@functools.cache
def _carry_arcs(rows: tuple[tuple[float, ...], ...], source: str) -> tuple[Arc, ...]:
    """Row i begins at bit i: the outputs below do not depend on it."""
    return tuple(
        Arc(source, ns, at, at + offset)
        for at, row in enumerate(rows)
        for offset, ns in enumerate(row)
        if not math.isnan(ns)
    )


def _carry4(fabric: Fabric) -> CellTiming:
    return CellTiming(
        arcs={
            to: tuple(
                arc
                for (source, output), rows in fabric.carry.items()
                if output == to
                for arc in _carry_arcs(rows, source)
            )
            for to in ("O", "CO")
        }
    )


def _lutram(fabric: Fabric, cell: Cell) -> CellTiming:
    """Written by the clock, read by the address: DOA by ADDRA, DPO by DPRA, O and SPO by A."""
    inputs, outputs = list(cell.inputs), list(cell.outputs)
    arcs = {}
    for output in outputs:
        if output.startswith("DO"):
            read = [f"ADDR{output[2:]}"]
        else:
            prefix = "DPRA" if output == "DPO" else "A"
            read = [port for port in inputs if port.startswith(prefix)]
        arcs[output] = tuple(Arc(port, fabric.lut) for port in read)
    ends = {}
    for port in inputs:
        if port == "ADDRD" or re.fullmatch(r"A\d?", port):
            ends[port] = fabric.ram_address
        elif port == "WE":
            ends[port] = fabric.ram_enable
        elif re.fullmatch(r"DI[A-H]?|D", port):
            ends[port] = fabric.ram_setup
    starts = dict.fromkeys(outputs, fabric.ram_out)
    return CellTiming(starts=starts, ends=ends, arcs=arcs, clocks=frozenset({"WCLK"}))


def _block_ram(fabric: Fabric, cell: Cell) -> CellTiming:
    simple = cell.parameters.get("RAM_MODE") == "SDP"  # both halves of a word are read by A
    starts, ends = {}, {}
    for port in cell.outputs:
        side = "A" if simple or port.startswith(("DOA", "DOPA")) else "B"
        register = cell.integer(f"DO{side}_REG")
        starts[port] = fabric.bram_out_register if register else fabric.bram_out
    setups = {
        "ADDR": fabric.bram_address,
        "WE": fabric.bram_write,
        "DI": fabric.bram_data,
        "EN": fabric.bram_enable,
        "RST": fabric.bram_enable,
        "REGCE": fabric.bram_enable,
    }
    clocks = frozenset(port for port in cell.inputs if port.startswith("CLK"))
    for port in cell.inputs:
        for prefix, ns in setups.items():
            if port.startswith(prefix):
                ends[port] = ns
    return CellTiming(starts=starts, ends=ends, clocks=clocks)
