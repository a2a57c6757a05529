# SPDX-License-Identifier: Apache-2.0
"""Evidence for the clock of a build: routed, modelled from the netlist, or none."""

import dataclasses
import enum
import hashlib
import json
import re
from typing import Any

from boards import clocks
from boards.board import Board
from boards.clocks import ROUTING_MARGIN, ModelledClock
from gateware.arch.config import AccelConfig
from gateware.arch.registers import config_digest
from gateware.arch.results import ToolReport


class Basis(enum.StrEnum):
    """Source of what is known about a clock."""

    VIVADO = "routed (Vivado WNS)"
    NEXTPNR = "routed (nextpnr)"
    MODELLED = "modelled"
    ASSUMED = "assumed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """Clock of a build and the evidence for it.

    Parameters
    ----------
    asked_hz : int
        Clock asked for.
    made_hz : int
        What the board makes of it: that or the next lower one.
    basis : Basis
        Kind of evidence.
    hz : int
        Clock that times are given at first: the highest one with evidence that is not above
        ``made_hz``; ``made_hz`` where there is no evidence.
    limit_hz : float or None
        What the evidence says: the routed or modelled clock, without margin.
    """

    asked_hz: int
    made_hz: int
    basis: Basis
    hz: int
    limit_hz: float | None = None

    @property
    def contradicted(self) -> bool:
        """True where the evidence does not reach the clock asked for."""
        return self.hz < self.made_hz

    def times(self) -> list[dict[str, Any]]:
        """Clocks to give times at, evidence first: ``hz`` and ``basis`` of each."""
        found = [{"hz": self.hz, "basis": str(self.basis)}]
        if self.contradicted:
            found.append({"hz": self.made_hz, "basis": str(Basis.ASSUMED)})
        return found

    def sentence(self) -> str:
        """One line about the clock and its evidence."""
        asked = f"{mhz(self.made_hz)} MHz"
        if self.limit_hz is None:
            return f"A clock of {asked} is assumed: nothing was routed, and no netlist modelled."
        if self.basis is not Basis.MODELLED:
            return f"Routed for up to {self.limit_hz / 1e6:.2f} MHz; {asked} asked for."
        return (
            f"The model of the netlist says {self.limit_hz / 1e6:.1f} MHz, which supports "
            f"{mhz(clocks.supported(self.limit_hz))} MHz with {ROUTING_MARGIN:.0%} for routing; "
            f"{asked} asked for."
        )

    def as_dict(self) -> dict[str, Any]:
        """Entry of ``report.json``."""
        return {
            **dataclasses.asdict(self),
            "basis": str(self.basis),
            "times": self.times(),
            "sentence": self.sentence(),
        }


def mhz(hz: float) -> str:
    """MHz of a clock with up to two decimals."""
    return f"{hz / 1e6:.2f}".rstrip("0").rstrip(".")


def sizes_digest(config: AccelConfig) -> str:
    """Digest of all that a configuration says but its clock."""
    fields = config.fields()
    del fields["clock_hz"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def verilog_digest(config: AccelConfig, text: str) -> str:
    """Digest of an accelerator's Verilog without what its clock changes, the constant behind the
    register CONFIG_DIGEST, and without comments."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = text.replace(f"32'd{config_digest(config)};", "32'd0;")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def modelled(board: Board, config: AccelConfig) -> ModelledClock | None:
    """Kept model of these sizes on the device of ``board``, of whichever Verilog."""
    device, _, grade = board.device.part.rpartition("-")
    digest = sizes_digest(config)
    for known in clocks.modelled():
        same_device = device.startswith(known.device) and grade == str(known.grade)
        if same_device and known.config == digest:
            return known
    return None


def default_hz(board: Board, config: AccelConfig) -> int:
    """Clock in Hz where none is asked for: what the model of these sizes supports, else the
    board's."""
    known = _zynq7(board) and modelled(board, config)
    return clocks.supported(known.hz) if known else board.clock_hz


def evidence(board: Board, config: AccelConfig, verilog: str, measured: ToolReport | None) -> Clock:
    """Clock of a build with the best evidence that there is.

    A model counts where sizes, device and Verilog are those that it was made of.
    """
    asked = config.clock_hz
    made = clocks.next_lower(asked) if _zynq7(board) else asked
    if measured is not None and measured.slack_ns is not None:
        basis = Basis.VIVADO if _zynq7(board) else Basis.NEXTPNR
        limit = measured.routed_hz(asked)
        hz = made if measured.slack_ns >= 0 else min(made, int(limit))
        return Clock(asked_hz=asked, made_hz=made, basis=basis, hz=hz, limit_hz=limit)
    known = modelled(board, config) if _zynq7(board) else None
    if known is None or known.verilog != verilog_digest(config, verilog):
        return Clock(asked_hz=asked, made_hz=made, basis=Basis.ASSUMED, hz=made)
    return Clock(
        asked_hz=asked,
        made_hz=made,
        basis=Basis.MODELLED,
        hz=min(made, clocks.supported(known.hz)),
        limit_hz=known.hz,
    )


def remarks(board: Board, config: AccelConfig, clock: Clock) -> list[str]:
    """Lines for a user whose clock is not what it seems, often none."""
    lines = []
    if clock.made_hz < clock.asked_hz:
        lines.append(
            f"the processing system makes {mhz(clock.made_hz)} MHz instead of the "
            f"{mhz(clock.asked_hz)} MHz asked for"
        )
    if clock.basis is Basis.MODELLED and clock.limit_hz and clock.contradicted:
        lines.append(
            f"warning: {mhz(clock.made_hz)} MHz is above what the model of this netlist supports: "
            f"{clock.limit_hz / 1e6:.1f} MHz, {mhz(clock.hz)} MHz with {ROUTING_MARGIN:.0%} for "
            "routing"
        )
    if clock.basis is Basis.ASSUMED and _zynq7(board) and modelled(board, config):
        lines.append(
            f"warning: {mhz(clock.made_hz)} MHz is assumed, because the kept model is of other "
            "Verilog: python -m bench.paths BUILD models this one"
        )
    return lines


def _zynq7(board: Board) -> bool:
    return board.ps_clock_hz is not None
