# SPDX-License-Identifier: Apache-2.0
"""Bench of ``sim/test_dma.py``: DMA ports on cocotbext-axi's memory and on the DDR model."""

import os
import random
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge

from sim.world.axi3 import PAUSES, axi3_ram, pause_channels, pause_generator

WIDTH = 8  # bytes of the bus
SIZE = 1 << 16  # bytes of the memory in the bench
PAGE = 4096
GUARD = 0xAA
DDR_BASE = 0x10_0000
DDR_BYTES = 2048 * WIDTH

Command = tuple[int, int]  # address, beats


class Dma:
    """Command and data streams of the DMA port called ``prefix``.

    The bench acts at falling edges, so what it reads is what the next rising edge sees.
    """

    def __init__(self, dut, prefix: str) -> None:
        self.dut = dut
        self.prefix = prefix
        self.errors = {"read_error": 0, "write_error": 0}
        for name in (
            "read_command__valid",
            "write_command__valid",
            "write_data__valid",
            "read_data__ready",
            "flush",
            "read_command__payload",
            "write_command__payload",
            "write_data__payload",
        ):
            self[name].value = 0

    def __getitem__(self, name: str):
        return getattr(self.dut, f"{self.prefix}__{name}")

    async def watch_errors(self) -> None:
        """Count, for ever, of the pulses on ``read_error`` and ``write_error`` in ``errors``."""
        while True:
            await FallingEdge(self.dut.clk)
            for name in self.errors:
                self.errors[name] += int(self[name].value)

    async def send(self, stream: str, payload: int) -> None:
        """Transfer of one payload over a stream; returns after it was taken."""
        self[f"{stream}__payload"].value = payload
        self[f"{stream}__valid"].value = 1
        while True:
            await RisingEdge(self.dut.clk)
            if int(self[f"{stream}__ready"].value):
                break
        await FallingEdge(self.dut.clk)
        self[f"{stream}__valid"].value = 0

    async def command(self, direction: str, address: int, beats: int) -> None:
        """Transfer of one command, ``read`` or ``write``, from byte ``address`` on."""
        await self.send(f"{direction}_command", address | beats << 32)

    async def until(self, name: str) -> None:
        """Delay until an output is high."""
        while not int(self[name].value):
            await FallingEdge(self.dut.clk)

    async def read(self, commands: list[Command], pause=None) -> list[int]:
        """Words of all commands, taken with pauses by the generator ``pause``."""
        sender = cocotb.start_soon(self._commands("read", commands))
        words = await self.collect(sum(beats for _, beats in commands), pause)
        await sender
        await self.until("read_idle")
        return words

    async def collect(self, count: int, pause=None) -> list[int]:
        """Words of the read data, ``count`` of them, taken with pauses by generator ``pause``."""
        words: list[int] = []
        while len(words) < count:
            self["read_data__ready"].value = not (pause and next(pause))
            await RisingEdge(self.dut.clk)
            if int(self["read_data__valid"].value) and int(self["read_data__ready"].value):
                words.append(int(self["read_data__payload"].value))
            await FallingEdge(self.dut.clk)
        self["read_data__ready"].value = 0
        return words

    async def write(self, commands: list[Command], words: list[int], pause=None) -> None:
        """Transfer of ``words``, offered with pauses; returns when the last response has come."""
        sender = cocotb.start_soon(self._commands("write", commands))
        for word in words:
            while pause and next(pause):
                await FallingEdge(self.dut.clk)
            await self.send("write_data", word)
        await sender
        await self.until("write_idle")

    async def _commands(self, direction: str, commands: list[Command]) -> None:
        for address, beats in commands:
            await self.command(direction, address, beats)


def rest(dut) -> None:
    """Idle inputs of ``hp0``, on which nothing answers."""
    for name in (
        "arready",
        "awready",
        "wready",
        "rvalid",
        "rdata",
        "rresp",
        "rlast",
        "rid",
        "bvalid",
        "bresp",
        "bid",
    ):
        getattr(dut, f"hp0__{name}").value = 0


async def start(dut) -> tuple[Dma, Dma]:
    """Start of clock and reset; the DMA on the bench's memory and the one on the DDR model."""
    ports = Dma(dut, "ram"), Dma(dut, "ddr")
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    for port in ports:
        cocotb.start_soon(port.watch_errors())
    await FallingEdge(dut.clk)
    return ports


async def start_ddr(dut) -> Dma:
    """DMA on the DDR model, after the reset."""
    rest(dut)
    _, dma = await start(dut)
    return dma


async def start_ram(dut, pauses: str = "none"):
    """DMA on ``hp0`` and its memory, which holds guard bytes, after the reset."""
    ram = axi3_ram(dut, "hp0", SIZE)
    ram.write(0, bytes([GUARD]) * SIZE)
    dma, _ = await start(dut)
    pause_channels(ram, pauses, random.randrange(1 << 30))
    return dma, ram


def random_commands(start: int, end: int) -> list[Command]:
    """Commands in ascending order with gaps between, from below the first page boundary on."""
    commands, address = [], start + PAGE - 24 * WIDTH
    while True:
        beats = random.choice([1, 2, 15, 16, 17, random.randrange(1, 80)])
        if address + beats * WIDTH > end:
            return commands
        commands.append((address, beats))
        address += (beats + random.randrange(1, 8)) * WIDTH


def words_of(block: bytes) -> list[int]:
    """Bus words of the bytes of ``block``."""
    return [int.from_bytes(block[i : i + WIDTH], "little") for i in range(0, len(block), WIDTH)]


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(memory=PAUSES, consumer=PAUSES)
async def ram_read(dut, memory: str, consumer: str) -> None:
    dma, ram = await start_ram(dut, memory)
    commands = random_commands(0, 2 * PAGE)[:12]
    ram.write(0, random.randbytes(SIZE))
    expected = [
        word for address, beats in commands for word in words_of(ram.read(address, beats * WIDTH))
    ]
    got = await dma.read(commands, pause_generator(consumer, random.randrange(1 << 30)))
    assert got == expected
    assert dma.errors == {"read_error": 0, "write_error": 0}


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(memory=PAUSES, producer=PAUSES)
async def ram_write(dut, memory: str, producer: str) -> None:
    dma, ram = await start_ram(dut, memory)
    commands = random_commands(0, 2 * PAGE)[:12]
    expected = bytearray([GUARD]) * SIZE
    words = []
    for address, beats in commands:
        block = random.randbytes(beats * WIDTH)
        expected[address : address + len(block)] = block
        words += words_of(block)
    await dma.write(commands, words, pause_generator(producer, random.randrange(1 << 30)))
    assert ram.read(0, SIZE) == expected  # at idle, not later; guard bytes included
    assert dma.errors == {"read_error": 0, "write_error": 0}


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def ram_both_ways(dut) -> None:
    dma, ram = await start_ram(dut, "random")
    source, block = random.randbytes(2000 * WIDTH), random.randbytes(300 * WIDTH)
    ram.write(0, source)
    writer = cocotb.start_soon(dma.write([(0x8FF0, 300)], words_of(block)))
    assert await dma.read([(0x18, 300)]) == words_of(source)[3:303]
    await writer
    expected = bytearray([GUARD]) * SIZE
    expected[: len(source)] = source
    expected[0x8FF0 : 0x8FF0 + len(block)] = block
    assert ram.read(0, SIZE) == expected


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def ram_errors(dut) -> None:
    dma, ram = await start_ram(dut)

    async def refuse(address: int, *_) -> bytes:
        if address == 0x88:
            raise ValueError("refused")
        return bytes(WIDTH)

    ram.read_if._read = refuse
    ram.write_if._write = refuse
    assert await dma.read([(0, 64)]) == [0] * 64
    await dma.write([(0, 64)], [0] * 64)
    assert dma.errors == {"read_error": 1, "write_error": 1}
    await dma.command("read", 0x104, 1)
    await dma.command("write", 0x101, 1)
    await FallingEdge(dut.clk)
    assert dma.errors == {"read_error": 2, "write_error": 2}
    assert int(dma["idle"].value)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pauses=PAUSES)
async def ram_flush(dut, pauses: str) -> None:
    dma, ram = await start_ram(dut, pauses)
    for _ in range(5):
        ram.write(0, bytes([GUARD]) * SIZE)
        dma["write_data__payload"].value = 0
        dma["write_data__valid"].value = 1
        dma["read_data__ready"].value = 1
        await dma.command("write", 0x1000, 1000)
        await dma.command("read", 0, 1000)
        for _ in range(random.randrange(300)):
            await FallingEdge(dut.clk)
        dma["flush"].value = 1
        await FallingEdge(dut.clk)
        dma["flush"].value = 0
        dma["write_data__valid"].value = 0
        dma["read_data__ready"].value = 0
        await FallingEdge(dut.clk)
        await dma.until("idle")
        written = ram.read(0, SIZE).count(0)
        expected = bytearray([GUARD]) * SIZE
        expected[0x1000 : 0x1000 + written] = bytes(written)
        assert ram.read(0, SIZE) == expected
        await dma.write([(0x4008, 20)], list(range(20)))
        assert await dma.read([(0x4000, 22)]) == [
            GUARD * 0x0101010101010101,
            *range(20),
            GUARD * 0x0101010101010101,
        ]
    assert dma.errors == {"read_error": 0, "write_error": 0}


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def ddr_random(dut) -> None:
    """Random blocks written, read back, and both at once; what is between them stays."""
    dma = await start_ddr(dut)
    commands = random_commands(DDR_BASE, DDR_BASE + DDR_BYTES)[:25]
    model = bytearray(random.randbytes(DDR_BYTES))
    whole = [(DDR_BASE, DDR_BYTES // WIDTH)]
    await dma.write(whole, words_of(model))
    words = []
    for address, beats in commands:
        block = random.randbytes(beats * WIDTH)
        model[address - DDR_BASE : address - DDR_BASE + len(block)] = block
        words += words_of(block)
    await dma.write(commands, words)
    assert await dma.read(whole) == words_of(model)

    half = DDR_BYTES // 2
    block = random.randbytes(half)
    writer = cocotb.start_soon(dma.write([(DDR_BASE, half // WIDTH)], words_of(block)))
    got = await dma.read([(DDR_BASE + half, half // WIDTH)])
    await writer
    assert got == words_of(model[half:])
    memory = dut.memory.model.mem
    assert [int(memory[i].value) for i in range(half // WIDTH)] == words_of(block)
    assert dma.errors == {"read_error": 0, "write_error": 0}
    assert int(dut.violation.value) == 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def ddr_ends(dut) -> None:
    """Both ends of the memory; outside, every beat or burst is refused."""
    dma = await start_ddr(dut)
    end = DDR_BASE + DDR_BYTES
    await dma.write([(DDR_BASE, 1), (end - WIDTH, 1)], [1, 2])
    assert await dma.read([(DDR_BASE, 1), (end - WIDTH, 1)]) == [1, 2]
    assert dma.errors == {"read_error": 0, "write_error": 0}
    await dma.read([(DDR_BASE - WIDTH, 1), (end, 3), (0, 1), (0xFFFF_FFF8, 1)])
    assert dma.errors["read_error"] == 6
    await dma.write([(DDR_BASE - WIDTH, 1), (end, 3), (0, 1), (0xFFFF_FFF8, 1)], [9] * 6)
    assert dma.errors["write_error"] == 4
    assert await dma.read([(DDR_BASE, 1), (end - WIDTH, 1)]) == [1, 2]
    assert int(dut.violation.value) == 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def ddr_flush_breaks_no_rule(dut) -> None:
    dma = await start_ddr(dut)
    for _ in range(10):
        dma["write_data__valid"].value = 1
        dma["read_data__ready"].value = 1
        await dma.command("write", DDR_BASE, 1000)
        await dma.command("read", DDR_BASE, 1000)
        for _ in range(random.randrange(200)):
            await FallingEdge(dut.clk)
        dma["flush"].value = 1
        await FallingEdge(dut.clk)
        dma["flush"].value = 0
        dma["write_data__valid"].value = 0
        await FallingEdge(dut.clk)
        await dma.until("idle")
    assert int(dut.violation.value) == 0


@cocotb.test(timeout_time=1, timeout_unit="ms", skip="DDR_CONTENTS" not in os.environ)
async def ddr_contents(dut) -> None:
    expected = [int(line, 16) for line in Path(os.environ["DDR_CONTENTS"]).read_text().split()]
    dma = await start_ddr(dut)
    assert await dma.read([(DDR_BASE, len(expected))]) == expected


@cocotb.test(timeout_time=1, timeout_unit="ms", skip="LATENCY" not in os.environ)
async def ddr_latency(dut) -> None:
    """Latency of the first beat, LATENCY cycles after its address; the others come without gaps."""
    dma = await start_ddr(dut)
    dma["read_data__ready"].value = 1
    await dma.command("read", DDR_BASE, 100)  # returns two cycles before the address is out
    arrived = []
    for cycle in range(400):
        if int(dma["read_data__valid"].value):
            arrived.append(cycle)
        await FallingEdge(dut.clk)
    latency = int(os.environ["LATENCY"])
    # A cycle more for the register behind the bus.
    assert arrived == list(range(3 + latency, 3 + latency + 100))


@cocotb.test(timeout_time=1, timeout_unit="ms", skip="BEATS" not in os.environ)
async def ddr_bandwidth(dut) -> None:
    """Bandwidth: one direction alone gets BEATS in CYCLES, both together share it evenly."""
    dma = await start_ddr(dut)
    beats, cycles = int(os.environ["BEATS"]), int(os.environ["CYCLES"])
    dma["read_data__ready"].value = 1
    dma["write_data__valid"].value = 1

    async def count(span: int) -> tuple[int, int]:
        reads = writes = 0
        for _ in range(span):
            await FallingEdge(dut.clk)
            reads += int(dma["read_beats"].value)
            writes += int(dma["write_beats"].value)
        return reads, writes

    span, slack = 100 * cycles, 2
    await dma.command("read", DDR_BASE, 1000)
    await count(100)
    reads, _ = await count(span)
    assert abs(reads - 100 * beats) <= slack
    await dma.command("write", DDR_BASE, 1000)
    await count(100)
    reads, writes = await count(span)
    assert abs(reads + writes - 100 * beats) <= slack
    assert abs(reads - writes) <= slack


@cocotb.test(timeout_time=1, timeout_unit="ms", skip="DIRECTION" not in os.environ)
async def ddr_error(dut) -> None:
    dma = await start_ddr(dut)
    if os.environ["DIRECTION"] == "read":
        await dma.write([(DDR_BASE, 64)], [0] * 64)
        await dma.read([(DDR_BASE, 64)])
        assert dma.errors == {"read_error": 1, "write_error": 0}
    else:
        await dma.write([(DDR_BASE, 64)], [0] * 64)
        assert dma.errors == {"read_error": 0, "write_error": 1}
