# SPDX-License-Identifier: Apache-2.0
"""Static timing analysis of a netlist that is not placed: arrival times and the longest paths.

One clock. A path begins at a register or at an input of the design, and ends at one or at an
output. What no clock starts, a constant, has no arrival.
"""

import collections
import dataclasses
import functools
import heapq
import re
from collections.abc import Iterable, Iterator

from gateware.model.delays import Arc, CellTiming, DelayModel, Hop
from gateware.model.netlist import NONE, Cell, JoinedNetlist, Name

UNIT_DEPTH = 2  #: names of the path of a cell that make its unit
TOP_UNIT = "top"
PORTS = "ports"


@dataclasses.dataclass(frozen=True, slots=True)
class PathPoint:
    """Cell on a path, and when its output arrives.

    net : name of the net that it drives
    fanout : inputs at that net
    ns : from the clock at the path's start to the output
    """

    kind: str
    net: str
    fanout: int
    ns: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TimingPath:
    """Longest path to one endpoint.

    ns : from the clock at its start to the clock at its end, setup included
    levels, carries : LUTs and cells of carry chains on it
    fanout : the largest of its nets
    start, end : names; the lines of Amaranth that these registers come from
    """

    ns: float
    levels: int
    carries: int
    fanout: int
    start_unit: str
    start: str
    start_source: str
    end_unit: str
    end: str
    end_source: str
    points: tuple[PathPoint, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Driver:
    cell: Cell
    port: str
    bit: int


@dataclasses.dataclass(frozen=True, slots=True)
class _End:
    """Where a path ends: an input of a register, an output of the design (no cell), or all of it
    within a cell (no net)."""

    net: int
    port: str
    cell: Cell | None
    setup: float


class CombinationalLoop(ValueError):
    """Loop of logic that feeds itself without a register and so has no arrival time."""


class TimingGraph:
    """Arrival times of all nets of a netlist, in ns from the clock.

    Parameters
    ----------
    netlist : JoinedNetlist
    model : DelayModel

    Raises
    ------
    CombinationalLoop
        For logic that feeds itself without a register.
    ValueError
        For a kind of cell that the model does not know.
    """

    def __init__(self, netlist: JoinedNetlist, model: DelayModel) -> None:
        self._netlist = netlist
        self._model = model
        self._timings: dict[object, CellTiming] = {}
        self._drivers: dict[int, _Driver] = {}
        self._ends: list[_End] = []
        self._fanout: collections.Counter[int] = collections.Counter()
        self._registers: collections.Counter[int] = collections.Counter()
        self._resets: collections.Counter[int] = collections.Counter()
        self._clocks: set[int] = set()
        self._inputs: dict[int, str] = {}
        for cell in netlist.cells:
            self._add(cell)
        self._add_ports()
        self._arrival: dict[int, float | None] = {}
        self._before: dict[int, int] = {}
        for net in self._drivers:
            self._arrive(net)

    def _timing(self, cell: Cell) -> CellTiming:
        key = self._model.key(cell)
        if key not in self._timings:
            self._timings[key] = self._model.timing(cell)
        return self._timings[key]

    def _add(self, cell: Cell) -> None:
        timing = self._timing(cell)
        register = self._model.is_register(cell.kind)
        for port in cell.outputs:
            for bit, net in enumerate(cell.pins(port)):
                if net != NONE:
                    self._drivers[net] = _Driver(cell, port, bit)
        for port in cell.inputs:
            pins = [net for net in cell.pins(port) if net != NONE]
            if port in timing.clocks:
                self._clocks.update(pins)
                continue
            self._fanout.update(pins)
            if register and port in ("D", "DI"):
                self._registers.update(pins)
            if self._model.is_reset(cell.kind, port):
                self._resets.update(pins)
            if port in timing.ends:
                self._ends += [_End(net, port, cell, timing.ends[port]) for net in pins]
        if timing.inner:
            self._ends.append(_End(NONE, "", cell, timing.inner))

    def _add_ports(self) -> None:
        for port in self._netlist.ports:
            if port.direction == "input" and port.net not in self._clocks:
                self._inputs[port.net] = port.name
            elif port.direction == "output":
                self._fanout[port.net] += 1
                self._ends.append(_End(port.net, port.name, None, self._model.port_out))

    def _hop(self, net: int, sink: str, port: str) -> Hop:
        driver = self._drivers.get(net)
        return Hop(
            driver=driver.cell.kind if driver else PORTS,
            output=driver.port if driver else "",
            sink=sink,
            input=port,
            fanout=self._fanout[net],
            registers=self._registers[net],
        )

    def _sources(self, net: int) -> Iterator[tuple[int, Arc]]:
        """Nets that reach ``net`` through the cell that drives it."""
        driver = self._drivers.get(net)
        if driver is None:
            return
        cell = driver.cell
        for arc in self._timing(cell).arcs.get(driver.port, ()):
            if arc.bit is not None and arc.bit != driver.bit:
                continue
            for bit, source in enumerate(cell.pins(arc.source)):
                if source != NONE and arc.source_bit in (None, bit):
                    yield source, arc

    def _start(self, net: int) -> float | None:
        if net in self._inputs:
            return self._model.port_in
        driver = self._drivers.get(net)
        return self._timing(driver.cell).starts.get(driver.port) if driver else None

    def _arrive(self, net: int) -> float | None:
        """Arrival time of a net; depth first, without recursion: chains of logic are long."""
        stack, opened = [net], set()
        while stack:
            at = stack[-1]
            if at not in self._arrival and at not in opened:
                opened.add(at)
                missing = [i for i, _ in self._sources(at) if i not in self._arrival]
                for source in missing:
                    if source in opened:
                        raise CombinationalLoop(
                            f"a combinational loop goes through {self._name(at)}"
                        )
                stack += missing
                continue
            if at not in self._arrival:
                self._arrival[at] = self._latest(at)
            stack.pop()
        return self._arrival[net]

    def _name(self, net: int) -> str:
        names = self._names([net])
        return names[net].text if net in names else "a net without a name"

    def _names(self, nets: Iterable[int]) -> dict[int, Name]:
        return self._netlist.names(
            {net: self._drivers[net].cell.path if net in self._drivers else () for net in nets}
        )

    def _latest(self, net: int) -> float | None:
        latest = self._start(net)
        sink = self._drivers[net].cell.kind if net in self._drivers else ""
        for source, arc in self._sources(net):
            arrival = self._arrival.get(source)
            if arrival is None:
                continue
            ns = arrival + self._model.net(self._hop(source, sink, arc.source)) + arc.ns
            if latest is None or ns > latest:
                latest = ns
                self._before[net] = source
        return latest

    @functools.cached_property
    def _endpoints(self) -> list[tuple[float, _End]]:
        """Time of every endpoint."""
        found = []
        for end in self._ends:
            if end.net == NONE:
                found.append((end.setup, end))
                continue
            arrival = self._arrive(end.net)
            if arrival is not None:
                hop = self._hop(end.net, end.cell.kind if end.cell else PORTS, end.port)
                found.append((arrival + self._model.net(hop) + end.setup, end))
        return found

    def longest(self) -> TimingPath | None:
        """Longest path of the design, None for a design without one."""
        paths = self.longest_by_unit()
        return max(paths, key=lambda path: path.ns, default=None)

    def longest_by_unit(self) -> list[TimingPath]:
        """Longest path that ends in each unit, the slowest first."""
        worst: dict[str, tuple[float, _End]] = {}
        for ns, end in self._endpoints:
            name = unit(end.cell.path) if end.cell else PORTS
            if name not in worst or ns > worst[name][0]:
                worst[name] = ns, end
        ranked = sorted(worst.values(), key=lambda found: -found[0])
        return self._traced(ranked)

    def count_over(self, ns: float) -> int:
        """Number of endpoints that a path longer than ``ns`` reaches."""
        return sum(time > ns for time, _ in self._endpoints)

    @property
    def endpoints(self) -> int:
        """Number of endpoints that any path reaches."""
        return len(self._endpoints)

    def largest_nets(self, count: int, *, resets: bool = True) -> list[tuple[int, str, str]]:
        """Fan-out, name and line of source of the nets with the most inputs, clocks left out;
        without ``resets`` those that set or reset a flip-flop do not count."""
        found = heapq.nlargest(
            count,
            (
                (n if resets else n - self._resets[net], -net)
                for net, n in self._fanout.items()
                if net not in self._clocks
            ),
        )
        names = self._names(-net for _, net in found)
        return [
            (number, names[-net].text, names[-net].source) if -net in names else (number, "", "")
            for number, net in found
        ]

    def _chain(self, end: _End) -> list[int]:
        """Nets of a path from its start to its end."""
        chain = [] if end.net == NONE else [end.net]
        while chain and chain[-1] in self._before:
            chain.append(self._before[chain[-1]])
        return chain[::-1]

    def _traced(self, ranked: list[tuple[float, _End]]) -> list[TimingPath]:
        """Paths with the names of all their nets, which are looked up at once."""
        chains = [self._chain(end) for _, end in ranked]
        shown = {net for chain in chains for net in chain}
        shown |= {net for _, end in ranked if (net := _register_net(end)) != NONE}
        names = self._names(shown)
        return [
            self._path(ns, end, chain, names)
            for (ns, end), chain in zip(ranked, chains, strict=True)
        ]

    def _path(self, ns: float, end: _End, chain: list[int], names: dict[int, Name]) -> TimingPath:
        kinds = [self._drivers[net].cell.kind if net in self._drivers else PORTS for net in chain]
        points = tuple(
            PathPoint(
                kind,
                names[net].text if net in names else "",
                self._fanout[net],
                round(self._arrival[net] or 0.0, 3),
            )
            for kind, net in zip(kinds, chain, strict=True)
        )
        first = self._drivers.get(chain[0]) if chain else None
        start_cell = first.cell if first else end.cell if not chain else None
        start = names.get(chain[0]) if chain else names.get(_register_net(end))
        last = names.get(_register_net(end))
        label = end.port if end.cell is None else f"{end.cell.kind}{'.' * bool(end.port)}{end.port}"
        return TimingPath(
            ns=ns,
            levels=sum(map(self._model.is_level, kinds)),
            carries=sum(map(self._model.is_carry, kinds)),
            fanout=max((point.fanout for point in points), default=0),
            start_unit=unit(start_cell.path) if start_cell else PORTS,
            start=start.text if start else start_cell.name if start_cell else "",
            start_source=(start.source if start else "")
            or (start_cell.source if start_cell else ""),
            end_unit=unit(end.cell.path) if end.cell else PORTS,
            end=f"{last.text} ({label})" if last and end.cell else label,
            end_source=(last.source if last else "") or (end.cell.source if end.cell else ""),
            points=points,
        )


def _register_net(end: _End) -> int:
    """A net that a path's end is called by: the first that its register drives."""
    if end.cell is None:
        return end.net
    return next(
        (net for port in end.cell.outputs for net in end.cell.pins(port) if net != NONE), NONE
    )


def unit(path: tuple[str, ...], depth: int = UNIT_DEPTH) -> str:
    """Unit of a cell by the instances around it: ``engine.array``; those that are there several
    times are one, ``dma_#``."""
    names = [re.sub(r"\d+", "#", name.split("$")[0]) for name in path[:depth]]
    return ".".join(names) if names else TOP_UNIT
