# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Fetching ahead, and the port that it shares: order, room, and who gets which beat."""

from collections import deque

import numpy as np
import pytest

from gateware.arch import isa
from gateware.rtl.fetch import Fetcher, ReadShare
from sim.backend import pysim
from tests.helpers.units import TINY

BEATS = isa.DESCRIPTOR_BITS // TINY.bus_bits


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_beats_go_to_their_owner(pause, seed):
    dut, rng = ReadShare(32, depth=4), np.random.default_rng(seed)
    sent: list[list[tuple[int, int]]] = [[], []]
    got: list[list[int]] = [[], []]

    async def bench(ctx) -> None:
        offers: list[tuple[int, int] | None] = [None, None]
        memory, order, most = deque(), [], 0
        for _ in range(1200):
            for i, command in enumerate(dut.commands):
                if offers[i] is None and rng.random() > pause and len(sent[i]) < 30:
                    offers[i] = (int(rng.integers(1 << 20)), int(rng.integers(0, 6)))
                ctx.set(command.valid, offers[i] is not None)
                if offers[i] is not None:
                    ctx.set(command.p.address, offers[i][0])
                    ctx.set(command.p.beats, offers[i][1])
                ctx.set(dut.data[i].ready, rng.random() >= pause)
            ctx.set(dut.command.ready, rng.random() >= pause)
            ctx.set(dut.beats.valid, bool(memory) and rng.random() >= pause)
            ctx.set(dut.beats.payload, memory[0] if memory else 0)
            accepted = [i for i in (0, 1) if offers[i] and ctx.get(dut.commands[i].ready)]
            taken = ctx.get(dut.command.valid) and ctx.get(dut.command.ready)
            assert len(accepted) == taken
            for i in accepted:
                command = (ctx.get(dut.command.p.address), ctx.get(dut.command.p.beats))
                assert command == offers[i]
                sent[i].append(command)
                order.append(i)
                memory.extend(command[0] + beat for beat in range(command[1]))
                offers[i] = None
            for i in (0, 1):
                if ctx.get(dut.data[i].valid) and ctx.get(dut.data[i].ready):
                    assert ctx.get(dut.beats.ready) and ctx.get(dut.owner) == i
                    got[i].append(ctx.get(dut.data[i].payload))
            if ctx.get(dut.beats.valid) and ctx.get(dut.beats.ready):
                memory.popleft()
            most = max(most, len(memory))
            await ctx.tick()
        assert most > 6

    pysim.run(dut, bench, cycles=1201)
    for i in (0, 1):
        assert len(sent[i]) == 30
        assert got[i] == [address + beat for address, beats in sent[i] for beat in range(beats)]


def test_the_first_client_goes_first_but_takes_nothing_back():
    dut = ReadShare(32)

    async def bench(ctx) -> None:
        ctx.set(dut.commands[1].valid, 1)
        ctx.set(dut.commands[1].p.address, 8)
        await ctx.tick()
        # The second one's command is on offer and may not change now.
        ctx.set(dut.commands[0].valid, 1)
        ctx.set(dut.command.ready, 1)
        assert ctx.get(dut.command.p.address) == 8 and ctx.get(dut.commands[1].ready)
        await ctx.tick()
        assert ctx.get(dut.commands[0].ready) and not ctx.get(dut.commands[1].ready)

    pysim.run(dut, bench, cycles=5)


async def fetch(
    ctx, dut: Fetcher, rng: np.random.Generator, base: int, count: int, latency: int
) -> list[int]:
    """Take ``count`` descriptors of a memory whose words are their addresses; returns them."""
    ctx.set(dut.address, base)
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
