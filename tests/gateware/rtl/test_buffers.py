# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""On-chip memories against arrays, with random traffic on every port."""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.rtl.buffers import ActBuffer, BeatBuffer
from sim.backend import pysim
from sim.benches.stimulus import pack
from tests.helpers.units import TINY

SHALLOW = AccelConfig(
    pot4_rows=1, fixed4_rows=0, fixed8_rows=0, requant_lanes=1, bus_bits=32, act_depth=4
)


@pytest.mark.parametrize("copies", [2, 1])
def test_act_buffer(copies, seed):
    dut = ActBuffer(dataclasses.replace(SHALLOW, act_copies=copies))
    rng, cycles = np.random.default_rng(seed), 300
    banks, depth, k = SHALLOW.banks, SHALLOW.act_depth, SHALLOW.k

    async def bench(ctx) -> None:
        memory = np.zeros((banks, depth, k), np.int64)
        collisions = waits = 0
        for _ in range(cycles):
            read = rng.integers(0, depth, banks)
            gather, gather_bank = rng.integers(0, depth, k), int(rng.integers(banks))
            write, write_bank = rng.integers(0, depth, k), int(rng.integers(banks))
            values, enable = rng.integers(0, 16, k), rng.integers(0, 2, k)
            gathers = bool(rng.integers(2))
            if copies == 1 and write_bank == gather_bank:  # then it may do one of the two
                enable = enable * (not gathers)
            for port, value, bits in (
                ("read_address", read, 2),
                ("gather_address", gather, 2),
                ("write_address", write, 2),
                ("write_data", values, 4),
            ):
                ctx.set(getattr(dut, port).as_value(), pack(value, bits))
            ctx.set(dut.gather_enable, gathers)
            ctx.set(dut.gather_bank, gather_bank)
            ctx.set(dut.write_bank, write_bank)
            ctx.set(dut.write_enable, pack(enable, 1))
            load, load_bank = int(rng.integers(depth)), int(rng.integers(banks))
            loaded, loads = rng.integers(0, 16, k), bool(rng.integers(2))
            ctx.set(dut.load.valid, loads)
            ctx.set(dut.load.p.place.bank, load_bank)
            ctx.set(dut.load.p.place.address, load)
            ctx.set(dut.load.p.data, pack(loaded, 4))
            ready = ctx.get(dut.load.ready)
            assert ready == (
                (not enable.any() or load_bank != write_bank)
                and (copies == 2 or not gathers or load_bank != gather_bank)
            )
            waits += loads and not ready
            await ctx.tick()
            ctx.set(dut.gather_bank, int(rng.integers(banks)))  # too late to matter
            # A read in the cycle of a write gives the old nibble.
            words = [memory[bank, read[bank]] for bank in range(banks)]
            assert ctx.get(dut.read_data.as_value()) == pack(np.concatenate(words), 4)
            gathered = memory[gather_bank, gather, np.arange(k)]
            if copies == 2 or gathers:
                assert ctx.get(dut.gather_data.as_value()) == pack(gathered, 4)
            collisions += int((enable & (gather == write) & (gather_bank == write_bank)).sum())
            memory[write_bank, write[enable == 1], np.flatnonzero(enable)] = values[enable == 1]
            if loads and ready:
                memory[load_bank, load] = loaded
        assert (collisions > 50 or copies == 1) and waits > 10

    pysim.run(dut, bench, cycles=cycles + 1)


@pytest.mark.parametrize(("beats", "ports"), [(1, 1), (3, 1), (4, 1), (4, 2), (4, 4), (8, 4)])
def test_beat_buffer(beats, ports, seed):
    depth, rng, each = 4, np.random.default_rng(seed), beats // ports
    dut = BeatBuffer(beats=beats, bus_bits=32, depth=depth, ports=ports)

    async def bench(ctx) -> None:
        memory = np.zeros((depth, beats), object)
        coming: list[tuple[int, int, int]] = []  # written in the next cycle
        for _ in range(12):
            # Every port goes its own way, begins on its own and may stop within a word.
            words = rng.integers(depth, size=ports)
            for fill, word in zip(dut.fill, words.tolist(), strict=True):
                ctx.set(fill.start, 1)
                ctx.set(fill.address, word)
            await ctx.tick()
            counts = rng.integers(1, depth * each + 1, size=ports)
            written = np.zeros(ports, int)
            for fill in dut.fill:
                ctx.set(fill.start, 0)
                ctx.set(fill.address, int(rng.integers(depth)))  # counts with start only
            while (written < counts).any():
                enable = (rng.random(ports) < 0.7) & (written < counts)
                values, read = rng.integers(0, 1 << 32, ports), int(rng.integers(depth))
                for p, fill in enumerate(dut.fill):
                    ctx.set(fill.enable, bool(enable[p]))
                    ctx.set(fill.data, int(values[p]))
                ctx.set(dut.read_address, read)
                await ctx.tick()
                assert ctx.get(dut.read_data) == pack(memory[read], 32)
                for place, column, value in coming:
                    memory[place, column] = value
                coming = [
                    (
                        (words[p] + written[p] // each) % depth,
                        written[p] % each * ports + p,
                        int(values[p]),
                    )
                    for p in np.flatnonzero(enable)
                ]
                written += enable
            for fill in dut.fill:
                ctx.set(fill.enable, 0)
            await ctx.tick()
            for place, column, value in coming:
                memory[place, column] = value
            coming = []
        for word in range(depth):
            ctx.set(dut.read_address, word)
            await ctx.tick()
            assert ctx.get(dut.read_data) == pack(memory[word], 32)

    pysim.run(dut, bench, cycles=1500)


def test_ports_follow_the_configuration():
    dut = ActBuffer(TINY)
    assert len(dut.read_address.as_value()) == 4 * 6
    assert len(dut.read_data.as_value()) == 4 * 8 * 4
    assert len(dut.write_address.as_value()) == 8 * 6
