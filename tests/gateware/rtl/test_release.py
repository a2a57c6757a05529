# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Queue of descriptors: none leaves before what it waits for, all leave in order."""

import random

import pytest

from gateware.arch import isa
from gateware.arch.isa import QUEUES
from gateware.rtl.release import QUEUE_DEPTH, ReleaseQueue
from sim.backend import pysim
from tests.helpers.units import descriptor

MASK = (1 << isa.COUNT_BITS) - 1


def waiting(**waits: int):
    """A descriptor for ``ctx.set``."""
    return isa.TRANSFER.from_bits(descriptor(isa.TRANSFER, **waits))


@pytest.mark.parametrize("start", [0, MASK - 20])
def test_waits_and_order(start, seed):
    """Counts that wrap on the way; a descriptor leaves within three cycles of what it waits for."""
    dut, rng = ReleaseQueue(isa.TRANSFER), random.Random(seed)
    total = 60

    async def bench(ctx) -> None:
        done, wanted = dict.fromkeys(QUEUES, start), []
        sent = left = completed = late = 0
        for _ in range(4000):
            if sent < total and not ctx.get(dut.i.valid) and rng.random() < 0.5:
                # At most a little ahead of what is complete, as a compiler has it.
                waits = {name: (count + rng.randint(-3, 3)) & MASK for name, count in done.items()}
                wanted.append(waits)
                ctx.set(dut.i.valid, 1)
                ctx.set(dut.i.payload, waiting(**{f"wait_{n}": w for n, w in waits.items()}))
                ctx.set(dut.index, sent)
            ready = rng.random() < 0.7
            ctx.set(dut.o.ready, ready)
            ctx.set(dut.completed, completed < left and rng.random() < 0.3)
            assert ctx.get(dut.idle) == (completed == sent)
            if completed < sent:
                assert ctx.get(dut.oldest) == completed
            over = left < sent and all(
                (done[name] - wanted[left][name]) & MASK < 1 << isa.COUNT_BITS - 1
                for name in QUEUES
            )
            valid = ctx.get(dut.o.valid)
            assert over or not valid
            late = late + 1 if over and not valid else 0
            assert late <= 3
            if valid:
                for name in QUEUES:
                    assert ctx.get(dut.o.p[f"wait_{name}"]) == wanted[left][name]
            entered = ctx.get(dut.i.valid & dut.i.ready)
            completed += ctx.get(dut.completed)
            left += bool(valid and ready)
            await ctx.tick()
            if entered:
                sent += 1
                ctx.set(dut.i.valid, 0)
            for name in QUEUES:
                done[name] = (done[name] + (rng.random() < 0.2)) & MASK
                ctx.set(dut.done[name], done[name])
            if completed == total:
                return
        raise AssertionError(f"{completed} of {total} complete")

    pysim.run(dut, bench, cycles=4001)


def test_room():
    dut = ReleaseQueue(isa.TRANSFER)

    async def bench(ctx) -> None:
        ctx.set(dut.i.payload, waiting(wait_loads=1))
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for _ in range(QUEUE_DEPTH):
            assert ctx.get(dut.i.ready)
            await ctx.tick()
        for _ in range(5):
            assert not ctx.get(dut.i.ready) and not ctx.get(dut.o.valid)
            assert ctx.get(dut.present) and ctx.get(dut.waits.loads)
            await ctx.tick()

    pysim.run(dut, bench, cycles=40)
