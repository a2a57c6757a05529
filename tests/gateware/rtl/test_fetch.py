# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Fetcher: order of the descriptors, and how far it reads ahead."""

from collections import deque

import numpy as np
import pytest

from gateware.arch import isa
from gateware.rtl.fetch import Fetcher
from sim.backend import pysim
from tests.helpers.units import TINY

BEATS = isa.DESCRIPTOR_BITS // TINY.bus_bits


async def fetch(
    ctx,
    dut: Fetcher,
    rng: np.random.Generator,
    base: int,
    count: int,
    latency: int,
    size: int = 1 << 31,
) -> list[int]:
    """Take ``count`` descriptors of a memory whose words are their addresses; returns them."""
    ctx.set(dut.address, base)
    ctx.set(dut.size, size)
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    ctx.set(dut.address, 0xBAD0)
    memory, got, asked, now = deque(), [], 0, 0
    while len(got) < count:
        now += 1
        ctx.set(dut.command.ready, rng.random() < 0.7)
        due = bool(memory) and memory[0][0] <= now
        ctx.set(dut.beats.valid, due)
        ctx.set(dut.beats.payload, memory[0][1] if due else 0)
        ctx.set(dut.descriptor.ready, rng.random() < 0.05)
        if ctx.get(dut.command.valid) and ctx.get(dut.command.ready):
            assert ctx.get(dut.command.p.beats) == BEATS * isa.FETCH_GROUP
            address = ctx.get(dut.command.p.address)
            assert address == base + asked * isa.DESCRIPTOR_BYTES
            asked += isa.FETCH_GROUP
            memory.extend(
                (now + latency, address + i * TINY.bus_bits // 8)
                for i in range(BEATS * isa.FETCH_GROUP)
            )
        if due:
            # There is always room for what was asked for: nobody else waits for the fetcher.
            assert ctx.get(dut.beats.ready)
            memory.popleft()
        if ctx.get(dut.descriptor.valid) and ctx.get(dut.descriptor.ready):
            got.append(ctx.get(dut.descriptor.payload))
        assert asked <= len(got) + isa.FETCH_AHEAD
        await ctx.tick()
    ctx.set(dut.descriptor.ready, 0)
    return got


@pytest.mark.parametrize("latency", [2, 60])
def test_descriptors_in_order_and_never_too_far_ahead(latency, seed):
    dut, rng = Fetcher(TINY), np.random.default_rng(seed)
    base, count = 0x4000, 30

    async def bench(ctx) -> None:
        got = await fetch(ctx, dut, rng, base, count, latency)
        for index, descriptor in enumerate(got):
            words = [
                descriptor >> i * TINY.bus_bits & (1 << TINY.bus_bits) - 1 for i in range(BEATS)
            ]
            start = base + index * isa.DESCRIPTOR_BYTES
            assert words == list(range(start, start + isa.DESCRIPTOR_BYTES, TINY.bus_bits // 8))
        ctx.set(dut.halt, 1)
        ctx.set(dut.command.ready, 1)
        await ctx.tick()
        for _ in range(60):
            assert not ctx.get(dut.command.valid)
            await ctx.tick()

    pysim.run(dut, bench, cycles=4000)


@pytest.mark.parametrize("size", [0, 255, 256, 3000])
def test_the_last_group_of_a_program_without_end_is_followed_by_opcode_0(size, seed):
    dut, rng = Fetcher(TINY), np.random.default_rng(seed)
    groups = size // (isa.FETCH_GROUP * isa.DESCRIPTOR_BYTES)

    async def bench(ctx) -> None:
        count = groups * isa.FETCH_GROUP
        *_, bad = await fetch(ctx, dut, rng, 0x4001, count + 1, 5, size=size)
        assert bad & (1 << isa.OPCODE_BITS) - 1 == 0
        ctx.set(dut.command.ready, 1)
        for _ in range(60):
            assert not ctx.get(dut.command.valid)
            await ctx.tick()

    pysim.run(dut, bench, cycles=4000)
