# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Serial line, block RAM and their bridge; whole systems are in ``sim/test_serial.py``."""

import random
import struct

import pytest
from amaranth import *
from amaranth.hdl import Fragment
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

import boards
from gateware.rtl.axi import Axi3Signature, AxiLiteSignature, Resp
from gateware.soc.ecp5 import Ecp5Top
from gateware.soc.memory import BANK_WORDS, BlockMemory
from gateware.soc.pll import Pll
from gateware.soc.serial import REGISTER_BASE, SerialBridge
from gateware.soc.serial_system import SerialSystem
from gateware.soc.uart import UartReceiver, UartTransmitter
from sim.backend import pysim

AXI = Axi3Signature(32, 32, 6)


class Loop(wiring.Component):
    """A transmitter on a receiver."""

    def __init__(self, send: int, receive: int) -> None:
        self._dividers = send, receive
        super().__init__(
            {
                "i": In(UartTransmitter(send).i.signature.flip()),
                "o": Out(UartReceiver(receive).o.signature),
                "noise": In(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.sender = sender = UartTransmitter(self._dividers[0])
        m.submodules.receiver = receiver = UartReceiver(self._dividers[1])
        connect(m, flipped(self.i), sender.i)
        connect(m, receiver.o, flipped(self.o))
        m.d.comb += receiver.rx.eq(sender.tx ^ self.noise)
        return m


@pytest.mark.parametrize(("send", "receive"), [(4, 4), (9, 9), (50, 51), (51, 50)])
def test_line_carries_every_byte(send: int, receive: int) -> None:
    """Also when the two ends differ by 2 %."""
    loop = Loop(send, receive)
    values, got = range(0, 256, 3 if send < 10 else 17), []

    async def sender(ctx) -> None:
        for value in values:
            ctx.set(loop.i.payload, value)
            ctx.set(loop.i.valid, 1)
            await ctx.tick().until(loop.i.ready)
        ctx.set(loop.i.valid, 0)

    async def receiver(ctx) -> None:
        ctx.set(loop.o.ready, 1)
        for _ in values:
            (value,) = await ctx.tick().sample(loop.o.payload).until(loop.o.valid)
            got.append(value)

    pysim.run(loop, sender, receiver, cycles=len(values) * 12 * max(send, receive))
    assert got == list(values)


def test_line_drops_glitches_and_bytes_without_a_stop_bit() -> None:
    loop = Loop(8, 8)
    got = []

    async def sender(ctx) -> None:
        ctx.set(loop.noise, 1)
        await ctx.tick().repeat(2)  # shorter than half a bit
        ctx.set(loop.noise, 0)
        await ctx.tick().repeat(100)
        ctx.set(loop.noise, 1)
        await ctx.tick().repeat(8 * 10)  # a break
        ctx.set(loop.noise, 0)
        await ctx.tick().repeat(100)
        ctx.set(loop.i.payload, 0xA5)
        ctx.set(loop.i.valid, 1)
        await ctx.tick().until(loop.i.ready)
        ctx.set(loop.i.valid, 0)
        await ctx.tick().repeat(200)

    async def receiver(ctx) -> None:
        ctx.set(loop.o.ready, 1)
        while True:
            await ctx.tick()
            if ctx.get(loop.o.valid):
                got.append(ctx.get(loop.o.payload))

    pysim.run(loop, sender, background=(receiver,), cycles=1000)
    assert got == [0xA5]


@pytest.mark.parametrize("bank_words", [BANK_WORDS, 256])
def test_block_memory_is_a_memory(
    bank_words: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random bursts with pauses, byte enables and accesses of the word port, against a model."""
    monkeypatch.setattr("gateware.soc.memory.BANK_WORDS", bank_words)
    size, rng = 4096, random.Random(seed)
    dut, model = BlockMemory(size, AXI), bytearray(4096)
    axi = dut.axi

    async def write_burst(ctx, word: int, beats: int) -> int:
        ctx.set(axi.awaddr, 4 * word)
        ctx.set(axi.awlen, beats - 1)
        ctx.set(axi.awid, word & 63)
        ctx.set(axi.awvalid, 1)
        await ctx.tick().until(axi.awready)
        ctx.set(axi.awvalid, 0)
        for beat in range(beats):
            if rng.random() < 0.3:
                await ctx.tick().repeat(rng.randrange(1, 4))
            data, strobe, at = rng.randbytes(4), rng.randrange(16), 4 * (word + beat)
            for lane in range(4):
                if strobe >> lane & 1 and at < size:
                    model[at + lane] = data[lane]
            ctx.set(axi.wdata, int.from_bytes(data, "little"))
            ctx.set(axi.wstrb, strobe)
            ctx.set(axi.wlast, beat == beats - 1)
            ctx.set(axi.wvalid, 1)
            await ctx.tick().until(axi.wready)
            ctx.set(axi.wvalid, 0)
        ctx.set(axi.bready, 1)
        resp, bid = await ctx.tick().sample(axi.bresp, axi.bid).until(axi.bvalid)
        ctx.set(axi.bready, 0)
        assert bid == word & 63
        return resp

    async def read_burst(ctx, word: int, beats: int) -> tuple[bytes, list[int]]:
        ctx.set(axi.araddr, 4 * word)
        ctx.set(axi.arlen, beats - 1)
        ctx.set(axi.arid, 5)
        ctx.set(axi.arvalid, 1)
        await ctx.tick().until(axi.arready)
        ctx.set(axi.arvalid, 0)
        found, resps = b"", []
        for beat in range(beats):
            if rng.random() < 0.3:
                await ctx.tick().repeat(rng.randrange(1, 4))
            ctx.set(axi.rready, 1)
            value, resp, last, rid = (
                await ctx.tick().sample(axi.rdata, axi.rresp, axi.rlast, axi.rid).until(axi.rvalid)
            )
            ctx.set(axi.rready, 0)
            assert (last, rid) == (beat == beats - 1, 5)
            found += value.to_bytes(4, "little")
            resps.append(resp)
        return found, resps

    async def word(ctx, index: int, value: int | None) -> int:
        ctx.set(dut.access.p.index, index)
        ctx.set(dut.access.p.write, value is not None)
        ctx.set(dut.access.p.data, value or 0)
        ctx.set(dut.access.valid, 1)
        await ctx.tick().until(dut.access.ready)
        ctx.set(dut.access.valid, 0)
        ctx.set(dut.answer.ready, 1)
        (got,) = await ctx.tick().sample(dut.answer.payload).until(dut.answer.valid)
        ctx.set(dut.answer.ready, 0)
        return got

    async def bench(ctx) -> None:
        last = size // 4
        for _ in range(80):
            start, beats = rng.randrange(last - 40, last), rng.randrange(1, 17)
            if rng.random() < 0.5:
                outside = start + beats > last
                assert await write_burst(ctx, start, beats) == (
                    Resp.DECERR if outside else Resp.OKAY
                )
            else:
                found, resps = await read_burst(ctx, start, beats)
                inside = min(beats, last - start)
                assert found[: 4 * inside] == model[4 * start : 4 * (start + inside)]
                assert resps == [Resp.OKAY] * inside + [Resp.DECERR] * (beats - inside)
            index, value = rng.randrange(last - 40, last), rng.randrange(1 << 32)
            assert await word(ctx, index, None) == int.from_bytes(
                model[4 * index : 4 * index + 4], "little"
            )
            await word(ctx, index, value)
            model[4 * index : 4 * index + 4] = value.to_bytes(4, "little")

    pysim.run(dut, bench, cycles=40_000)


def test_block_memory_reads_a_beat_per_cycle() -> None:
    dut = BlockMemory(4096, AXI)

    async def bench(ctx) -> None:
        ctx.set(dut.axi.arlen, 15)
        ctx.set(dut.axi.arvalid, 1)
        ctx.set(dut.axi.rready, 1)
        await ctx.tick()
        ctx.set(dut.axi.arvalid, 0)
        await ctx.tick().repeat(4)
        for _ in range(16):
            assert ctx.get(dut.axi.rvalid)
            await ctx.tick()
        assert not ctx.get(dut.axi.rvalid)

    pysim.run(dut, bench, cycles=40)


class Bridged(wiring.Component):
    """A bridge, a memory of 4 KiB, and one register at every address; address 8 is refused."""

    def __init__(self) -> None:
        byte = stream.Signature(8)
        super().__init__({"i": In(byte), "o": Out(byte), "reset": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.bridge = bridge = SerialBridge(
            addr_bits=12, memory_bytes=4096, silence_cycles=64
        )
        m.submodules.memory = memory = BlockMemory(4096, AXI)
        connect(m, flipped(self.i), bridge.i)
        connect(m, bridge.o, flipped(self.o))
        connect(m, bridge.access, memory.access)
        connect(m, memory.answer, bridge.answer)
        axil, register = bridge.axil, Signal(32)
        # Address and data are accepted in different cycles.
        m.d.comb += [
            self.reset.eq(bridge.reset),
            axil.awready.eq(1),
            axil.wready.eq(~axil.awvalid),
            axil.arready.eq(1),
        ]
        m.d.sync += [
            axil.bvalid.eq(axil.wvalid & axil.wready),
            axil.rvalid.eq(axil.arvalid),
            axil.rdata.eq(register),
        ]
        with m.If(axil.awvalid):
            m.d.sync += axil.bresp.eq(Mux(axil.awaddr == 8, Resp.SLVERR, Resp.OKAY))
        with m.If(axil.arvalid):
            m.d.sync += axil.rresp.eq(Mux(axil.araddr == 8, Resp.SLVERR, Resp.OKAY))
        with m.If(axil.wvalid & axil.wready):
            m.d.sync += register.eq(axil.wdata)
        return m


def command(code: bytes, address: int, words: int, data: bytes = b"") -> bytes:
    return code + struct.pack("<IH", address, words) + data


REGISTER = REGISTER_BASE + 4


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (
            command(b"W", 8, 2, b"abcdefgh") + command(b"R", 4, 4),
            b"\0" + bytes(4) + b"abcdefgh" + bytes(4) + b"\0",
        ),
        (command(b"W", REGISTER, 1, b"word") + command(b"R", REGISTER, 1), b"\0word\0"),
        (command(b"R", REGISTER_BASE + 8, 1), bytes(4) + b"\2"),
        (command(b"W", REGISTER_BASE + 8, 1, b"1234"), b"\2"),
        # The first refusal counts, and the others are still done.
        (
            command(b"W", REGISTER_BASE + 4, 3, b"111122223333") + command(b"R", REGISTER, 1),
            b"\x023333\0",
        ),
        (
            command(b"W", 4092, 2, b"11112222") + command(b"R", 4092, 2),
            b"\3" + b"1111" + bytes(4) + b"\3",
        ),
        (command(b"R", REGISTER_BASE + 4096, 1), bytes(4) + b"\3"),
        (command(b"R", 0, 0), b"\0"),
        (b"?\0" + command(b"R", 0, 0), b"\0"),
    ],
)
def test_commands(sent: bytes, answer: bytes) -> None:
    dut = Bridged()

    async def bench(ctx) -> None:
        for value in sent:
            ctx.set(dut.i.payload, value)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)

    async def host(ctx) -> None:
        ctx.set(dut.o.ready, 1)
        for value in answer:
            (got,) = await ctx.tick().sample(dut.o.payload).until(dut.o.valid)
            assert got == value

    pysim.run(dut, bench, host, cycles=500)


def test_silence_and_reset() -> None:
    """Half a command is forgotten; a reset is announced only when it is over."""
    dut = Bridged()

    async def bench(ctx) -> None:
        for value in b"R\0\0":
            ctx.set(dut.i.payload, value)
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)
        await ctx.tick().repeat(70)
        ctx.set(dut.i.payload, ord("X"))
        ctx.set(dut.i.valid, 1)
        await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        assert ctx.get(dut.reset)
        ctx.set(dut.o.ready, 1)
        (value, reset) = await ctx.tick().sample(dut.o.payload, dut.reset).until(dut.o.valid)
        assert (value, reset) == (0, 0)

    pysim.run(dut, bench, cycles=200)


@pytest.mark.parametrize(
    ("source", "target", "dividers"),
    [
        (25_000_000, 50_000_000, (1, 2, 12)),
        (100_000_000, 50_000_000, (2, 1, 12)),
        (25_000_000, 62_500_000, (2, 5, 10)),
        (100_000_000, 75_000_000, (4, 3, 8)),
    ],
)
def test_pll(source: int, target: int, dividers: tuple[int, int, int]) -> None:
    pll = Pll.solve(source, target)
    assert (pll.refclk, pll.feedback, pll.post) == dividers
    assert source * pll.feedback == target * pll.refclk


@pytest.mark.parametrize("target", [1_000_001, 900_000_000, 2_000_000, 26_000_000])
def test_pll_without_a_solution(target: int) -> None:
    with pytest.raises(ValueError, match="the PLL cannot make"):
        Pll.solve(25_000_000, target)


class Stub(wiring.Component):
    """The ports of an accelerator."""

    def __init__(self, bits: int = 32) -> None:
        super().__init__(
            {
                "axil": In(AxiLiteSignature(12, 32)),
                "hp0": Out(Axi3Signature(32, bits, 6)),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        return Module()


@pytest.mark.parametrize("name", ["ulx3s_85f", "ecpix5_85"])
def test_top_renders(name: str) -> None:
    plan = (
        boards.get(name)
        .platform()
        .build(Ecp5Top(Stub(), clock_hz=50_000_000, memory_bytes=4096), do_build=False)
    )
    assert 'FREQUENCY NET "' in plan.files["top.lpf"]
    assert "50000000.0 HZ" in plan.files["top.lpf"]
    assert plan.files["top.lpf"].count("LOCATE COMP") == 5  # clock, line, two lights
    assert "EHXPLLL" in plan.files["top.il"]


def test_top_needs_its_board() -> None:
    with pytest.raises(TypeError, match="Ecp5Top needs the platform of an ECP5 board, not "):
        Fragment.get(Ecp5Top(Stub(), clock_hz=50_000_000, memory_bytes=4096), None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UartReceiver(3), "divisor must be an integer of at least 4, not 3"),
        (lambda: UartTransmitter(3), "divisor must be an integer of at least 4, not 3"),
        (lambda: BlockMemory(5000, AXI), "size must be a power of two of at least 4096, not 5000"),
        (lambda: BlockMemory(2048, AXI), "size must be a power of two of at least 4096, not 2048"),
        (
            lambda: SerialBridge(addr_bits=12, memory_bytes=4096, silence_cycles=3),
            "silence_cycles must be a power of two of at least 16, not 3",
        ),
        (
            lambda: SerialSystem(Stub(64), memory_bytes=4096, divisor=4),
            "hp0 must be 32 bits wide, not 64",
        ),
        (
            lambda: Ecp5Top(Stub(), clock_hz=3_000_000, memory_bytes=4096),
            "a clock of 3 MHz gives no serial line of 1000000 baud",
        ),
        (
            lambda: Ecp5Top(Stub(), clock_hz=10_500_000, memory_bytes=4096),
            "a clock of 10.5 MHz gives no serial line of 1000000 baud",
        ),
    ],
)
def test_wrong_parameters(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
