# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""On-chip memories against arrays, with random traffic on every port."""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.rtl.buffers import (
    GATHER_CYCLES,
    READ_CYCLES,
    ActBuffer,
    BeatBuffer,
    RawBuffer,
)
from sim.backend import pysim
from sim.benches.stimulus import pack
from tests.helpers.units import TINY

SHALLOW = AccelConfig(
    pot4_rows=1, fixed4_rows=0, fixed8_rows=0, requant_lanes=1, bus_bits=32, act_depth=4
)


@pytest.mark.parametrize(("copies", "pixels"), [(2, 1), (1, 1), (1, 2), (2, 4)])
def test_act_buffer(copies, pixels, seed):
    config = dataclasses.replace(SHALLOW, act_copies=copies, pixels=2 * pixels, drain_pixels=pixels)
    dut = ActBuffer(config)
    rng, cycles = np.random.default_rng(seed), 300
    banks, depth, k = config.banks, config.act_depth, config.k

    def same_set(bank: int, other: int) -> bool:
        return bank // pixels == other // pixels

    async def bench(ctx) -> None:
        memory = np.zeros((banks, depth, k), np.int64)
        before = memory.copy()  # what is read in this cycle: writes are a cycle late
        gathers_of: list[list[int] | None] = []  # what each cycle's addresses gather, if anything
        collisions = waits = 0
        for _ in range(cycles):
            read = rng.integers(0, depth, banks)
            gather, gather_bank = rng.integers(0, depth, k), int(rng.integers(banks))
            single = bool(rng.integers(2))
            if not single:
                gather_bank = gather_bank // pixels * pixels
            write, write_bank = rng.integers(0, depth, k), int(rng.integers(banks // pixels))
            write_bank *= pixels
            values, enable = rng.integers(0, 16, (pixels, k)), rng.integers(0, 2, k)
            those = rng.integers(0, 2, pixels)
            gathers = bool(rng.integers(2))
            both = copies == 1 and same_set(write_bank, gather_bank)
            if both:  # then it may do one of the two
                enable = enable * (not gathers)
            for port, value, bits in (
                ("read_address", read, 2),
                ("gather_address", gather, 2),
                ("write_address", write, 2),
                ("write_data", values.reshape(-1), 4),
            ):
                ctx.set(getattr(dut, port).as_value(), pack(value, bits))
            ctx.set(dut.gather_enable, gathers)
            ctx.set(dut.gather_bank, gather_bank)
            ctx.set(dut.gather_single, single)
            ctx.set(dut.write_bank, write_bank)
            ctx.set(dut.write_enable, pack(enable, 1))
            ctx.set(dut.write_pixels, pack(those, 1))
            writing = bool(enable.any() or rng.integers(2)) and not (both and gathers)
            ctx.set(dut.writing, writing)
            load, load_bank = int(rng.integers(depth)), int(rng.integers(banks))
            loaded, loads = rng.integers(0, 16, k), bool(rng.integers(2))
            ctx.set(dut.load.valid, loads)
            ctx.set(dut.load.p.place.bank, load_bank)
            ctx.set(dut.load.p.place.address, load)
            ctx.set(dut.load.p.data, pack(loaded, 4))
            ready = ctx.get(dut.load.ready)
            assert ready == (
                (not writing or not same_set(load_bank, write_bank))
                and (copies == 2 or not gathers or not same_set(load_bank, gather_bank))
            )
            waits += loads and not ready
            await ctx.tick()
            ctx.set(dut.gather_bank, int(rng.integers(banks)))  # too late to matter
            # A read in the cycle of a write gives the old nibble.
            words = [before[bank, read[bank]] for bank in range(banks)]
            assert ctx.get(dut.read_data.as_value()) == pack(np.concatenate(words), 4)
            asked = [gather_bank + d * (not single) for d in range(pixels)]
            gathered = memory[np.array(asked)[:, None], gather, np.arange(k)].reshape(-1).tolist()
            gathers_of.append(gathered if copies == 2 or gathers else None)
            due = gathers_of[-GATHER_CYCLES:][0]
            if len(gathers_of) >= GATHER_CYCLES and due is not None:
                assert ctx.get(dut.gather_data.as_value()) == pack(due, 4)
            before = memory.copy()
            for d in np.flatnonzero(those):
                bank, columns = write_bank + int(d), np.flatnonzero(enable)
                collisions += int((enable & (gather == write)).sum()) * (bank in asked)
                memory[bank, write[columns], columns] = values[d, columns]
            if loads and ready:
                memory[load_bank, load] = loaded
        assert (collisions > 15 or copies == 1) and waits > 10

    pysim.run(dut, bench, cycles=cycles + 1)


@pytest.mark.parametrize("late_bits", [0, 32, 45])
@pytest.mark.parametrize(("beats", "ports"), [(2, 1), (3, 1), (4, 1), (4, 2), (4, 4), (8, 4)])
def test_beat_buffer(beats, ports, late_bits, seed):
    depth, rng, each, late = 4, np.random.default_rng(seed), beats // ports, 2
    dut = BeatBuffer(
        beats=beats,
        bus_bits=32,
        depth=depth,
        ports=ports,
        late_bits=late_bits,
        late_cycles=late,
    )
    low = (1 << late_bits) - 1

    async def bench(ctx) -> None:
        contents = [np.zeros((depth, beats), object)]  # after each cycle that wrote
        asked = [0]

        async def cycle(written: list[tuple[int, int, int]]) -> None:
            """One more; what is written now is in memory in the cycle after the next."""
            asked.append(int(rng.integers(depth)))
            ctx.set(dut.read_address, asked[-1])
            await ctx.tick()
            contents.append(contents[-1].copy())
            for word, column, value in written:
                contents[-1][word, column] = value
            if len(asked) > READ_CYCLES + late + 2:
                # Of a beat with bits of both kinds the late ones are kept from the early word.
                kept = late_bits % 32
                early = pack(contents[-READ_CYCLES - 1][asked[-READ_CYCLES]], 32)
                then = pack(contents[-READ_CYCLES - late - 1][asked[-READ_CYCLES - late]], 32)
                now = pack(contents[-READ_CYCLES - 1][asked[-READ_CYCLES - late]], 32)
                whole = (1 << late_bits - kept) - 1
                wanted = early & ~low | then & low & ~whole | now & whole
                assert ctx.get(dut.read_data) == wanted

        for _ in range(8):
            # Every port goes its own way, begins on its own and may stop within a word.
            words = rng.integers(depth, size=ports)
            for fill, word in zip(dut.fill, words.tolist(), strict=True):
                ctx.set(fill.start, 1)
                ctx.set(fill.address, word)
            await cycle([])
            counts = rng.integers(1, depth * each + 1, size=ports)
            done = np.zeros(ports, int)
            for fill in dut.fill:
                ctx.set(fill.start, 0)
                ctx.set(fill.address, int(rng.integers(depth)))  # counts with start only
            while (done < counts).any():
                enable = (rng.random(ports) < 0.7) & (done < counts)
                values = rng.integers(0, 1 << 32, ports).tolist()
                for p, fill in enumerate(dut.fill):
                    ctx.set(fill.enable, bool(enable[p]))
                    ctx.set(fill.data, values[p])
                places = [
                    ((words[p] + done[p] // each) % depth, done[p] % each * ports + p, values[p])
                    for p in np.flatnonzero(enable)
                ]
                await cycle(places)
                done += enable
            for fill in dut.fill:
                ctx.set(fill.enable, 0)
            for _ in range(8):
                await cycle([])

    pysim.run(dut, bench, cycles=1500)


def test_ports_follow_the_configuration():
    dut = ActBuffer(TINY)
    assert len(dut.read_address.as_value()) == 4 * 6
    assert len(dut.read_data.as_value()) == 4 * 8 * 4
    assert len(dut.write_address.as_value()) == 8 * 6


@pytest.mark.parametrize("pixels", [1, 4])
def test_raw_buffer(pixels, seed):
    dut = RawBuffer(dataclasses.replace(SHALLOW, pixels=8, drain_pixels=pixels, wide_depth=16))
    rng, cycles = np.random.default_rng(seed), 200

    async def bench(ctx) -> None:
        entries = np.zeros(16, np.int64)
        contents = [entries] * 3  # after each cycle
        for _ in range(cycles):
            enable, first = rng.integers(0, 2, pixels), int(rng.integers(16))
            values, read = rng.integers(-(1 << 47), 1 << 47, pixels), int(rng.integers(16))
            ctx.set(dut.write_enable, pack(enable, 1))
            ctx.set(dut.write_address, first)
            ctx.set(dut.write_data.as_value(), pack(values, 48))
            ctx.set(dut.read_address, read)
            await ctx.tick()
            assert ctx.get(dut.read_data) == contents[-2][read]
            entries = contents[-1].copy()
            for d in np.flatnonzero(enable):
                entries[(first + d) % 16] = values[d]
            contents.append(entries)

    pysim.run(dut, bench, cycles=cycles + 1)
