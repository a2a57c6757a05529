# SPDX-License-Identifier: Apache-2.0
"""Bench of ``sim/test_regs.py``: what a driver does, with cocotbext-axi as the host."""

import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from gateware.arch.registers import COUNTERS, ID_VALUE, REGISTERS, ErrorCode
from gateware.rtl.register_file import COUNT_LAYOUT
from sim.world.axi3 import (
    PAUSES,
    AxiLiteBus,
    AxiLiteMaster,
    AxiMaster,
    AxiResp,
    axi3_bus,
    pause_generator,
)

OFFSET = {register.name: register.offset for register in REGISTERS}
STORED = ("PROGRAM_BASE", "INPUT_BASE", "OUTPUT_BASE", "WATCHDOG")
BASE = 0x4000_0000
INPUTS = ("busy", "done", "failed", "error_code", "descriptor_index", "count", "gp0__wid")


class Hosts:
    """Masters of both ports."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "axil_"), dut.clk, dut.rst)
        self.far = AxiMaster(axi3_bus(dut, "gp0"), dut.clk, dut.rst, max_burst_len=16)

    async def start(self, pauses: str = "none") -> None:
        """Start of the clock, reset, and pauses of all channels as in :mod:`sim.world.axi3`."""
        dut = self.dut
        for name in INPUTS:
            getattr(dut, name).value = 0
        dut.rst.value = 1
        Clock(dut.clk, 10, unit="ns").start()
        await ClockCycles(dut.clk, 3)
        dut.rst.value = 0
        await RisingEdge(dut.clk)
        for host in (self.lite, self.far):
            channels = (
                host.write_if.aw_channel,
                host.write_if.w_channel,
                host.write_if.b_channel,
                host.read_if.ar_channel,
                host.read_if.r_channel,
            )
            for channel in channels:
                channel.set_pause_generator(pause_generator(pauses, random.randrange(1 << 30)))

    async def read(self, name: str) -> int:
        """Value of a register, over AXI4-Lite."""
        response = await self.lite.read(OFFSET[name], 4)
        assert response.resp == AxiResp.OKAY
        return int.from_bytes(response.data, "little")

    async def write(self, name: str, value: int) -> None:
        """Access that writes a register, over AXI4-Lite."""
        response = await self.lite.write(OFFSET[name], value.to_bytes(4, "little"))
        assert response.resp == AxiResp.OKAY

    async def pulse(self, name: str) -> None:
        """Pulse of one cycle on an input."""
        await FallingEdge(self.dut.clk)
        getattr(self.dut, name).value = 1
        await FallingEdge(self.dut.clk)
        getattr(self.dut, name).value = 0


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pauses=PAUSES)
async def random_accesses(dut, pauses: str) -> None:
    """Accesses to bytes and runs of bytes, by both ways in turn; the two register files are
    independent."""
    hosts = Hosts(dut)
    await hosts.start(pauses)
    first, size = OFFSET[STORED[0]], 4 * len(STORED)
    models = {hosts.lite: bytearray(size), hosts.far: bytearray(size)}
    for _ in range(60):
        host = random.choice(list(models))
        base = BASE if host is hosts.far else 0
        start = random.randrange(size)
        end = random.randrange(start, size) + 1
        if random.random() < 0.5:
            block = random.randbytes(end - start)
            models[host][start:end] = block
            response = await host.write(base + first + start, block)
        else:
            response = await host.read(base + first + start, end - start)
            assert response.data == models[host][start:end]
        assert response.resp == AxiResp.OKAY


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(pauses=PAUSES)
async def refusals(dut, pauses: str) -> None:
    hosts = Hosts(dut)
    await hosts.start(pauses)
    readable = {register.offset for register in REGISTERS}
    writable = {register.offset for register in REGISTERS if register.access != "RO"}
    for host, base in (hosts.lite, 0), (hosts.far, BASE):
        for offset in [*random.sample(range(0, 0x80, 4), 12), 0xFFC]:
            response = await host.read(base + offset, 4)
            assert response.resp == (AxiResp.OKAY if offset in readable else AxiResp.SLVERR)
            response = await host.write(base + offset, bytes(4))
            assert response.resp == (AxiResp.OKAY if offset in writable else AxiResp.SLVERR)
    for address in (0, BASE - 4, BASE + 0x1000, 0xFFFF_FFFC):
        assert (await hosts.far.read(address, 4)).resp == AxiResp.DECERR
        assert (await hosts.far.write(address, bytes(4))).resp == AxiResp.DECERR
    response = await hosts.far.read(BASE, 4)
    assert (response.resp, response.data) == (AxiResp.OKAY, ID_VALUE.to_bytes(4, "little"))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def runs(dut) -> None:
    """Two runs: one that ends well, one that the watchdog stops."""
    hosts = Hosts(dut)
    await hosts.start()
    started = 0

    async def machine() -> None:
        nonlocal started
        while True:
            await RisingEdge(dut.clk)
            if int(dut.start.value):
                started += 1
                dut.busy.value = 1

    cocotb.start_soon(machine())
    await hosts.write("IRQ_ENABLE", 1)
    await hosts.write("CONTROL", 1)
    assert await hosts.read("STATUS") == 1
    await hosts.write("CONTROL", 1)
    assert started == 1
    for index, offset in enumerate(field.offset for _, field in COUNT_LAYOUT):
        await FallingEdge(dut.clk)
        dut.count.value = 1 << offset
        await ClockCycles(dut.clk, index + 1)
    await FallingEdge(dut.clk)
    dut.count.value = 0
    assert not int(dut.irq.value)
    await hosts.pulse("done")
    dut.busy.value = 0
    assert int(dut.irq.value)
    assert await hosts.read("STATUS") == 2
    assert [await hosts.read(name.upper()) for name in COUNTERS] == list(
        range(1, len(COUNTERS) + 1)
    )
    await hosts.write("IRQ_STATUS", 1)
    assert not int(dut.irq.value)

    await hosts.write("WATCHDOG", 200)
    dut.descriptor_index.value = 7
    await hosts.write("CONTROL", 1)
    assert not int(dut.watchdog.value)
    await RisingEdge(dut.watchdog)
    dut.error_code.value = ErrorCode.WATCHDOG
    await hosts.pulse("failed")
    dut.busy.value = 0
    assert await hosts.read("STATUS") == 4 | ErrorCode.WATCHDOG << 8
    assert await hosts.read("ERROR_DESCRIPTOR") == 7
    assert 200 < await hosts.read("CYCLES") < 210
    assert not int(dut.watchdog.value)
    assert int(dut.irq.value)
