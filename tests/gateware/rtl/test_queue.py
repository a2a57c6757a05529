# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Queue: every word once, in order, held until it is taken; full speed; room for its depth."""

from collections import deque

import numpy as np
import pytest

from gateware.rtl.queue import PART_BITS, Queue
from sim.backend import pysim

WIDE = PART_BITS + 9  #: of two parts


@pytest.mark.parametrize("depth", [2, 3, 5, 8])
@pytest.mark.parametrize("pause", [0.0, 0.3, 0.7])
def test_words_in_order(depth, pause, seed):
    dut, rng = Queue(WIDE, depth=depth), np.random.default_rng(seed)

    async def bench(ctx) -> None:
        inside: deque[int] = deque()
        offer, most, shown = None, 0, None
        for cycle in range(300):
            if offer is None and rng.random() >= pause:
                offer = int.from_bytes(rng.bytes(WIDE // 8 + 1), "little") & (1 << WIDE) - 1
            ctx.set(dut.i.valid, offer is not None)
            ctx.set(dut.i.payload, offer or 0)
            # At first hardly anything leaves, so that the queue fills.
            ctx.set(dut.o.ready, rng.random() >= (0.9 if pause and cycle < 150 else pause))
            # Both handshakes are known before the other sides say anything.
            assert ctx.get(dut.i.ready) == (len(inside) < depth)
            assert ctx.get(dut.o.valid) == (len(inside) > 0)
            if inside:
                assert ctx.get(dut.o.payload) == inside[0]
                assert shown in (None, inside[0])
                shown = inside[0]
            leaves, enters = ctx.get(dut.o.valid & dut.o.ready), ctx.get(dut.i.valid & dut.i.ready)
            if leaves:
                inside.popleft()
                shown = None
            if enters:
                inside.append(offer)
                offer = None
            most = max(most, len(inside))
            await ctx.tick()
        assert most == (depth if pause else 1)

    pysim.run(dut, bench, cycles=301)


def test_a_word_per_cycle():
    dut = Queue(8)

    async def bench(ctx) -> None:
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for cycle in range(20):
            ctx.set(dut.i.payload, cycle)
            assert ctx.get(dut.i.ready)
            if cycle:
                assert ctx.get(dut.o.valid) and ctx.get(dut.o.payload) == cycle - 1
            await ctx.tick()

    pysim.run(dut, bench, cycles=21)


def test_depth_of_one_is_refused():
    with pytest.raises(ValueError, match="depth must be at least 2, not 1"):
        Queue(8, depth=1)
