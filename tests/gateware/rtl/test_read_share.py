# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Share of a read port: order of the commands, and who gets which beat."""

from collections import deque

import numpy as np
import pytest

from gateware.rtl.read_share import ReadShare
from sim.backend import pysim


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_beats_go_to_their_owner(pause, seed):
    dut, rng = ReadShare(32, depth=4), np.random.default_rng(seed)
    sent: list[list[tuple[int, int]]] = [[], []]
    got: list[list[int]] = [[], []]

    async def bench(ctx) -> None:
        offers: list[tuple[int, int] | None] = [None, None]
        memory, order, most = deque(), deque(), 0
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
            assert len(accepted) <= 1
            for i in accepted:
                sent[i].append(offers[i])
                order.append(offers[i])
                offers[i] = None
            if ctx.get(dut.command.valid) and ctx.get(dut.command.ready):
                command = (ctx.get(dut.command.p.address), ctx.get(dut.command.p.beats))
                assert command == order.popleft()
                memory.extend(command[0] + beat for beat in range(command[1]))
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
    first, second = dut.commands
    taken: list[int] = []

    async def cycle(ctx) -> None:
        """One cycle; an offer that is taken ends."""
        if ctx.get(dut.command.valid) and ctx.get(dut.command.ready):
            taken.append(ctx.get(dut.command.p.address))
        gone = [offer for offer in (first, second) if ctx.get(offer.valid) and ctx.get(offer.ready)]
        await ctx.tick()
        for offer in gone:
            ctx.set(offer.valid, 0)

    async def bench(ctx) -> None:
        ctx.set(second.valid, 1)
        ctx.set(second.p.address, 8)
        while not ctx.get(dut.command.valid):
            await cycle(ctx)
        # The second one's command is on offer and may not change now.
        for offer, address in ((first, 4), (second, 12)):
            ctx.set(offer.valid, 1)
            ctx.set(offer.p.address, address)
        for _ in range(3):
            assert ctx.get(dut.command.valid) and ctx.get(dut.command.p.address) == 8
            await cycle(ctx)
        ctx.set(dut.command.ready, 1)
        while len(taken) < 3:
            await cycle(ctx)
        assert taken == [8, 4, 12]

    pysim.run(dut, bench, cycles=40)
