# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Protocol checker of AXI3: a good trace breaks no rule, and each broken one the rule it is for."""

import copy
from collections.abc import Callable

import pytest
from amaranth.sim import Simulator

from gateware.rtl.axi import Axi3Signature, Burst
from sim.world.axi3_checker import Axi3Checker, Rule, window_bits

AXI = Axi3Signature(32, 64, 6)
LIMIT = 2
WINDOWS = window_bits((0x1000, 0x1000, True), (0x8000, 0x80, False))

Cycle = dict[str, int]
Trace = list[Cycle]


def address(channel: str, at: int, length: int, **more: int) -> Cycle:
    """A burst of ``length + 1`` beats, accepted at once."""
    fields = {"valid": 1, "ready": 1, "addr": at, "len": length, "size": 3, "burst": Burst.INCR}
    return {f"{channel}{name}": value for name, value in (fields | more).items()}


def beat(channel: str, *, last: int = 0, **more: int) -> Cycle:
    end = {} if channel == "b" else {"last": last}
    return {
        f"{channel}{name}": value for name, value in ({"valid": 1, "ready": 1} | end | more).items()
    }


def good() -> Trace:
    """Reads and writes side by side, with waiting on every channel."""
    return [
        address("ar", 0x1000, 1, ready=0) | address("aw", 0x1F80, 15, ready=0),
        address("ar", 0x1000, 1) | address("aw", 0x1F80, 15, ready=0) | beat("w", data=7),
        address("ar", 0x8078, 0) | address("aw", 0x1F80, 15) | beat("w", data=8, ready=0),
        beat("r", data=1, ready=0) | beat("w", data=8),
        beat("r", data=1) | beat("w"),
        *[beat("w", strb=n) for n in range(12)],
        beat("r", data=2, last=1) | beat("w", last=1),
        beat("r", last=1, resp=2) | beat("b", resp=3, ready=0),
        beat("b", resp=3) | address("aw", 0x1000, 0) | beat("w", last=1),
        beat("b"),
    ]


def change(cycle: int, **values: int) -> Callable[[Trace], Trace]:
    """The good trace with other values in one cycle."""

    def broken(trace: Trace) -> Trace:
        trace[cycle] |= values
        return trace

    return broken


def insert(cycle: int, *cycles: Cycle) -> Callable[[Trace], Trace]:
    return lambda trace: [*trace[:cycle], *cycles, *trace[cycle:]]


READ = address("ar", 0x1000, 0)
WRITE = address("aw", 0x1000, 0)
BROKEN = {
    "ar withdrawn": (Rule.UNSTABLE, change(1, arvalid=0)),
    "aw changes": (Rule.UNSTABLE, change(1, awlen=14)),
    "aw changes an attribute": (Rule.UNSTABLE, change(1, awcache=3)),
    "w changes": (Rule.UNSTABLE, change(3, wdata=9)),
    "r changes": (Rule.UNSTABLE, change(4, rdata=2)),
    "b changes": (Rule.UNSTABLE, change(-2, bresp=0)),
    "read across 4 KiB": (Rule.BOUNDARY, change(2, araddr=0x1FF8, arlen=1)),
    "write across 4 KiB": (Rule.BOUNDARY, change(-2, awaddr=0x1FF8, awlen=15)),
    "FIXED": (Rule.KIND, change(2, arburst=Burst.FIXED)),
    "WRAP": (Rule.KIND, change(-2, awburst=Burst.WRAP)),
    "locked": (Rule.KIND, change(-2, awlock=1)),
    "narrow read": (Rule.SIZE, change(2, arsize=2)),
    "narrow write": (Rule.SIZE, change(-2, awsize=0)),
    "misaligned read": (Rule.ALIGNMENT, change(2, araddr=0x1004)),
    "misaligned write": (Rule.ALIGNMENT, change(-2, awaddr=0x1001)),
    "wlast early": (Rule.LAST, change(5, wlast=1)),
    "wlast missing": (Rule.LAST, change(-2, wlast=0)),
    "rlast early": (Rule.LAST, lambda trace: change(4, rlast=1)(change(3, rlast=1)(trace))),
    "rlast missing": (Rule.LAST, change(-3, rlast=0)),
    "arid": (Rule.ID, change(2, arid=1)),
    "awid": (Rule.ID, change(-2, awid=1)),
    "wid": (Rule.ID, change(-2, wid=2)),
    "rid": (Rule.ID, change(-3, rid=4)),
    "bid": (Rule.ID, change(-1, bid=1)),
    "a read too many": (Rule.OUTSTANDING, insert(5, READ)),
    "a write too many": (Rule.OUTSTANDING, insert(5, WRITE, WRITE)),
    "data without address": (Rule.UNASKED, insert(0, beat("w"))),
    "data too many": (Rule.UNASKED, insert(-1, beat("w", last=1))),
    "answer without question": (Rule.UNASKED, insert(0, beat("r", last=1))),
    "response before data": (Rule.UNASKED, insert(5, beat("b"))),
    "response too many": (Rule.UNASKED, lambda trace: [*trace, beat("b")]),
    "read outside": (Rule.GUARD, change(2, araddr=0x8080)),
    "read beyond": (Rule.GUARD, change(2, araddr=0x8078, arlen=1)),
    "read before": (Rule.GUARD, change(2, araddr=0x0FF8)),
    "write where only reads are due": (Rule.GUARD, change(-2, awaddr=0x8000)),
}


def watch(trace: Trace) -> Rule:
    dut = Axi3Checker(AXI, outstanding=LIMIT, windows=2)

    async def bench(ctx) -> None:
        ctx.set(dut.windows.as_value(), WINDOWS)
        for cycle in [*trace, {}, {}]:
            for name in AXI.members:
                ctx.set(getattr(dut.axi, name), cycle.get(name, 0))
            await ctx.tick()
        found.append(Rule(ctx.get(dut.violation)))

    found: list[Rule] = []
    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
    return found[0]


def test_a_good_trace() -> None:
    assert watch(good()) is Rule.NONE


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_trace(name: str) -> None:
    rule, broken = BROKEN[name]
    assert watch(broken(copy.deepcopy(good()))) is rule


def test_every_rule_has_a_broken_trace() -> None:
    assert {rule for rule, _ in BROKEN.values()} == set(Rule) - {Rule.NONE}


@pytest.mark.parametrize("limit", [0, 17])
def test_init_wrong_outstanding(limit: int) -> None:
    with pytest.raises(ValueError, match=f"outstanding must be in 1..16, not {limit}"):
        Axi3Checker(AXI, outstanding=limit)
