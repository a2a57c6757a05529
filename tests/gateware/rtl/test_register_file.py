# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The register file as the host sees it."""

import pytest

from gateware.arch.config import AccelConfig
from gateware.arch.registers import COUNTERS, REGISTERS, ErrorCode, config_digest
from gateware.rtl.axi import Resp
from gateware.rtl.register_file import RegisterFile
from sim.backend import pysim

CONFIG = AccelConfig(pot4_rows=5, fixed4_rows=2, fixed8_rows=1, pixels=4)
OFFSET = {register.name: register.offset for register in REGISTERS}
START, ABORT = 1, 2


class Host:
    """Reads and writes registers by name or offset."""

    def __init__(self, dut: RegisterFile) -> None:
        self.axil = dut.axil

    async def read_response(self, ctx, offset: int) -> tuple[int, int]:
        axil = self.axil
        ctx.set(axil.araddr, offset)
        ctx.set(axil.arvalid, 1)
        await ctx.tick().until(axil.arready)
        ctx.set(axil.arvalid, 0)
        ctx.set(axil.rready, 1)
        data, resp = await ctx.tick().sample(axil.rdata, axil.rresp).until(axil.rvalid)
        ctx.set(axil.rready, 0)
        return data, resp

    async def read(self, ctx, name: str) -> int:
        data, resp = await self.read_response(ctx, OFFSET[name])
        assert resp == Resp.OKAY
        return data

    async def write_response(self, ctx, offset: int, value: int, strobe: int = 15) -> int:
        axil = self.axil
        ctx.set(axil.awaddr, offset)
        ctx.set(axil.wdata, value)
        ctx.set(axil.wstrb, strobe)
        ctx.set(axil.awvalid, 1)
        ctx.set(axil.wvalid, 1)
        await ctx.tick().until(axil.awready & axil.wready)
        ctx.set(axil.awvalid, 0)
        ctx.set(axil.wvalid, 0)
        ctx.set(axil.bready, 1)
        (resp,) = await ctx.tick().sample(axil.bresp).until(axil.bvalid)
        ctx.set(axil.bready, 0)
        return resp

    async def write(self, ctx, name: str, value: int, strobe: int = 15) -> None:
        """Returns when pulses that follow from the write are over."""
        assert await self.write_response(ctx, OFFSET[name], value, strobe) == Resp.OKAY
        await ctx.tick()


class Machine:
    """Stands for the accelerator: busy from start until ``end``, counts the pulses that it gets."""

    def __init__(self, dut: RegisterFile) -> None:
        self.dut = dut
        self.starts = self.aborts = 0
        self.ending = ""

    async def serve(self, ctx) -> None:
        while True:
            _, _, start, abort = await ctx.tick().sample(self.dut.start, self.dut.abort)
            self.starts += start
            self.aborts += abort
            ctx.set(self.dut.done, self.ending == "done")
            ctx.set(self.dut.failed, self.ending == "failed")
            if start:
                ctx.set(self.dut.busy, 1)
            elif self.ending:
                ctx.set(self.dut.busy, 0)
            self.ending = ""

    async def end(self, ctx, how: str = "done", error: ErrorCode = ErrorCode.NONE) -> None:
        ctx.set(self.dut.error_code, error)
        self.ending = how
        await ctx.tick()
        await ctx.tick()
        ctx.set(self.dut.error_code, 0xFF)  # sampled with `failed` only


def run(bench) -> None:
    """``bench(ctx, dut, host, machine)`` on a register file."""
    dut = RegisterFile(CONFIG)
    machine = Machine(dut)

    async def main(ctx) -> None:
        await bench(ctx, dut, Host(dut), machine)

    pysim.run(dut, main, cycles=20_000, background=(machine.serve,))


def test_constants() -> None:
    async def bench(ctx, dut, host, machine) -> None:
        assert await host.read(ctx, "ID") == 0x524D5350
        assert await host.read(ctx, "VERSION") == 0x0003_0000
        assert await host.read(ctx, "SHAPE") == 8 | 16 << 16 | 4 << 24
        assert await host.read(ctx, "CONFIG_DIGEST") == config_digest(CONFIG)
        assert await host.read(ctx, "CONTROL") == 0
        assert await host.read(ctx, "STATUS") == 0

    run(bench)


def test_storage_and_strobes() -> None:
    outputs = {
        "PROGRAM_BASE": "program_base",
        "INPUT_BASE": "input_base",
        "OUTPUT_BASE": "output_base",
        "PROGRAM_SIZE": "program_size",
        "INPUT_SIZE": "input_size",
        "OUTPUT_SIZE": "output_size",
        "WATCHDOG": "watchdog_limit",
    }

    async def bench(ctx, dut, host, machine) -> None:
        model = dict.fromkeys(outputs, 0)
        for strobe in range(16):
            for index, name in enumerate(outputs):
                value = 0x01020304 * (strobe + 1) + (index << 28)
                mask = sum(255 << 8 * lane for lane in range(4) if strobe >> lane & 1)
                model[name] = value & mask | model[name] & ~mask
                await host.write(ctx, name, value, strobe)
            for name, member in outputs.items():
                assert await host.read(ctx, name) == model[name]
                assert ctx.get(getattr(dut, member)) == model[name]

    run(bench)


def test_unmapped_and_forbidden_accesses() -> None:
    readable = {register.offset for register in REGISTERS}
    writable = {register.offset for register in REGISTERS if register.access != "RO"}

    async def bench(ctx, dut, host, machine) -> None:
        before = [await host.read(ctx, name) for name in OFFSET]
        for offset in [*range(0, 0x100, 4), 0x400, 0x800, 0xFFC]:
            data, resp = await host.read_response(ctx, offset)
            assert resp == (Resp.OKAY if offset in readable else Resp.SLVERR)
            assert offset in readable or data == 0
            if offset not in writable:
                assert await host.write_response(ctx, offset, 0xFFFFFFFF) == Resp.SLVERR
        assert [await host.read(ctx, name) for name in OFFSET] == before
        assert (machine.starts, machine.aborts) == (0, 0)

    run(bench)


def test_a_run_that_ends_well() -> None:
    async def bench(ctx, dut, host, machine) -> None:
        await host.write(ctx, "CONTROL", START)
        assert machine.starts == 1
        assert await host.read(ctx, "STATUS") == 1
        await host.write(ctx, "CONTROL", START)  # ignored while busy
        await machine.end(ctx)
        assert machine.starts == 1
        assert await host.read(ctx, "STATUS") == 2
        assert await host.read(ctx, "STATUS") == 2  # sticky
        await host.write(ctx, "CONTROL", START)
        assert await host.read(ctx, "STATUS") == 1  # until the next start
        assert machine.starts == 2

    run(bench)


def test_start_is_seen_in_the_status_at_once() -> None:
    async def bench(ctx, dut, host, machine) -> None:
        axil = dut.axil
        for signal, value in (
            (axil.awaddr, OFFSET["CONTROL"]),
            (axil.wdata, START),
            (axil.wstrb, 15),
            (axil.awvalid, 1),
            (axil.wvalid, 1),
        ):
            ctx.set(signal, value)
        await ctx.tick()
        ctx.set(axil.awvalid, 0)
        ctx.set(axil.wvalid, 0)
        assert await host.read(ctx, "STATUS") == 1

    run(bench)


@pytest.mark.parametrize("error", [e for e in ErrorCode if e])
def test_a_run_that_fails(error: ErrorCode) -> None:
    async def bench(ctx, dut, host, machine) -> None:
        await host.write(ctx, "CONTROL", START)
        ctx.set(dut.descriptor_index, 0xABC)
        await host.read(ctx, "ID")
        assert await host.read(ctx, "ERROR_DESCRIPTOR") == 0xABC
        await machine.end(ctx, "failed", error)
        ctx.set(dut.descriptor_index, 0)
        assert await host.read(ctx, "STATUS") == 4 | error << 8
        assert await host.read(ctx, "ERROR_DESCRIPTOR") == 0xABC
        await host.write(ctx, "CONTROL", START)
        assert await host.read(ctx, "STATUS") == 1
        await machine.end(ctx)
        assert await host.read(ctx, "STATUS") == 2
        assert await host.read(ctx, "ERROR_DESCRIPTOR") == 0

    run(bench)


def test_the_failing_descriptor_stays_while_the_machine_winds_down() -> None:
    dut = RegisterFile(CONFIG)
    host = Host(dut)

    async def bench(ctx) -> None:
        ctx.set(dut.busy, 1)
        ctx.set(dut.descriptor_index, 5)
        ctx.set(dut.error_code, ErrorCode.READ_ERROR)
        ctx.set(dut.failed, 1)
        await ctx.tick()
        ctx.set(dut.failed, 0)
        ctx.set(dut.descriptor_index, 6)
        await ctx.tick().repeat(3)
        assert await host.read(ctx, "ERROR_DESCRIPTOR") == 5

    pysim.run(dut, bench, cycles=100)


def test_abort() -> None:
    async def bench(ctx, dut, host, machine) -> None:
        await host.write(ctx, "CONTROL", ABORT)
        assert (machine.starts, machine.aborts) == (0, 1)  # the machine sorts out an idle one
        await host.write(ctx, "CONTROL", START | ABORT)
        assert (machine.starts, machine.aborts) == (0, 2)
        await host.write(ctx, "CONTROL", START, strobe=14)  # the bits are in byte 0
        assert (machine.starts, machine.aborts) == (0, 2)
        await host.write(ctx, "CONTROL", START)
        await host.write(ctx, "CONTROL", ABORT)
        assert (machine.starts, machine.aborts) == (1, 3)

    run(bench)


def test_interrupt() -> None:
    async def bench(ctx, dut, host, machine) -> None:
        await host.write(ctx, "CONTROL", START)
        await machine.end(ctx)
        assert not ctx.get(dut.irq)  # not enabled
        assert await host.read(ctx, "IRQ_STATUS") == 1
        await host.write(ctx, "IRQ_ENABLE", 0xFFFFFFFF)
        assert await host.read(ctx, "IRQ_ENABLE") == 1
        assert ctx.get(dut.irq)
        await host.write(ctx, "IRQ_STATUS", 0xFFFFFFFE)
        assert ctx.get(dut.irq)  # a zero clears nothing
        await host.write(ctx, "CONTROL", START)
        assert ctx.get(dut.irq)  # nor does start
        await host.write(ctx, "IRQ_STATUS", 1)
        assert not ctx.get(dut.irq)
        await machine.end(ctx, "failed", ErrorCode.ABORTED)
        assert ctx.get(dut.irq)
        await host.write(ctx, "IRQ_ENABLE", 0)
        assert not ctx.get(dut.irq)
        assert await host.read(ctx, "IRQ_STATUS") == 1

    run(bench)


def test_interrupt_is_not_lost_when_cleared_at_that_moment() -> None:
    async def bench(ctx, dut, host, machine) -> None:
        ctx.set(dut.done, 1)
        await host.write(ctx, "IRQ_STATUS", 1)
        ctx.set(dut.done, 0)
        assert await host.read(ctx, "IRQ_STATUS") == 1

    run(bench)


def test_counters() -> None:
    async def bench(ctx, dut, host, machine) -> None:
        await host.write(ctx, "CONTROL", START)
        for index, name in enumerate(COUNTERS):
            ctx.set(dut.count[name], 1)
            await ctx.tick().repeat(10 + index)
            ctx.set(dut.count[name], 0)
        await machine.end(ctx)
        cycles = await host.read(ctx, "CYCLES")
        assert cycles >= sum(10 + index for index in range(len(COUNTERS)))
        assert await host.read(ctx, "CYCLES") == cycles  # stands still when not busy
        for index, name in enumerate(COUNTERS):
            assert await host.read(ctx, name.upper()) == 10 + index
        await host.write(ctx, "CONTROL", START)
        for name in COUNTERS:
            assert await host.read(ctx, name.upper()) == 0
        assert await host.read(ctx, "CYCLES") < cycles

    run(bench)


def test_cycles_are_the_busy_ones() -> None:
    dut = RegisterFile(CONFIG)
    host = Host(dut)

    async def bench(ctx) -> None:
        ctx.set(dut.busy, 1)
        await ctx.tick().repeat(1000)
        ctx.set(dut.busy, 0)
        await ctx.tick()  # counters are a cycle late
        assert await host.read(ctx, "CYCLES") == 1000

    pysim.run(dut, bench, cycles=1100)


@pytest.mark.parametrize("limit", [1, 100])
def test_watchdog(limit: int) -> None:
    dut = RegisterFile(CONFIG)
    host = Host(dut)

    async def bench(ctx) -> None:
        await host.write(ctx, "WATCHDOG", limit)
        for _ in range(2):
            await host.write(ctx, "CONTROL", START)
            ctx.set(dut.busy, 1)
            for _ in range(limit + 2):
                assert not ctx.get(dut.watchdog)
                await ctx.tick()
            assert ctx.get(dut.watchdog)
            await ctx.tick().repeat(5)
            assert ctx.get(dut.watchdog)
            ctx.set(dut.busy, 0)
            await ctx.tick()
            assert not ctx.get(dut.watchdog)
        await host.write(ctx, "WATCHDOG", 0)
        await host.write(ctx, "CONTROL", START)
        ctx.set(dut.busy, 1)
        for _ in range(limit + 20):
            assert not ctx.get(dut.watchdog)
            await ctx.tick()

    pysim.run(dut, bench, cycles=1000)


def test_back_to_back_accesses_and_back_pressure() -> None:
    """One access per cycle each way, and answers that wait for a slow host."""
    dut = RegisterFile(CONFIG)
    axil = dut.axil

    async def bench(ctx) -> None:
        for signal in (axil.awvalid, axil.wvalid, axil.bready, axil.arvalid, axil.rready):
            ctx.set(signal, 1)
        ctx.set(axil.wstrb, 15)
        ctx.set(axil.awaddr, OFFSET["INPUT_BASE"])
        ctx.set(axil.araddr, OFFSET["INPUT_BASE"])
        for cycle in range(10):
            ctx.set(axil.wdata, cycle)
            assert ctx.get(axil.awready & axil.wready & axil.arready)
            if cycle:
                assert ctx.get(axil.bvalid & axil.rvalid)
            if cycle > 2:
                assert ctx.get(axil.rdata) == cycle - 3
            await ctx.tick()
        ctx.set(axil.bready, 0)
        ctx.set(axil.rready, 0)
        ctx.set(axil.araddr, OFFSET["ID"])
        held = ctx.get(axil.rdata)
        for _ in range(5):
            assert not ctx.get(axil.awready | axil.wready | axil.arready)
            assert ctx.get(axil.bvalid & axil.rvalid)
            assert ctx.get(axil.rdata) == held
            await ctx.tick()
        # Neither half of a write is taken without the other.
        ctx.set(axil.bready, 1)
        ctx.set(axil.awvalid, 0)
        await ctx.tick()
        assert not ctx.get(axil.awready | axil.wready)
        ctx.set(axil.awvalid, 1)
        ctx.set(axil.wvalid, 0)
        await ctx.tick()
        assert not ctx.get(axil.awready | axil.wready)

    pysim.run(dut, bench, cycles=100)
