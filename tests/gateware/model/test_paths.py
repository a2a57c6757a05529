# SPDX-License-Identifier: Apache-2.0
"""Longest paths of netlists made by hand, and of random ones against all their paths."""

import random

import pytest

from gateware.model.delays import Arc, CellTiming, DelayModel, Hop
from gateware.model.netlist import Cell, JoinedNetlist
from gateware.model.paths import PORTS, TOP_UNIT, CombinationalLoop, TimingGraph, TimingPath, unit
from tests.helpers.netlists import Module


class Ticks(DelayModel):
    """Whole numbers: registers 100 and 10, a GATE1 1 and so on, a net its fan-out in 1000s."""

    port_in, port_out = 500.0, 50.0

    def key(self, cell: Cell) -> object:
        return cell.kind, *cell.inputs

    def timing(self, cell: Cell) -> CellTiming:
        if cell.kind == "FF":
            ends = {"D": 10.0, "CE": 20.0}
            return CellTiming(starts={"Q": 100.0}, ends=ends, clocks=frozenset({"CLK"}))
        if cell.kind == "BLOCK":
            return CellTiming(inner=7000.0, starts={"Q": 0.0})
        if cell.kind == "PAIR":  # bit 1 of Y depends on both of A, bit 0 on its own
            arcs = (Arc("A", 1.0, 0, 0), Arc("A", 2.0, 0, 1), Arc("A", 4.0, 1, 1))
            return CellTiming(arcs={"Y": arcs})
        ns = float(cell.kind.removeprefix("GATE"))
        return CellTiming(arcs={"Y": tuple(Arc(port, ns) for port in cell.inputs)})

    def net(self, hop: Hop) -> float:
        return 1000.0 * hop.fanout

    def is_level(self, kind: str) -> bool:
        return kind.startswith("GATE")

    def is_carry(self, kind: str) -> bool:
        return kind == "PAIR"

    def is_register(self, kind: str) -> bool:
        return kind == "FF"

    def is_reset(self, kind: str, port: str) -> bool:
        return port == "R"


class Design(Module):
    """One module; registers called after their nets."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = self.port("clk", "input", self.bits())

    def register(self, name: str, d: list | None = None, **pins: list) -> list[int]:
        q = self.name(name, self.bits())
        self.cell("FF", f"{name}_ff", CLK=self.clock, D=["0"] if d is None else d, Q=q, **pins)
        return q

    def gate(self, ns: int, name: str, *inputs: list) -> list[int]:
        y = self.name(name, self.bits())
        pins = {f"I{i}": bits for i, bits in enumerate(inputs)}
        self.cell(f"GATE{ns}", f"{name}_gate", Y=y, **pins)
        return y

    def graph(self) -> TimingGraph:
        return TimingGraph(JoinedNetlist({"modules": {"top": self.json}}, "top"), Ticks())


def longest(graph: TimingGraph) -> TimingPath:
    path = graph.longest()
    assert path is not None
    return path


def test_chain() -> None:
    d = Design()
    q = d.register("from")
    d.register("to", d.gate(2, "b", d.gate(1, "a", q)))
    path = longest(d.graph())
    assert path.ns == 100 + 1000 + 1 + 1000 + 2 + 1000 + 10
    assert (path.start, path.end) == ("from", "to (FF.D)")
    assert (path.levels, path.carries, path.fanout) == (2, 0, 1)
    assert [(p.kind, p.net, p.ns) for p in path.points] == [
        ("FF", "from", 100.0),
        ("GATE1", "a", 1101.0),
        ("GATE2", "b", 2103.0),
    ]


def test_fanout_leaves_out_the_clock() -> None:
    d = Design()
    q = d.register("many")
    for i in range(5):
        d.register(f"to{i}", q)
    graph = d.graph()
    assert longest(graph).ns == 100 + 5000 + 10
    assert graph.largest_nets(1) == [(5, "many", "")]
    assert graph.endpoints == 5 and graph.count_over(5109) == 5 and graph.count_over(5110) == 0


def test_resets_can_be_left_out_of_the_largest_nets() -> None:
    d = Design()
    reset, enable = d.register("reset"), d.register("enable")
    for i in range(3):
        d.register(f"to{i}", None, R=reset, CE=enable if i else reset)
    graph = d.graph()
    assert graph.largest_nets(2) == [(4, "reset", ""), (2, "enable", "")]
    assert graph.largest_nets(2, resets=False) == [(2, "enable", ""), (1, "reset", "")]


def test_enables_have_their_own_setup() -> None:
    d = Design()
    q = d.register("enable")
    d.register("to", None, CE=q)
    path = longest(d.graph())
    assert path.ns == 100 + 1000 + 20 and path.end == "to (FF.CE)"


def test_ports_and_constants() -> None:
    d = Design()
    i = d.port("i", "input", d.bits())
    o = d.gate(3, "y", i, ["1"])
    d.port("o", "output", o)
    path = longest(d.graph())
    assert path.ns == 500 + 1000 + 3 + 1000 + 50
    assert path.start_unit == path.end_unit == PORTS and path.end == "o"
    still = Design()
    still.register("to", still.gate(1, "constant", ["0"], ["1"]))
    assert still.graph().longest() is None


def test_bits_of_a_cell_are_told_apart() -> None:
    d = Design()
    low, high = d.bits(), d.bits()
    d.cell("PAIR", "pair", A=d.register("slow") + d.register("fast"), Y=low + high)
    d.register("low", low)
    d.register("high", d.gate(1, "late", high))
    path = longest(d.graph())
    assert path.ns == 100 + 1000 + 4 + 1000 + 1 + 1000 + 10
    assert (path.start, path.carries) == ("fast", 1)


def test_a_path_within_a_cell() -> None:
    d = Design()
    d.cell("BLOCK", "block", Q=d.name("q", d.bits()))
    path = longest(d.graph())
    assert (path.ns, path.start, path.end) == (7000.0, "q", "q (BLOCK)")


def test_a_loop_is_refused() -> None:
    d = Design()
    first, second = d.name("first", d.bits()), d.name("second", d.bits())
    d.cell("GATE1", "x", I0=d.register("q"), I1=second, Y=first)
    d.cell("GATE1", "y", I0=first, Y=second)
    d.register("to", second)
    with pytest.raises(CombinationalLoop, match=r"loop goes through (first|second)"):
        d.graph()


def test_a_chain_longer_than_pythons_stack() -> None:
    d = Design()
    bits = d.register("q")
    for i in range(5000):
        bits = d.gate(1, f"g{i}", bits)
    d.register("to", bits)
    assert longest(d.graph()).ns == 100 + 5000 * 1001 + 1000 + 10


def test_units_are_instances_without_their_numbers() -> None:
    assert unit(()) == TOP_UNIT
    assert unit(("dma_3", "read", "splitter")) == "dma_#.read"
    assert unit(("weights$316", "beat0"), 1) == "weights"
    inner = Design()
    inner.register("to", inner.port("d", "input", inner.bits()))
    top = Design()
    q = top.register("from")
    for i in range(2):
        bits = q if i else top.gate(1, "late", q)
        top.cell("inner", f"part_{i}", CLK=top.clock, D=bits)
    inner.json["ports"] = {
        "CLK": {"direction": "input", "bits": inner.clock},
        "D": inner.json["ports"]["d"],
    }
    document = {"modules": {"top": top.json, "inner": inner.json}}
    (path,) = TimingGraph(JoinedNetlist(document, "top"), Ticks()).longest_by_unit()
    assert (path.start_unit, path.end_unit) == (TOP_UNIT, "part_#")
    assert path.end == "part_0.to (FF.D)"


@pytest.mark.parametrize("case", range(40))
def test_random_netlists_against_all_their_paths(case: int, seed: int) -> None:
    rng = random.Random(f"{seed} {case}")
    d = Design()
    registers = {f"q{i}": d.register(f"q{i}")[0] for i in range(rng.randint(1, 4))}
    gates: dict[int, tuple[int, list[int]]] = {}
    nets = list(registers.values())
    for i in range(rng.randint(1, 14)):
        inputs = [rng.choice(nets) for _ in range(rng.randint(1, 3))]
        ns = rng.randint(1, 9)
        (net,) = d.gate(ns, f"g{i}", *([bit] for bit in inputs))
        gates[net] = ns, inputs
        nets.append(net)
    ends = [rng.choice(nets) for _ in range(rng.randint(1, 4))]
    for i, net in enumerate(ends):
        d.register(f"to{i}", [net])
    used = ends + [net for _, inputs in gates.values() for net in inputs]

    def all_paths(net: int) -> list[float]:
        if net not in gates:
            return [100.0]
        ns, inputs = gates[net]
        return [t + 1000 * used.count(i) + ns for i in inputs for t in all_paths(i)]

    times = [t + 1000 * used.count(net) + 10 for net in ends for t in all_paths(net)]
    assert longest(d.graph()).ns == max(times)
