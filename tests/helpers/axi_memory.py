# SPDX-License-Identifier: Apache-2.0
"""A memory behind AXI3 written in Python, and the ends of streams, for tests of DMA engines."""

import random
from collections import deque

from gateware.rtl.axi import BOUNDARY, BURST_BEATS, Burst, Resp


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

    def __init__(
        self,
        axi,
        *,
        seed: int = 1,
        pause: float = 0.0,
        latency: int = 5,
        address_after_data: bool = False,
    ) -> None:
        self.axi = axi
        self.width = len(axi.rdata) // 8
        self.random = random.Random(seed)
        self.bytes = bytearray(self.random.randbytes(1 << 15))
        self.pause = pause
        self.latency = latency
        self.address_after_data = address_after_data
        self.reads: list[tuple[int, int]] = []  # bursts accepted: address, beats
        self.writes: list[tuple[int, int]] = []
        self.read_at: list[int] = []  # cycle of each beat
        self.write_at: list[int] = []
        self.strobes: list[int] = []
        self.bad_reads: set[int] = set()  # addresses of beats that answer SLVERR
        self.bad_writes: set[int] = set()  # addresses of bursts that answer DECERR
        self.most_reads = self.most_writes = 0  # bursts open at once
        self.responses = 0
        self.now = 0

    def words(self, address: int, beats: int) -> list[int]:
        return [
            int.from_bytes(self.bytes[a : a + self.width], "little")
            for a in range(address, address + beats * self.width, self.width)
        ]

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
        held: dict[str, tuple] = {}  # offers that must not change until they are accepted
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
            done = {
                c for c in ("ar", "aw", "w", "r", "b") if value[f"{c}valid"] and value[f"{c}ready"]
            }

            if "ar" in done:
                self.reads.append(self._burst(*offers["ar"][1:]))
                address, beats = self.reads[-1]
                read_open += 1
                read_queue.extend(
                    (address + i * self.width, i == beats - 1, self.now + self.latency)
                    for i in range(beats)
                )
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
            _, _, valid, ready, payload = await ctx.tick().sample(
                stream.valid, stream.ready, stream.payload
            )
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


def random_words(
    rng: random.Random, memory: Memory, commands: list[tuple[int, int]]
) -> tuple[list[int], bytearray]:
    """Words for write commands, and what the memory must hold when they are written."""
    words, expected = [], bytearray(memory.bytes)
    for address, beats in commands:
        block = rng.randbytes(beats * memory.width)
        words += [
            int.from_bytes(block[i : i + memory.width], "little")
            for i in range(0, len(block), memory.width)
        ]
        expected[address : address + len(block)] = block
    return words, expected
