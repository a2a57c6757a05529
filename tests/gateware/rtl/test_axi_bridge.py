# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Bridge from AXI3 to AXI4-Lite between a master and a slave with random pauses."""

import random

import pytest

from gateware.rtl.axi import Burst, Resp
from gateware.rtl.axi_bridge import Axi3ToLite
from sim.backend import pysim

BASE = 0x4000_0000


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: Axi3ToLite(addr_bits=2), r"addr_bits must be an integer in 3\.\.32, not 2"),
        (
            lambda: Axi3ToLite(addr_bits=12, base=0x4000_0800),
            "base must be a multiple of 0x1000, not 0x40000800",
        ),
    ],
)
def test_init_wrong(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class LiteSlave:
    """256 words of memory; word 13 refuses. Pauses at random on every channel."""

    REFUSES = 13

    def __init__(self, lite, rng: random.Random, pause: float) -> None:
        self.lite, self.random, self.pause = lite, rng, pause
        self.words = [rng.getrandbits(32) for _ in range(256)]
        self.accesses = 0

    def _go(self) -> bool:
        return self.random.random() >= self.pause

    async def serve(self, ctx) -> None:
        lite, address, word, read, answer = self.lite, None, None, None, None
        while True:
            ctx.set(lite.arready, read is None and self._go())
            ctx.set(lite.awready, address is None and answer is None and self._go())
            ctx.set(lite.wready, word is None and answer is None and self._go())
            values = await ctx.tick().sample(
                lite.arvalid & lite.arready,
                lite.araddr,
                lite.awvalid & lite.awready,
                lite.awaddr,
                lite.wvalid & lite.wready,
                lite.wdata,
                lite.wstrb,
                lite.rvalid & lite.rready,
                lite.bvalid & lite.bready,
            )
            _, _, ar, araddr, aw, awaddr, w, wdata, wstrb, r, b = values
            if r:
                read = None
                ctx.set(lite.rvalid, 0)
            if b:
                answer = None
                ctx.set(lite.bvalid, 0)
            if ar:
                read = araddr >> 2
            if aw:
                address = awaddr >> 2
            if w:
                word = (wdata, wstrb)
            if address is not None and word is not None:
                self.accesses += 1
                if address == self.REFUSES:
                    answer = Resp.SLVERR
                else:
                    answer = Resp.OKAY
                    mask = sum(255 << 8 * lane for lane in range(4) if word[1] >> lane & 1)
                    self.words[address] = word[0] & mask | self.words[address] & ~mask
                address = word = None
            if answer is not None and self._go():
                ctx.set(lite.bvalid, 1)
                ctx.set(lite.bresp, answer)
            if read is not None and (ctx.get(lite.rvalid) or self._go()):
                if not ctx.get(lite.rvalid):
                    self.accesses += 1
                ctx.set(lite.rvalid, 1)
                ctx.set(lite.rdata, self.words[read])
                ctx.set(lite.rresp, Resp.SLVERR if read == self.REFUSES else Resp.OKAY)


class Master:
    """Issues AXI3 accesses with random pauses."""

    def __init__(self, axi, rng: random.Random, pause: float) -> None:
        self.axi, self.random, self.pause = axi, rng, pause

    async def _pause(self, ctx) -> None:
        while self.random.random() < self.pause:
            await ctx.tick()

    async def _address(
        self, ctx, channel: str, address: int, beats: int, burst: Burst, size: int
    ) -> int:
        await self._pause(ctx)
        id_ = self.random.getrandbits(12)
        for name, value in {
            "addr": address,
            "len": beats - 1,
            "burst": burst,
            "size": size,
            "id": id_,
            "valid": 1,
        }.items():
            ctx.set(getattr(self.axi, channel + name), value)
        await ctx.tick().until(getattr(self.axi, f"{channel}ready"))
        ctx.set(getattr(self.axi, f"{channel}valid"), 0)
        return id_

    async def read(
        self, ctx, address: int, beats: int = 1, burst: Burst = Burst.INCR, size: int = 2
    ) -> list[tuple[int, int]]:
        """(data, response) of each beat."""
        axi, got = self.axi, []
        id_ = await self._address(ctx, "ar", address, beats, burst, size)
        for beat in range(beats):
            await self._pause(ctx)
            ctx.set(axi.rready, 1)
            rid, data, resp, last = (
                await ctx.tick().sample(axi.rid, axi.rdata, axi.rresp, axi.rlast).until(axi.rvalid)
            )
            ctx.set(axi.rready, 0)
            assert rid == id_
            assert last == (beat == beats - 1)
            got.append((data, resp))
        return got

    async def write(
        self,
        ctx,
        address: int,
        words: list[int],
        burst: Burst = Burst.INCR,
        strobes: list[int] | None = None,
        size: int = 2,
    ) -> int:
        """The response."""
        axi = self.axi
        id_ = await self._address(ctx, "aw", address, len(words), burst, size)
        for beat, word in enumerate(words):
            await self._pause(ctx)
            ctx.set(axi.wdata, word)
            ctx.set(axi.wstrb, strobes[beat] if strobes else 15)
            ctx.set(axi.wlast, beat == len(words) - 1)
            ctx.set(axi.wvalid, 1)
            await ctx.tick().until(axi.wready)
            ctx.set(axi.wvalid, 0)
        await self._pause(ctx)
        ctx.set(axi.bready, 1)
        bid, resp = await ctx.tick().sample(axi.bid, axi.bresp).until(axi.bvalid)
        ctx.set(axi.bready, 0)
        assert bid == id_
        return resp


def run_bridge(bench, seed: int, pause: float = 0.0) -> None:
    """``bench(ctx, master, slave)`` on a bridge."""
    rng, dut = random.Random(seed), Axi3ToLite(addr_bits=10, base=BASE)
    slave, master = LiteSlave(dut.lite, rng, pause), Master(dut.axi3, rng, pause)

    async def main(ctx) -> None:
        await bench(ctx, master, slave)

    pysim.run(dut, main, cycles=20_000, background=(slave.serve,))


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_single_accesses(pause: float, seed: int) -> None:
    async def bench(ctx, master: Master, slave: LiteSlave) -> None:
        model, rng = list(slave.words), random.Random(seed + 1)
        for _ in range(60):
            index = rng.choice([n for n in range(256) if n != slave.REFUSES])
            if rng.random() < 0.5:
                word, strobe = rng.getrandbits(32), rng.getrandbits(4)
                resp = await master.write(ctx, BASE + 4 * index, [word], strobes=[strobe])
                assert resp == Resp.OKAY
                for lane in range(4):
                    if strobe >> lane & 1:
                        model[index] = model[index] & ~(255 << 8 * lane) | word & 255 << 8 * lane
            else:
                assert await master.read(ctx, BASE + 4 * index) == [(model[index], Resp.OKAY)]
        assert slave.words == model
        assert slave.accesses == 60

    run_bridge(bench, seed, pause)


@pytest.mark.parametrize("pause", [0.0, 0.5])
@pytest.mark.parametrize("beats", [2, 4, 16])
def test_bursts_are_split(beats: int, pause: float, seed: int) -> None:
    async def bench(ctx, master: Master, slave: LiteSlave) -> None:
        model, rng = list(slave.words), random.Random(seed + 1)
        words = [rng.getrandbits(32) for _ in range(beats)]
        assert await master.write(ctx, BASE + 0x100, words) == Resp.OKAY
        model[64 : 64 + beats] = words
        assert slave.words == model
        got = await master.read(ctx, BASE + 0x100, beats)
        assert got == [(word, Resp.OKAY) for word in words]

        # Wrapping: starts in the middle, comes back to the first.
        half = beats // 2
        got = await master.read(ctx, BASE + 0x100 + 4 * half, beats, Burst.WRAP)
        assert got == [(word, Resp.OKAY) for word in words[half:] + words[:half]]
        assert await master.write(ctx, BASE + 0x104, words, Burst.WRAP) == Resp.OKAY
        model[64 : 64 + beats] = words[-1:] + words[:-1]
        assert slave.words == model

        # Fixed: every beat to the same word.
        assert await master.write(ctx, BASE + 0x200, words, Burst.FIXED) == Resp.OKAY
        model[128] = words[-1]
        assert slave.words == model
        got = await master.read(ctx, BASE + 0x200, beats, Burst.FIXED)
        assert got == [(words[-1], Resp.OKAY)] * beats

        # Bytes and half words: the address moves by as much.
        strobes = [1 << beat % 4 for beat in range(beats)]
        assert await master.write(ctx, BASE + 0x300, words, strobes=strobes, size=0) == Resp.OKAY
        for beat, word in enumerate(words):
            mask = 255 << 8 * (beat % 4)
            model[192 + beat // 4] = model[192 + beat // 4] & ~mask | word & mask
        assert slave.words == model
        got = await master.read(ctx, BASE + 0x300, beats, size=1)
        assert got == [(model[192 + beat // 2], Resp.OKAY) for beat in range(beats)]

    run_bridge(bench, seed, pause)


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_refusals_are_passed_on(pause: float, seed: int) -> None:
    async def bench(ctx, master: Master, slave: LiteSlave) -> None:
        refused = BASE + 4 * slave.REFUSES
        assert await master.write(ctx, refused, [1]) == Resp.SLVERR
        assert (await master.read(ctx, refused))[0][1] == Resp.SLVERR
        # In the middle of a burst: each beat read has its own, a write has the first one.
        responses = [resp for _, resp in await master.read(ctx, refused - 4, 3)]
        assert responses == [Resp.OKAY, Resp.SLVERR, Resp.OKAY]
        assert await master.write(ctx, refused - 4, [1, 2, 3]) == Resp.SLVERR
        assert slave.words[slave.REFUSES - 1 : slave.REFUSES + 2 : 2] == [1, 3]
        assert await master.write(ctx, refused + 4, [4]) == Resp.OKAY

    run_bridge(bench, seed, pause)


def test_outside_the_window_nothing_is_accessed(seed: int) -> None:
    async def bench(ctx, master: Master, slave: LiteSlave) -> None:
        before = list(slave.words)
        for address in (0, BASE - 4, BASE + 0x400, BASE + 0x1000_0000):
            assert await master.read(ctx, address) == [(0, Resp.DECERR)]
            assert await master.write(ctx, address, [1]) == Resp.DECERR
        assert (slave.words, slave.accesses) == (before, 0)
        # A burst that runs out of the window.
        got = await master.read(ctx, BASE + 0x3FC, 2)
        assert got == [(before[255], Resp.OKAY), (0, Resp.DECERR)]
        assert await master.write(ctx, BASE + 0x3FC, [7, 8, 9]) == Resp.DECERR
        assert slave.words == [*before[:255], 7]

    run_bridge(bench, seed)


def test_reads_and_writes_take_turns(seed: int) -> None:
    """Neither a flood of reads nor a flood of writes keeps the other waiting."""
    rng, dut = random.Random(seed), Axi3ToLite(addr_bits=10, base=BASE)
    slave, master = LiteSlave(dut.lite, rng, 0.0), Master(dut.axi3, rng, 0.0)
    order: list[str] = []

    async def reads(ctx) -> None:
        for _ in range(10):
            await master.read(ctx, BASE)
            order.append("r")

    async def writes(ctx) -> None:
        for _ in range(10):
            await master.write(ctx, BASE, [1])
            order.append("w")

    pysim.run(dut, reads, writes, cycles=1000, background=(slave.serve,))
    assert order[:16] in (["r", "w"] * 8, ["w", "r"] * 8)
