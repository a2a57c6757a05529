# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The DMA engines against a memory written in Python, cycle by cycle."""

import random
from itertools import pairwise

import pytest

from gateware.rtl.axi import BOUNDARY
from gateware.rtl.dma import ReadDma, WriteDma
from gateware.rtl.dma_port import DmaPort
from sim.backend import pysim
from tests.helpers.axi_memory import (
    Memory,
    collector,
    commander,
    count_pulses,
    feeder,
    random_commands,
    random_words,
    send,
    split,
)


@pytest.mark.parametrize("data_bits", [32, 64])
@pytest.mark.parametrize("pause", [0.0, 0.4])
def test_read(data_bits: int, pause: float, seed: int) -> None:
    rng, dut = random.Random(seed), ReadDma(data_bits=data_bits)
    memory = Memory(dut.axi, seed=seed, pause=pause)
    commands = random_commands(rng, memory.width, 12)
    expected = [word for command in commands for word in memory.words(*command)]
    got: list[int] = []
    errors, beats = [0], [0]
    pysim.run(
        dut,
        commander(dut.command, commands, dut.idle),
        collector(dut.data, len(expected), got, rng if pause else None),
        cycles=20_000,
        background=(memory.serve, count_pulses(dut.error, errors), count_pulses(dut.beat, beats)),
    )
    assert got == expected
    assert memory.reads == [b for command in commands for b in split(*command, memory.width)]
    assert (errors, beats) == ([0], [len(expected)])


@pytest.mark.parametrize("data_bits", [32, 64])
@pytest.mark.parametrize("pause", [0.0, 0.4])
def test_write(data_bits: int, pause: float, seed: int) -> None:
    rng, dut = random.Random(seed), WriteDma(data_bits=data_bits)
    memory = Memory(dut.axi, seed=seed, pause=pause)
    commands = random_commands(rng, memory.width, 12)
    words, expected = random_words(rng, memory, commands)
    bursts = [b for command in commands for b in split(*command, memory.width)]
    errors, beats, responses = [0], [0], []

    async def command(ctx) -> None:
        await commander(dut.command, commands, dut.idle)(ctx)
        responses.append(memory.responses)

    pysim.run(
        dut,
        command,
        feeder(dut.data, words, rng if pause else None),
        cycles=20_000,
        background=(memory.serve, count_pulses(dut.error, errors), count_pulses(dut.beat, beats)),
    )
    assert memory.bytes == expected
    assert memory.writes == bursts
    assert responses == [len(bursts)]  # idle came with the last response, not earlier
    assert (errors, beats) == ([0], [len(words)])


#: Outstanding bursts, latency after which there would be gaps, commands.
GAPLESS = [
    (8, 60, [(0x100, 200), (0x1000, 16), (0x2000, 100), (0x2400, 8), (0x3000, 50)]),
    (4, 44, [(0, 256)]),
    (2, 12, [(0, 256)]),
]


@pytest.mark.parametrize("most,latency,commands", GAPLESS)
def test_read_streams_without_gaps(
    most: int, latency: int, commands: list[tuple[int, int]]
) -> None:
    dut = ReadDma(max_outstanding=most)
    memory = Memory(dut.axi, latency=latency)
    got: list[int] = []
    count = sum(beats for _, beats in commands)
    pysim.run(
        dut,
        commander(dut.command, commands),
        collector(dut.data, count, got),
        cycles=2000,
        background=(memory.serve,),
    )
    assert memory.read_at[-1] - memory.read_at[0] == count - 1
    # Accepted in cycle 1, measured in 2, split in 3, on the bus in 4, then the memory's latency.
    assert memory.read_at[0] == 4 + 1 + latency


def test_short_commands_take_three_cycles() -> None:
    dut = ReadDma()
    memory = Memory(dut.axi, latency=1)
    commands, got = [(0x78, 1), (0x40, 1), (0x1000, 2), (0x2008, 1), (0x3008, 1)], []
    pysim.run(
        dut,
        commander(dut.command, commands),
        collector(dut.data, 6, got),
        cycles=200,
        background=(memory.serve,),
    )
    assert memory.read_at[-1] - memory.read_at[0] == 3 * 4


@pytest.mark.parametrize("most,latency,commands", GAPLESS)
def test_write_streams_without_gaps(
    most: int, latency: int, commands: list[tuple[int, int]]
) -> None:
    dut = WriteDma(max_outstanding=most)
    memory = Memory(dut.axi, latency=latency)
    count = sum(beats for _, beats in commands)
    pysim.run(
        dut,
        commander(dut.command, commands, dut.idle),
        feeder(dut.data, list(range(count))),
        cycles=2000,
        background=(memory.serve,),
    )
    assert memory.write_at[-1] - memory.write_at[0] == count - 1


@pytest.mark.parametrize("most", [1, 3])
def test_outstanding_bursts_are_limited(most: int, seed: int) -> None:
    dut = DmaPort(max_outstanding=most)
    memory = Memory(dut.axi, seed=seed, latency=200)
    commands, got = [(0, 100)], []
    words, expected = random_words(random.Random(seed), memory, commands)
    before = memory.words(0x4000, 100)
    pysim.run(
        dut,
        commander(dut.read_command, [(0x4000, 100)]),
        commander(dut.write_command, commands, dut.write_idle),
        feeder(dut.write_data, words),
        collector(dut.read_data, 100, got),
        cycles=5000,
        background=(memory.serve,),
    )
    assert (memory.most_reads, memory.most_writes) == (most, most)
    assert got == before
    assert memory.bytes == expected


def test_port_moves_both_ways_at_once(seed: int) -> None:
    rng, dut = random.Random(seed), DmaPort()
    memory = Memory(dut.axi, seed=seed, pause=0.3)
    reads, writes = [(0, 150), (0x800, 3)], [(0x5000, 120), (0x6FF8, 2)]
    words, expected = random_words(rng, memory, writes)
    wanted = [word for command in reads for word in memory.words(*command)]
    got: list[int] = []
    counts = {name: [0] for name in ("read_beats", "write_beats", "error")}
    pysim.run(
        dut,
        commander(dut.read_command, reads, dut.read_idle),
        commander(dut.write_command, writes, dut.write_idle),
        feeder(dut.write_data, words, rng),
        collector(dut.read_data, len(wanted), got, rng),
        cycles=5000,
        background=(
            memory.serve,
            *(count_pulses(getattr(dut, name), into) for name, into in counts.items()),
        ),
    )
    assert got == wanted
    assert memory.bytes == expected
    assert counts == {"read_beats": [153], "write_beats": [122], "error": [0]}


def test_data_does_not_wait_for_the_address(seed: int) -> None:
    dut = WriteDma()
    memory = Memory(dut.axi, seed=seed, address_after_data=True)
    commands = [(0, 40), (0x1000, 5)]
    words, expected = random_words(random.Random(seed), memory, commands)
    pysim.run(
        dut,
        commander(dut.command, commands, dut.idle),
        feeder(dut.data, words),
        cycles=1000,
        background=(memory.serve,),
    )
    assert memory.bytes == expected


@pytest.mark.parametrize("dma", [ReadDma, WriteDma])
@pytest.mark.parametrize("data_bits,address", [(64, 4), (64, 1), (32, 2)])
def test_misaligned_command_is_refused(dma, data_bits: int, address: int) -> None:
    dut, errors = dma(data_bits=data_bits), [0]
    memory = Memory(dut.axi)

    async def bench(ctx) -> None:
        await commander(dut.command, [(address, 3)], dut.idle)(ctx)
        await ctx.tick().repeat(50)

    pysim.run(dut, bench, cycles=100, background=(memory.serve, count_pulses(dut.error, errors)))
    assert errors == [1]
    assert memory.reads == memory.writes == []


@pytest.mark.parametrize("dma", [ReadDma, WriteDma])
def test_empty_command_completes_at_once(dma) -> None:
    dut, errors = dma(), [0]
    memory = Memory(dut.axi)

    async def bench(ctx) -> None:
        await send(ctx, dut.command, {"address": 0x40, "beats": 0})
        for _ in range(50):
            assert ctx.get(dut.idle)
            await ctx.tick()

    pysim.run(dut, bench, cycles=100, background=(memory.serve, count_pulses(dut.error, errors)))
    assert errors == [0]
    assert memory.reads == memory.writes == []


def test_error_responses_are_reported(seed: int) -> None:
    dut, got = DmaPort(), []
    memory = Memory(dut.axi, seed=seed)
    memory.bad_reads = {0x48, 0x100}
    memory.bad_writes = {0x1080}
    counts = {name: [0] for name in ("read_error", "write_error", "error")}
    pysim.run(
        dut,
        commander(dut.read_command, [(0, 40)], dut.read_idle),
        commander(dut.write_command, [(0x1000, 40)], dut.write_idle),
        collector(dut.read_data, 40, got),
        feeder(dut.write_data, [0] * 40),
        cycles=500,
        background=(
            memory.serve,
            *(count_pulses(getattr(dut, name), into) for name, into in counts.items()),
        ),
    )
    assert (counts["read_error"], counts["write_error"]) == ([2], [1])
    assert got == memory.words(0, 40)  # data comes all the same


@pytest.mark.parametrize("after", [0, 1, 2, 3, 25, 61, 62, 63])
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_flush(after: int, pause: float, seed: int) -> None:
    """Abandon both directions in the middle; the port must become idle and work again."""
    rng, dut = random.Random(seed + after), DmaPort()
    memory = Memory(dut.axi, seed=seed + after, pause=pause, latency=20)
    before = bytes(memory.bytes)
    got: list[int] = []
    words, expected = random_words(rng, memory, [(0x4000, 20)])
    last_read = memory.words(0x6000, 20)

    async def bench(ctx) -> None:
        ctx.set(dut.read_data.ready, 1)
        ctx.set(dut.write_data.payload, (1 << 64) - 1)
        ctx.set(dut.write_data.valid, 1)
        for command, address in (dut.read_command, 0), (dut.write_command, 0x2000):
            await send(ctx, command, {"address": address, "beats": 500})
        await ctx.tick().repeat(after + 1)
        # More is on offer, and must be swallowed too.
        ctx.set(dut.read_command.p, {"address": 0x7000, "beats": 1})
        ctx.set(dut.read_command.valid, 1)
        ctx.set(dut.flush, 1)
        assert ctx.get(dut.write_data.ready)
        await ctx.tick()
        # What the bus sees now it keeps; nothing new goes there, and nothing is waited for. The
        # memory still has to note the handshakes of the edge just past.
        await ctx.delay(1e-9)
        reads = len(memory.reads) + ctx.get(dut.axi.arvalid)
        writes = len(memory.writes) + ctx.get(dut.axi.awvalid)
        assert ctx.get(dut.read_command.ready)
        assert not ctx.get(dut.read_data.valid)
        ctx.set(dut.flush, 0)
        ctx.set(dut.write_data.payload, 0)
        await ctx.tick()
        ctx.set(dut.read_command.valid, 0)
        ctx.set(dut.read_data.ready, 0)
        ctx.set(dut.write_data.valid, 0)
        while not ctx.get(dut.idle):
            assert not ctx.get(dut.read_data.valid)
            await ctx.tick()
        assert (len(memory.reads), len(memory.writes)) == (reads, writes)
        assert len(memory.writes) == memory.responses
        assert len(memory.read_at) == sum(beats for _, beats in memory.reads)
        assert not any(address == 0x7000 for address, _ in memory.reads)
        written = sum(strobe == 255 for strobe in memory.strobes)
        assert memory.strobes == [255] * written + [0] * (len(memory.strobes) - written)
        changed = 0x2000 + 8 * written
        assert memory.bytes[:0x2000] == before[:0x2000]
        assert memory.bytes[0x2000:changed] == b"\xff" * (8 * written)
        assert memory.bytes[changed:] == before[changed:]
        expected[0x2000:changed] = b"\xff" * (8 * written)

    async def use_again(ctx) -> None:
        await bench(ctx)
        await send(ctx, dut.read_command, {"address": 0x6000, "beats": 20})
        await collector(dut.read_data, 20, got)(ctx)
        await send(ctx, dut.write_command, {"address": 0x4000, "beats": 20})
        await feeder(dut.write_data, words)(ctx)
        await ctx.tick().until(dut.idle)

    pysim.run(dut, use_again, cycles=2500, background=(memory.serve,))
    assert got == last_read
    assert memory.bytes == expected


@pytest.mark.parametrize("dma", [ReadDma, WriteDma, DmaPort])
@pytest.mark.parametrize(
    "name,value,message",
    [
        ("max_outstanding", 0, r"max_outstanding must be an integer in 1\.\.16, not 0"),
        ("max_outstanding", 17, r"max_outstanding must be an integer in 1\.\.16, not 17"),
        ("data_bits", 128, "data_bits must be 32 or 64, not 128"),
        ("addr_bits", 8, r"addr_bits must be an integer in 12\.\.64, not 8"),
        ("id_bits", 0, r"id_bits must be an integer in 1\.\.16, not 0"),
    ],
)
def test_init_wrong(dma, name: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dma(**{name: value})


def test_bursts_of_the_model_obey_axi3() -> None:
    bursts = split(BOUNDARY - 8, 40, 8)
    assert bursts == [(BOUNDARY - 8, 1), (BOUNDARY, 16), (BOUNDARY + 128, 16), (BOUNDARY + 256, 7)]
    assert all(a + 8 * n == b for (a, n), (b, _) in pairwise(bursts))
