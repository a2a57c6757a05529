# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""On-chip memories against arrays, with random traffic on every port."""

import numpy as np
import pytest

from gateware.buffers import ActBuffer, BeatBuffer
from gateware.config import AccelConfig
from sim import pysim
from sim.words import pack
from tests.gateware.units import TINY

SHALLOW = AccelConfig(pot4_rows=1, fixed4_rows=0, fixed8_rows=0, requant_lanes=1, bus_bits=32,
                      act_depth=4)


def test_act_buffer(seed):
    dut, rng, cycles = ActBuffer(SHALLOW), np.random.default_rng(seed), 300
    banks, depth, k = SHALLOW.banks, SHALLOW.act_depth, SHALLOW.k

    async def bench(ctx) -> None:
        memory = np.zeros((banks, depth, k), np.int64)
        collisions = 0
        for _ in range(cycles):
            read = rng.integers(0, depth, banks)
            gather, gather_bank = rng.integers(0, depth, k), int(rng.integers(banks))
            write, write_bank = rng.integers(0, depth, k), int(rng.integers(banks))
            values, enable = rng.integers(0, 16, k), rng.integers(0, 2, k)
            for port, value, bits in (("read_address", read, 2), ("gather_address", gather, 2),
                                      ("write_address", write, 2), ("write_data", values, 4)):
                ctx.set(getattr(dut, port).as_value(), pack(value, bits))
            ctx.set(dut.gather_bank, gather_bank)
            ctx.set(dut.write_bank, write_bank)
            ctx.set(dut.write_enable, pack(enable, 1))
            await ctx.tick()
            ctx.set(dut.gather_bank, int(rng.integers(banks)))      # too late to matter
            # A read in the cycle of a write gives the old nibble.
            words = [memory[bank, read[bank]] for bank in range(banks)]
            assert ctx.get(dut.read_data.as_value()) == pack(np.concatenate(words), 4)
            gathered = memory[gather_bank, gather, np.arange(k)]
            assert ctx.get(dut.gather_data.as_value()) == pack(gathered, 4)
            collisions += int((enable & (gather == write) & (gather_bank == write_bank)).sum())
            memory[write_bank, write[enable == 1], np.flatnonzero(enable)] = values[enable == 1]
        assert collisions > 50

    pysim.run(dut, bench, cycles=cycles + 1)


@pytest.mark.parametrize("beats", [1, 3, 4])
def test_beat_buffer(beats, seed):
    depth, rng = 4, np.random.default_rng(seed)
    dut = BeatBuffer(beats=beats, bus_bits=32, depth=depth)

    async def bench(ctx) -> None:
        memory = np.zeros((depth, beats), object)
        for _ in range(12):
            word = int(rng.integers(depth))
            ctx.set(dut.start, 1)
            ctx.set(dut.address, word)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.address, int(rng.integers(depth)))     # counts with start only
            count, written = int(rng.integers(1, depth * beats + 1)), 0     # may stop within a word
            while written < count:
                enable, value = bool(rng.random() < 0.7), int(rng.integers(1 << 32))
                read = int(rng.integers(depth))
                ctx.set(dut.write_enable, enable)
                ctx.set(dut.write_data, value)
                ctx.set(dut.read_address, read)
                await ctx.tick()
                assert ctx.get(dut.read_data) == pack(memory[read], 32)
                if enable:
                    memory[(word + written // beats) % depth, written % beats] = value
                    written += 1
            ctx.set(dut.write_enable, 0)
        for word in range(depth):
            ctx.set(dut.read_address, word)
            await ctx.tick()
            assert ctx.get(dut.read_data) == pack(memory[word], 32)

    pysim.run(dut, bench, cycles=1000)


def test_ports_follow_the_configuration():
    dut = ActBuffer(TINY)
    assert len(dut.read_address.as_value()) == 4 * 6
    assert len(dut.read_data.as_value()) == 4 * 8 * 4
    assert len(dut.write_address.as_value()) == 8 * 6
