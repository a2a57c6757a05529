# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The drain against the numeric contract: every nibble once, in its cycle, at its place."""

import dataclasses
import itertools

import numpy as np
import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import ADDRESS_BITS
from gateware.compiler.pack import SlotResult, pack_slot
from gateware.pe.base import SUM_BITS
from gateware.rtl.buffers import GATHER_CYCLES, READ_CYCLES
from gateware.rtl.drain import LANES_CYCLES, Drain
from gateware.rtl.payloads import DrainJob
from ir import numerics
from sim.backend import pysim
from sim.benches.stimulus import pack
from tests.helpers.units import TINY, WIDER, fields

ONE_LANE = AccelConfig(
    pot4_rows=1,
    fixed4_rows=1,
    fixed8_rows=1,
    requant_lanes=1,
    bus_bits=32,
    act_depth=16,
    slot_depth=8,
)
CONFIGS = {
    "P2": TINY,
    "P4": WIDER,
    "P8, two at once": dataclasses.replace(WIDER, pixels=8, drain_pixels=2),
    "one requantiser": ONE_LANE,
    "one copy": dataclasses.replace(WIDER, act_copies=1),
    "one copy, four at once": dataclasses.replace(WIDER, pixels=8, act_copies=1, drain_pixels=4),
    "tables": dataclasses.replace(TINY, tables=True),
    "tables, one copy": dataclasses.replace(WIDER, act_copies=1, tables=True),
    "tables, one copy, two at once": dataclasses.replace(
        WIDER, act_copies=1, tables=True, drain_pixels=2
    ),
}
FILLED = 300  #: cycles until a table is full


class Bench:
    """Drives a :class:`Drain` with the slots, sums and residual operands that it asks for.

    Sums that a job no longer needs are replaced by noise at once.
    """

    def __init__(
        self, config: AccelConfig, seed: int, *, slots: int, wide: bool = False, bits: int = 4
    ) -> None:
        self.config, self.rng = config, np.random.default_rng(seed)
        self.noise = np.random.default_rng([seed, 1])
        self.bits, self.wide = bits, wide
        self.records = [self._slot() for _ in range(slots)]
        self.memory = self.rng.integers(0, 16, (config.banks, config.act_depth, config.k))
        self.table = self.rng.integers(0, 256, numerics.TABLE_SIZE)
        self.layout = dict(DrainJob(config))["execute"].shape
        self.low, self.high = (2, 14) if bits == 4 else (3, 250)
        self.execute = {
            "out_address": 5,
            "out_plane_pitch": 7,
            "residual_address": 11,
            "residual_n": 9000,
            "residual_plane_pitch": 3,
            "slot_address": 2,
            "slots": slots,
            "low": self.low,
            "high": self.high,
            "wide": int(wide),
            "out_planes": int(bits == 8),
        }
        self.writes: list[tuple[int, int, int, int, int]] = []  # cycle, bank, address, column, data
        self.wides: list[tuple[int, int, int]] = []  # cycle, address, data
        self.completed: list[int] = []  # cycles
        self.gathered: dict[int, list[int]] = {}  # banks by cycle

    def fields(self, valid: bool) -> dict[str, int]:
        """What comes with a job of the drain: fields of its EXECUTE, or of any other."""
        if valid:
            return fields(self.layout, **self.execute)
        return {name: int(self.noise.integers(1 << field.width)) for name, field in self.layout}

    def _slot(self) -> list[SlotResult]:
        config, rng = self.config, self.rng
        count = int(rng.integers(1, config.requant_lanes + 1))
        results = []
        lanes = rng.permutation(config.requant_lanes)[:count]
        for lane, column in zip(lanes, rng.permutation(config.k), strict=False):
            row = int(rng.integers((config.rows + config.k) // config.requant_lanes))
            shift = 28 - self.bits + int(rng.integers(3))
            multiplier = int(rng.integers(1 << 15, 1 << 16))
            bias = int(rng.integers(0, numerics.act_max(self.bits))) << shift
            results.append(
                SlotResult(
                    lane=row * config.requant_lanes + int(lane),
                    column=int(column),
                    offset=int(rng.integers(1 << 16)),
                    multiplier=multiplier,
                    bias=bias,
                    shift=shift,
                )
            )
        return results

    def sums(self) -> np.ndarray:
        """Sums (lanes, pixels) whose products are about as large as the biases, some larger."""
        shape = (self.config.rows + self.config.k, self.config.pixels)
        large = self.rng.integers(-(1 << 24), 1 << 24, shape)
        return np.where(self.rng.random(shape) < 0.1, large, large >> 12)

    @property
    def phases(self) -> int:
        if self.wide:
            return self.config.requant_lanes
        return (
            2
            if self.execute["out_planes"]
            or (self.execute.get("residual") and self.execute.get("residual_planes"))
            else 1
        )

    @property
    def turns(self) -> int:
        """Turns that alternate."""
        return 1 if self.wide else 3 - self.config.act_copies

    @property
    def aligned(self) -> bool:
        """Whether a job begins with an even turn."""
        return self.turns == 2 and bool(self.execute.get("broadcast"))

    def step(self, arrival: int, pixel: int, slot: int = 0, phase: int = 0) -> int:
        """Cycle of a step, less those from the arrival to the first."""
        begin = arrival + (arrival % 2 if self.aligned else 0)
        turn = pixel // self.config.drain_pixels
        before = (turn // self.turns * len(self.records) + slot) * self.phases + phase
        return begin + before * self.turns + (turn + begin) % self.turns

    def duration(self, count: int) -> int:
        """Cycles that ``count`` pixels take."""
        turns = -(-count // (self.config.drain_pixels * self.turns)) * self.turns
        return len(self.records) * turns * self.phases + self.aligned

    @property
    def spacing(self) -> int:
        return self.duration(self.config.pixels)

    def run(self, jobs: list[tuple[int, dict[str, int], np.ndarray]]) -> None:
        """``jobs`` are (cycle, fields of DrainJob, sums)."""
        config, dut = self.config, Drain(self.config)
        at = {cycle: job for cycle, job, _ in jobs}
        length = jobs[-1][0] + self.spacing + dut.latency_for(config) + 4
        address_bits = (config.act_depth - 1).bit_length()
        stored = [0] * self.execute["slot_address"] + [
            int.from_bytes(pack_slot(results, config, self.wide), "little")
            for results in self.records
        ]
        valid, noise = {}, {"pixel": 0xABC, "bank": 1, "count": 1, "final": 1}
        for cycle, job, sums in jobs:
            valid |= dict.fromkeys(
                range(cycle + dut.sums_after, cycle + dut.sums_after + self.duration(job["count"])),
                sums,
            )

        lanes_bits = (1 << isa.slot_layout(config)["lanes"].width) - 1
        slots: list[int] = []  # asked for in each cycle
        gathers: list[int] = []

        async def bench(ctx) -> None:
            for cycle in range(length):
                if config.tables:
                    self._fill(ctx, dut, cycle)
                ctx.set(dut.job_valid, cycle in at)
                ctx.set(dut.job, at.get(cycle, noise) | {"execute": self.fields(cycle in at)})
                sums = valid[cycle] if cycle in valid else self.sums()
                ctx.set(dut.sums.as_value(), pack(sums.reshape(-1), SUM_BITS))
                self._collect(ctx, dut, cycle, address_bits)
                if ctx.get(dut.completed):
                    self.completed.append(cycle)
                slots.append(stored[ctx.get(dut.slot_address) % len(stored)])
                bank, gather = ctx.get(dut.gather_bank), ctx.get(dut.gather_address.as_value())
                single = ctx.get(dut.gather_single)
                banks = [bank + d * (not single) for d in range(config.drain_pixels)]
                if ctx.get(dut.gathering):
                    self.gathered[cycle] = banks
                nibbles = [
                    self.memory[each, gather >> j * address_bits & config.act_depth - 1, j]
                    for each in banks
                    for j in range(config.k)
                ]
                gathers.append(pack(nibbles, 4))
                await ctx.tick()
                columns, lanes = (
                    ([0] * LANES_CYCLES + slots)[-READ_CYCLES],
                    slots[-LANES_CYCLES:][0],
                )
                ctx.set(dut.slot.as_value(), columns & ~lanes_bits | lanes & lanes_bits)
                ctx.set(dut.gather_data.as_value(), gathers[-GATHER_CYCLES:][0])

        pysim.run(dut, bench, cycles=length + 1)

    def _fill(self, ctx, dut: Drain, cycle: int) -> None:
        ctx.set(dut.fill.start, cycle == 1)
        ctx.set(dut.fill.enable, 2 <= cycle < 2 + len(self.table))
        ctx.set(dut.fill.data, int(self.table[(cycle - 2) % len(self.table)]))

    def _collect(self, ctx, dut: Drain, cycle: int, address_bits: int) -> None:
        k, pixels = self.config.k, self.config.drain_pixels
        enable, bank = ctx.get(dut.write_enable), ctx.get(dut.write_bank)
        written = [
            (d, j)
            for d in range(pixels)
            for j in range(k)
            if ctx.get(dut.writing) and ctx.get(dut.write_pixels) >> d & enable >> j & 1
        ]
        for d, j in written:
            address = ctx.get(dut.write_address.as_value()) >> j * address_bits
            nibble = ctx.get(dut.write_data.as_value()) >> 4 * (d * k + j) & 15
            self.writes.append((cycle, bank + d, address & self.config.act_depth - 1, j, nibble))
        for d in (d for d in range(pixels) if ctx.get(dut.wide_enable) >> d & 1):
            address = (ctx.get(dut.wide_address) + d) % (1 << ADDRESS_BITS)
            self.wides.append((cycle, address, ctx.get(dut.wide_data[d])))

    def expected(self, jobs: list) -> tuple[list, list]:
        """Writes and wide writes, from :mod:`ir.numerics`."""
        writes, wides, config, f = [], [], self.config, self.execute
        for arrival, job, sums in jobs:
            steps = itertools.product(range(job["count"]), enumerate(self.records))
            for pixel, (slot, results) in steps:
                first, cycle = (
                    self.step(arrival, pixel, slot, phase) + Drain.latency_for(self.config)
                    for phase in (0, self.phases - 1)
                )
                bank = (job["bank"] + pixel) % config.banks
                for result in results:
                    acc = int(sums[result.lane, pixel])
                    constants = (acc, result.multiplier, result.bias, result.shift)
                    if self.wide:
                        lane = result.lane % config.requant_lanes
                        entry = (
                            f["out_address"] + result.offset + job["pixel"] * config.banks + bank
                        )
                        wides.append(
                            (
                                first + lane,
                                entry % (1 << ADDRESS_BITS),
                                int(numerics.accumulate(*constants)),
                            )
                        )
                        continue
                    whole = (bank, job["pixel"] + result.offset)
                    operand = (0, result.offset) if f.get("broadcast") else whole
                    residual = self._residual(*operand, result.column)
                    if f.get("product"):
                        m = result.multiplier - (1 << 16) * (result.multiplier > 0)
                        constants = (acc * (256 * residual + m), 1, *constants[2:])
                        residual = 255 - residual
                    y = int(
                        numerics.requantise(
                            *constants, self.low, self.high, residual, f["residual_n"]
                        )
                    )
                    y = int(self.table[y]) if f.get("table") else y
                    address = f["out_address"] + job["pixel"] + result.offset
                    for plane in range(self.bits // 4):
                        nibble = y >> 4 if self.bits == 8 and plane == 0 else y & 15
                        place = (address + plane * f["out_plane_pitch"]) % config.act_depth
                        writes.append(
                            (cycle + self.turns * plane, bank, place, result.column, nibble)
                        )
        return sorted(writes), sorted(wides)

    def _residual(self, bank: int, offset: int, column: int) -> int:
        f = self.execute
        if not f.get("residual"):
            return 0
        address = f["residual_address"] + offset
        depth = self.config.act_depth
        first = int(self.memory[bank, address % depth, column])
        if not f.get("residual_planes"):
            return first
        second = self.memory[bank, (address + f["residual_plane_pitch"]) % depth, column]
        return first << 4 | int(second)


def make_jobs(bench: Bench, count: int, gap: int) -> list:
    """Jobs with ``gap`` cycles more than the least between them; the second is not full."""
    config, jobs = bench.config, []
    for i in range(count):
        bank = config.pixels * int(bench.rng.integers(2))
        pixels = int(bench.rng.integers(1, config.pixels)) if i == 1 else config.pixels
        jobs.append(
            (
                FILLED * config.tables + 3 + i * (bench.spacing + gap),
                {
                    "pixel": int(bench.rng.integers(1 << 16)),
                    "bank": bank,
                    "count": pixels,
                    "final": int(i == count - 1 or bool(bench.noise.integers(2))),
                },
                bench.sums(),
            )
        )
    return jobs


def hold(bench: Bench, jobs: list) -> None:
    bench.run(jobs)
    writes, wides = bench.expected(jobs)
    assert sorted(bench.writes) == writes
    assert sorted(bench.wides) == wides
    # An EXECUTE is complete when its last results can be read.
    last = [
        arrival
        + (arrival % 2 - 1 if bench.aligned else 0)
        + bench.duration(job["count"])
        + Drain.latency_for(bench.config)
        + 1
        + bench.config.drain_interleave
        for arrival, job, _ in jobs
        if job["final"]
    ]
    assert bench.completed == last and last
    each = len(bench.records) * bench.phases if bench.execute.get("residual") else 0
    at_once = bench.config.drain_pixels * (1 + bench.aligned)
    assert len(bench.gathered) == each * sum(-(-job["count"] // at_once) for _, job, _ in jobs)
    if bench.turns == 2:
        assert all(bank not in bench.gathered.get(cycle, ()) for cycle, bank, *_ in bench.writes)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("residual_bits", [None, 4, 8])
def test_results(name, bits, residual_bits, seed):
    bench = Bench(CONFIGS[name], seed, slots=4, bits=bits)
    # A tensor without a residual may say anything about one.
    bench.execute |= {
        "residual": int(residual_bits is not None),
        "residual_planes": int(residual_bits != 4),
    }
    jobs = make_jobs(bench, 5, gap=0)
    hold(bench, jobs)
    nibbles = {data for *_, data in bench.writes}
    assert len(nibbles) > 1, "the results no longer vary"


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("tables")])
@pytest.mark.parametrize("bits", [4, 8])
def test_results_are_looked_up(name, bits, seed):
    bench = Bench(CONFIGS[name], seed, slots=4, bits=bits)
    bench.execute |= {"table": 1, "residual": 1, "low": 0, "high": 255}
    bench.low, bench.high = 0, 255
    hold(bench, make_jobs(bench, 6, gap=0))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name.startswith("tables")])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("broadcast", [0, 1])
@pytest.mark.parametrize("gap", [0, 1])
def test_products(name, bits, broadcast, gap, seed):
    bench = Bench(CONFIGS[name], seed, slots=4, bits=bits)
    bench.execute |= {"product": 1, "broadcast": broadcast, "residual": 1, "residual_planes": 1}
    for results in bench.records:
        for index, result in enumerate(results):
            results[index] = dataclasses.replace(
                result, multiplier=(result.multiplier >> 8 << 8) * int(bench.rng.integers(2))
            )
    hold(bench, make_jobs(bench, 6, gap))


@pytest.mark.parametrize("name", ["P2", "one copy"])
@pytest.mark.parametrize("bits", [4, 8])
def test_one_slot_and_gaps(name, bits, seed):
    for gap in (0, 1, 2, 3):
        bench = Bench(CONFIGS[name], seed, slots=1, bits=bits)
        bench.execute["residual"] = 1
        hold(bench, make_jobs(bench, 6, gap))


def test_residual_decides(seed):
    # The same sums with and without the residual operand differ, and so do its planes.
    seen = []
    for execute in ({}, {"residual": 1}, {"residual": 1, "residual_planes": 1}):
        bench = Bench(TINY, seed, slots=3, bits=8)
        bench.execute |= execute
        hold(bench, make_jobs(bench, 4, gap=0))
        seen.append([data for *_, data in bench.writes])
    assert seen[0] != seen[1] != seen[2] != seen[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_wide_results(name, seed):
    bench = Bench(CONFIGS[name], seed, slots=5, wide=True)
    jobs = make_jobs(bench, 3, gap=0)
    hold(bench, jobs)
    results = sum(job["count"] for _, job, _ in jobs) * sum(map(len, bench.records))
    assert len(bench.wides) == results >= 15 and not bench.writes
    assert len({data for _, _, data in bench.wides}) == results
