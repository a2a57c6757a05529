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
