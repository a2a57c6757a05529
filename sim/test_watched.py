# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Every simulation of sim.backend.pysim watches the streams of its design."""

import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from gateware.rtl.queue import Queue
from sim.backend import pysim


class Outer(wiring.Component):
    """Queue whose words a second one takes; the offer between them may change."""

    i: In(stream.Signature(4))
    o: Out(stream.Signature(4))
    flush: In(1)

    def __init__(self, *, changes: bool) -> None:
        self._changes = changes
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.first = first = Queue(4)
        m.submodules.middle = middle = Middle(changes=self._changes)
        connect(m, wiring.flipped(self.i), first.i)
        connect(m, first.o, middle.i)
        connect(m, middle.o, wiring.flipped(self.o))
        return m


class Middle(wiring.Component):
    """Unit that hands on what comes, and may count while it waits."""

    i: In(stream.Signature(4))
    o: Out(stream.Signature(4))

    def __init__(self, *, changes: bool) -> None:
        self._changes = changes
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(4)
        if self._changes:
            m.d.sync += count.eq(count + 1)
        m.d.comb += [
            self.o.valid.eq(self.i.valid),
            self.o.payload.eq(self.i.payload + count),
            self.i.ready.eq(self.o.ready),
        ]
        return m


def run(dut: wiring.Component, *, flush: bool = False, fair_bench: bool = False) -> None:
    """A word that comes, waits for ten cycles and goes."""

    async def bench(ctx) -> None:
        if flush:
            ctx.set(dut.flush, 1)
        ctx.set(dut.i.payload, 5)
        ctx.set(dut.i.valid, 1)
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
        for _ in range(10):
            await ctx.tick()
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(2)

    pysim.run(dut, bench, cycles=40, fair_bench=fair_bench)


def test_a_fair_design_passes() -> None:
    run(Outer(changes=False), fair_bench=True)


def test_an_offer_that_changes_is_found() -> None:
    with pytest.raises(AssertionError, match=r"cycle \d: contract broken by o, middle\.o$"):
        run(Outer(changes=True))


def test_an_offer_may_change_while_the_design_is_flushed() -> None:
    run(Outer(changes=True), flush=True)


def test_nothing_is_claimed_of_a_bench_that_breaks_the_contract() -> None:
    """The word is withdrawn before the stage takes it, and so is what the stage offers."""
    run(Middle(changes=False))
    with pytest.raises(AssertionError, match=r"cycle \d: contract broken by i, o$"):
        run(Middle(changes=False), fair_bench=True)
