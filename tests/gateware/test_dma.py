# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The DMA engines against a memory written in Python, cycle by cycle."""

import random
from collections import deque
from itertools import pairwise

import pytest

from gateware.axi import BOUNDARY, BURST_BEATS, Burst, Resp
from gateware.dma import BurstSplitter, DmaPort, ReadDma, WriteDma
from sim import pysim


def split(address: int, beats: int, width: int) -> list[tuple[int, int]]:
    """(address, beats) of the bursts of a command, found beat by beat."""
    bursts: list[tuple[int, int]] = []
    for beat in range(address, address + beats * width, width):
        if bursts and beat % (BURST_BEATS * width):
            bursts[-1] = (bursts[-1][0], bursts[-1][1] + 1)
        else:
            bursts.append((beat, 1))
    return bursts


class Memory:
    """An AXI3 slave that checks the master's manners.

    Parameters
    ----------
    axi : Interface
        The master's port.
    pause : float
        Probability per cycle and channel of a pause.
    latency : int
        Cycles from the AR handshake to the first beat and from the last W to the response.
    address_after_data : bool
        Accept a write address only when its data is being offered, as AXI allows.
    """

    def __init__(self, axi, *, seed: int = 1, pause: float = 0.0, latency: int = 5,
                 address_after_data: bool = False) -> None:
        self.axi = axi
        self.width = len(axi.rdata) // 8
        self.random = random.Random(seed)
        self.bytes = bytearray(self.random.randbytes(1 << 15))
        self.pause = pause
        self.latency = latency
        self.address_after_data = address_after_data
        self.reads: list[tuple[int, int]] = []      # bursts accepted: address, beats
        self.writes: list[tuple[int, int]] = []
        self.read_at: list[int] = []                # cycle of each beat
        self.write_at: list[int] = []
        self.strobes: list[int] = []
        self.bad_reads: set[int] = set()            # addresses of beats that answer SLVERR
        self.bad_writes: set[int] = set()           # addresses of bursts that answer DECERR
        self.most_reads = self.most_writes = 0      # bursts open at once
        self.responses = 0
        self.now = 0

    def words(self, address: int, beats: int) -> list[int]:
        return [int.from_bytes(self.bytes[a:a + self.width], "little")
                for a in range(address, address + beats * self.width, self.width)]

    def _go(self) -> bool:
        return self.random.random() >= self.pause

    def _burst(self, address: int, length: int, size: int, burst: int, id_: int) -> tuple[int, int]:
        assert (1 << size, burst, id_) == (self.width, Burst.INCR, 0)
        assert address % self.width == 0
        assert address // BOUNDARY == (address + length * self.width) // BOUNDARY
        return address, length + 1

    async def serve(self, ctx) -> None:
        axi = self.axi
        names = {
            "ar": ("arvalid", "araddr", "arlen", "arsize", "arburst", "arid"),
            "aw": ("awvalid", "awaddr", "awlen", "awsize", "awburst", "awid"),
            "w": ("wvalid", "wdata", "wstrb", "wlast"),
        }
        ready_names = ("arready", "awready", "wready", "rvalid", "rready", "bvalid", "bready")
        flat = [*(name for group in names.values() for name in group), *ready_names]
        held: dict[str, tuple] = {}     # offers that must not change until they are accepted
        read_queue: deque[tuple[int, bool, int]] = deque()
        data_queue: deque[tuple[int, bool]] = deque()
        response_queue: deque[int] = deque()
        read_open = 0
        while True:
            _, _, *values = await ctx.tick().sample(*(getattr(axi, name) for name in flat))
            value = dict(zip(flat, values, strict=True))
            self.now += 1
            offers = {channel: tuple(value[n] for n in group) for channel, group in names.items()}
            for channel, offer in held.items():
                assert offers[channel] == offer, f"{channel} changed before it was accepted"
            held = {c: offer for c, offer in offers.items() if offer[0] and not value[f"{c}ready"]}
            done = {c for c in ("ar", "aw", "w", "r", "b")
                    if value[f"{c}valid"] and value[f"{c}ready"]}

            if "ar" in done:
                self.reads.append(self._burst(*offers["ar"][1:]))
                address, beats = self.reads[-1]
                read_open += 1
                read_queue.extend((address + i * self.width, i == beats - 1,
                                   self.now + self.latency) for i in range(beats))
            if "r" in done:
                self.read_at.append(self.now)
                read_open -= read_queue.popleft()[1]
            if "aw" in done:
                self.writes.append(self._burst(*offers["aw"][1:]))
                address, beats = self.writes[-1]
                data_queue.extend((address + i * self.width, i == beats - 1) for i in range(beats))
            if "w" in done:
                address, last = data_queue.popleft()
                _, word, strobe, wlast = offers["w"]
                assert wlast == last
                self.write_at.append(self.now)
                self.strobes.append(strobe)
                for lane in range(self.width):
                    if strobe >> lane & 1:
                        self.bytes[address + lane] = word >> 8 * lane & 255
                if last:
                    response_queue.append(self.now + self.latency)
            if "b" in done:
                response_queue.popleft()
                self.responses += 1
            self.most_reads = max(self.most_reads, read_open)
            self.most_writes = max(self.most_writes, len(self.writes) - self.responses)

            takes_address = not self.address_after_data or (ctx.get(axi.wvalid) and not data_queue)
            ctx.set(axi.arready, self._go())
            ctx.set(axi.awready, bool(takes_address) and self._go())
            ctx.set(axi.wready, bool(data_queue) and self._go())
            valid = bool(read_queue) and read_queue[0][2] <= self.now
            ctx.set(axi.rvalid, valid and (self._go() or (value["rvalid"] and "r" not in done)))
            if read_queue:
                address, last, _ = read_queue[0]
                ctx.set(axi.rdata, self.words(address, 1)[0])
                ctx.set(axi.rlast, last)
                ctx.set(axi.rresp, Resp.SLVERR if address in self.bad_reads else Resp.OKAY)
            valid = bool(response_queue) and response_queue[0] <= self.now
            ctx.set(axi.bvalid, valid and (self._go() or (value["bvalid"] and "b" not in done)))
            if response_queue:
                bad = self.writes[self.responses][0] in self.bad_writes
                ctx.set(axi.bresp, Resp.DECERR if bad else Resp.OKAY)


async def send(ctx, stream, payload) -> None:
    ctx.set(stream.payload, payload)
    ctx.set(stream.valid, 1)
    await ctx.tick().until(stream.ready)
    ctx.set(stream.valid, 0)


def commander(stream, commands: list[tuple[int, int]], idle=None):
    """Sends commands, then waits for ``idle``."""
    async def bench(ctx) -> None:
        for address, beats in commands:
            await send(ctx, stream, {"address": address, "beats": beats})
        if idle is not None:
            await ctx.tick().until(idle)
    return bench


def collector(stream, count: int, into: list[int], rng: random.Random | None = None):
    """Takes ``count`` words, with random pauses when there is a generator."""
    async def bench(ctx) -> None:
        while len(into) < count:
            ctx.set(stream.ready, rng is None or rng.random() < 0.5)
            _, _, valid, ready, payload = await ctx.tick().sample(stream.valid, stream.ready,
                                                                  stream.payload)
            if valid and ready:
                into.append(payload)
        ctx.set(stream.ready, 0)
    return bench


def feeder(stream, words: list[int], rng: random.Random | None = None):
    async def bench(ctx) -> None:
        for word in words:
            while rng and rng.random() < 0.5:
                await ctx.tick()
            await send(ctx, stream, word)
    return bench


def count_pulses(signal, into: list[int]):
    async def bench(ctx) -> None:
        while True:
            _, _, value = await ctx.tick().sample(signal)
            into[0] += value
    return bench


def random_commands(rng: random.Random, width: int, count: int) -> list[tuple[int, int]]:
    """Commands that do not overlap, across some 4 KiB boundaries."""
    commands, address = [], BOUNDARY - 24 * width
    for _ in range(count):
        beats = rng.choice([1, 2, 15, 16, 17, 40, rng.randrange(1, 70)])
        commands.append((address, beats))
        address += (beats + rng.randrange(1, 20)) * width
    return commands


def random_words(rng: random.Random, memory: Memory,
                 commands: list[tuple[int, int]]) -> tuple[list[int], bytearray]:
    """Words for write commands, and what the memory must hold when they are written."""
    words, expected = [], bytearray(memory.bytes)
    for address, beats in commands:
        block = rng.randbytes(beats * memory.width)
        words += [int.from_bytes(block[i:i + memory.width], "little")
                  for i in range(0, len(block), memory.width)]
        expected[address:address + len(block)] = block
    return words, expected


@pytest.mark.parametrize("data_bits", [32, 64])
def test_splitter_gives_a_burst_per_cycle(data_bits: int, seed: int) -> None:
    rng, width = random.Random(seed), data_bits // 8
    commands = random_commands(rng, width, 30)
    expected = [burst for command in commands for burst in split(*command, width)]
    dut = BurstSplitter(32, data_bits)
    got: list[tuple[int, int]] = []
    cycles: list[int] = []

    async def collect(ctx) -> None:
        ctx.set(dut.burst.ready, 1)
        burst = dut.burst.p
        async for _, _, valid, address, length in ctx.tick().sample(
                dut.burst.valid, burst.address, burst.length):
            cycles.append(valid)
            if valid:
                got.append((address, length + 1))
            if len(got) == len(expected):
                return

    pysim.run(dut, commander(dut.command, commands), collect, cycles=1000)
    assert got == expected
    assert cycles == [0] + [1] * len(expected)
    assert max(address for address, _ in got) > BOUNDARY


@pytest.mark.parametrize("data_bits", [32, 64])
@pytest.mark.parametrize("pause", [0.0, 0.4])
def test_read(data_bits: int, pause: float, seed: int) -> None:
    rng, dut = random.Random(seed), ReadDma(data_bits=data_bits)
    memory = Memory(dut.axi, seed=seed, pause=pause)
    commands = random_commands(rng, memory.width, 12)
    expected = [word for command in commands for word in memory.words(*command)]
    got: list[int] = []
    errors, beats = [0], [0]
    pysim.run(dut, commander(dut.command, commands, dut.idle),
              collector(dut.data, len(expected), got, rng if pause else None), cycles=20_000,
              background=(memory.serve, count_pulses(dut.error, errors),
                          count_pulses(dut.beat, beats)))
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

    pysim.run(dut, command, feeder(dut.data, words, rng if pause else None), cycles=20_000,
              background=(memory.serve, count_pulses(dut.error, errors),
                          count_pulses(dut.beat, beats)))
    assert memory.bytes == expected
    assert memory.writes == bursts
    assert responses == [len(bursts)]       # idle came with the last response, not earlier
    assert (errors, beats) == ([0], [len(words)])


#: Outstanding bursts, latency after which there would be gaps, commands.
GAPLESS = [
    (8, 60, [(0x100, 200), (0x1000, 16), (0x2000, 100), (0x2400, 8), (0x3000, 50)]),
    (8, 1, [(0x78, 1), (0x40, 1), (0x1000, 3), (0x2008, 1), (0x3008, 16)]),
    (4, 45, [(0, 256)]),
    (2, 13, [(0, 256)]),
]


@pytest.mark.parametrize("most,latency,commands", GAPLESS)
def test_read_streams_without_gaps(most: int, latency: int,
                                   commands: list[tuple[int, int]]) -> None:
    dut = ReadDma(max_outstanding=most)
    memory = Memory(dut.axi, latency=latency)
    got: list[int] = []
    count = sum(beats for _, beats in commands)
    pysim.run(dut, commander(dut.command, commands), collector(dut.data, count, got), cycles=2000,
              background=(memory.serve,))
    assert memory.read_at[-1] - memory.read_at[0] == count - 1
    # Accepted in cycle 1, split in 2, on the bus in 3, and the latency of the memory.
    assert memory.read_at[0] == 3 + 1 + latency


@pytest.mark.parametrize("most,latency,commands", GAPLESS)
def test_write_streams_without_gaps(most: int, latency: int,
                                    commands: list[tuple[int, int]]) -> None:
    dut = WriteDma(max_outstanding=most)
    memory = Memory(dut.axi, latency=latency)
    count = sum(beats for _, beats in commands)
    pysim.run(dut, commander(dut.command, commands, dut.idle),
              feeder(dut.data, list(range(count))), cycles=2000, background=(memory.serve,))
    assert memory.write_at[-1] - memory.write_at[0] == count - 1


@pytest.mark.parametrize("most", [1, 3])
def test_outstanding_bursts_are_limited(most: int, seed: int) -> None:
    dut = DmaPort(max_outstanding=most)
    memory = Memory(dut.axi, seed=seed, latency=200)
    commands, got = [(0, 100)], []
    words, expected = random_words(random.Random(seed), memory, commands)
    before = memory.words(0x4000, 100)
    pysim.run(dut, commander(dut.read_command, [(0x4000, 100)]),
              commander(dut.write_command, commands, dut.write_idle),
              feeder(dut.write_data, words), collector(dut.read_data, 100, got), cycles=5000,
              background=(memory.serve,))
    assert (memory.most_reads, memory.most_writes) == (most, most)
    assert got == before
    assert memory.bytes == expected


def test_port_moves_both_ways_at_once(seed: int) -> None:
    rng, dut = random.Random(seed), DmaPort()
    memory = Memory(dut.axi, seed=seed, pause=0.3)
    reads, writes = [(0, 150), (0x800, 3)], [(0x5000, 120), (0x6ff8, 2)]
    words, expected = random_words(rng, memory, writes)
    wanted = [word for command in reads for word in memory.words(*command)]
    got: list[int] = []
    counts = {name: [0] for name in ("read_beats", "write_beats", "error")}
    pysim.run(dut, commander(dut.read_command, reads, dut.read_idle),
              commander(dut.write_command, writes, dut.write_idle),
              feeder(dut.write_data, words, rng), collector(dut.read_data, len(wanted), got, rng),
              cycles=5000, background=(memory.serve, *(count_pulses(getattr(dut, name), into)
                                                       for name, into in counts.items())))
    assert got == wanted
    assert memory.bytes == expected
    assert counts == {"read_beats": [153], "write_beats": [122], "error": [0]}


def test_data_does_not_wait_for_the_address(seed: int) -> None:
    dut = WriteDma()
    memory = Memory(dut.axi, seed=seed, address_after_data=True)
    commands = [(0, 40), (0x1000, 5)]
    words, expected = random_words(random.Random(seed), memory, commands)
    pysim.run(dut, commander(dut.command, commands, dut.idle), feeder(dut.data, words),
              cycles=1000, background=(memory.serve,))
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
    pysim.run(dut, commander(dut.read_command, [(0, 40)], dut.read_idle),
              commander(dut.write_command, [(0x1000, 40)], dut.write_idle),
              collector(dut.read_data, 40, got), feeder(dut.write_data, [0] * 40), cycles=500,
              background=(memory.serve, *(count_pulses(getattr(dut, name), into)
                                          for name, into in counts.items())))
    assert (counts["read_error"], counts["write_error"]) == ([2], [1])
    assert got == memory.words(0, 40)       # data comes all the same


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
        # What the bus sees now it keeps; nothing new goes there, and nothing is waited for. The
        # memory still has to note the handshakes of the edge just past.
        await ctx.delay(1e-9)
        reads = len(memory.reads) + ctx.get(dut.axi.arvalid)
        writes = len(memory.writes) + ctx.get(dut.axi.awvalid)
        assert ctx.get(dut.read_command.ready & dut.write_data.ready)
        assert not ctx.get(dut.read_data.valid)
        await ctx.tick()
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
@pytest.mark.parametrize("name,value,message", [
    ("max_outstanding", 0, r"max_outstanding must be an integer in 1\.\.16, not 0"),
    ("max_outstanding", 17, r"max_outstanding must be an integer in 1\.\.16, not 17"),
    ("data_bits", 128, "data_bits must be 32 or 64, not 128"),
    ("addr_bits", 8, r"addr_bits must be an integer in 12\.\.64, not 8"),
    ("id_bits", 0, r"id_bits must be an integer in 1\.\.16, not 0"),
])
def test_init_wrong(dma, name: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dma(**{name: value})


def test_bursts_of_the_model_obey_axi3() -> None:
    bursts = split(BOUNDARY - 8, 40, 8)
    assert bursts == [(BOUNDARY - 8, 1), (BOUNDARY, 16), (BOUNDARY + 128, 16), (BOUNDARY + 256, 7)]
    assert all(a + 8 * n == b for (a, n), (b, _) in pairwise(bursts))
