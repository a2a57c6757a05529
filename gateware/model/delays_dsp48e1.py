# SPDX-License-Identifier: Apache-2.0
"""Delays of a DSP48E1 by the registers that it uses.

A pin with its register ends there; one without reaches as far as the next register behind it: AD
after the pre-adder, M after the multiplier, P after the adder, or an output.
"""

from collections.abc import Mapping

from gateware.model.delays import Arc, CellTiming
from gateware.model.netlist import Cell

#: Pins by the register that each may have; M, AD and P have no pin.
_PINS = {
    **{pin: pin for pin in ("A", "B", "C", "D", "INMODE", "OPMODE", "ALUMODE")},
    **{pin: pin for pin in ("CARRYIN", "CARRYINSEL")},
    "ACIN": "A",
    "BCIN": "B",
}
_MULTIPLIED = ("A", "B", "D", "INMODE")
_PRE_ADDED = ("A", "D", "INMODE")


class Dsp48e1:
    """DSP48E1 of a design, whose delays depend on the registers that it uses.

    Parameters
    ----------
    ns : mapping
        ``dsp`` of :class:`~gateware.model.fabrics_xc7.Fabric`.
    cell : Cell
    """

    def __init__(self, ns: Mapping[str, float], cell: Cell) -> None:
        self._ns = ns
        self._cell = cell
        self._multiplies = cell.parameters.get("USE_MULT", "MULTIPLY") != "NONE"
        self._adds = cell.parameters.get("USE_DPORT", "FALSE") == "TRUE"
        names = {*_PINS.values(), "AD", "M", "P"}
        used = {name for name in names if cell.integer(f"{name}REG", 1)}
        if not self._multiplies:
            used -= {"M", "AD"}
        if not self._adds:
            used -= {"AD", "D"}
        self._used = used

    def timing(self) -> CellTiming:
        """Delays of the cell in ns."""
        starts, ends, through = {}, {}, []
        for port in self._cell.inputs:
            if port.startswith("CE"):
                ends[port] = self._ns["enable"]
            elif port.startswith("RST"):
                ends[port] = self._ns["reset"]
            elif port == "D" and not self._adds:
                continue
            elif port == "PCIN" or port in _PINS:
                register = _PINS.get(port, "")
                if register in self._used:
                    ends[port] = self._ns[f"{port}>{register}"]
                elif (target := self._target(register)) in self._used:
                    ends[port] = self._setup(register or port, target)
                else:
                    ns = self._setup(register or port, "P") + self._ns["through"]
                    through.append((port, ns))
        out, cascade = self._output()
        for port in self._cell.outputs if out else ():
            starts[port] = out + (cascade if port == "PCOUT" else 0.0)
        arcs = {
            port: tuple(
                Arc(source, ns + (cascade if port == "PCOUT" else 0.0)) for source, ns in through
            )
            for port in self._cell.outputs
        }
        return CellTiming(
            starts=starts,
            ends=ends,
            arcs=arcs,
            inner=max(self._inner(), default=0.0),
            clocks=frozenset({"CLK"}),
        )

    def _target(self, pin: str) -> str:
        """The next register behind the one of a pin; P where there is none, used or not."""
        if pin in _PRE_ADDED and "AD" in self._used:
            return "AD"
        return "M" if pin in _MULTIPLIED and "M" in self._used else "P"

    def _setup(self, pin: str, target: str) -> float:
        """From a pin without a register to one behind it."""
        if not self._multiplies and pin in ("A", "B"):
            return self._ns["AB>P"]
        if pin == "INMODE":  # as A, whose operands it selects
            pin = "A"
        plus = "+" if self._adds and target != "AD" and pin in _PRE_ADDED else ""
        return self._ns[f"{pin}{plus}>{target}"]

    def _inner(self) -> list[float]:
        """Ways from each register to the next."""
        ways = []
        connected = {_PINS[port] for port in self._cell.inputs if port in _PINS}
        for pin in sorted(connected & self._used):
            target = self._target(pin)
            if target not in self._used:
                continue
            if target == "P" and (ns := self._clock_to_output(pin)) is not None:
                ways.append(ns - self._ns["through"])
            else:
                ways.append(self._setup(pin, target) + self._ns["start"])
        if "AD" in self._used and "M" in self._used:
            ways.append(self._ns["A>M"] + self._ns["start"])
        if "P" in self._used and (last := self._used & {"M", "AD"}):
            ways.append(self._ns["M" if "M" in last else "AD"] - self._ns["through"])
        return ways

    def _clock_to_output(self, pin: str) -> float | None:
        """From the clock by the register of a pin to P without registers between, if known."""
        if not self._multiplies and pin in ("A", "B"):
            return self._ns["AB"]
        plus = "+" if self._adds and pin in _PRE_ADDED else ""
        return self._ns.get(f"{pin}{plus}")

    def _output(self) -> tuple[float, float]:
        """From the clock to P, by the last register on the longest way, and what PCOUT takes more;
        0 where no register is on a way."""
        if "P" in self._used:
            return self._ns["P"], self._ns["pcout_register"]
        last = [self._ns[name] for name in ("M", "AD") if name in self._used][:1]
        if not last:
            pins = self._used & {"A", "B"}
            last = [ns for pin in pins if (ns := self._clock_to_output(pin)) is not None]
        elif "M" not in self._used and "B" in self._used:
            last.append(self._ns["B"])
        if "C" in self._used:
            last.append(self._ns["C"])
        return max(last, default=0.0), self._ns["pcout"]
