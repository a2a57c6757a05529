# SPDX-License-Identifier: Apache-2.0
"""Bench of ``sim/test_serial.py``: driver, serial line, block RAM, accelerator of an ECP5 board."""

import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.task import bridge
from cocotb.triggers import ClockCycles

from boards.driver import Accelerator, NoHardware, Package, RunFailed, SerialHardware
from boards.driver.serial import READ, WRITE
from sim.benches.accelerator_bench import check_bus
from sim.world.simulated_line import SimulatedLine

CLOCK_NS = 20


@cocotb.test()
async def runs(dut) -> None:
    """Self-test over the line, an error, a reset, refused accesses, half a command."""
    package = Package(Path(os.environ["DRIVER_PACKAGE"]))
    connection = package.accelerator["connection"]
    line = SimulatedLine(dut, CLOCK_NS * int(os.environ["SERIAL_DIVISOR"]))
    dut.rst.value = 1
    Clock(dut.clk, CLOCK_NS, unit="ns", impl="gpi").start()
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0

    def refused(address: int, *, write: bool) -> None:
        try:
            hardware.write_words(address, bytes(4)) if write else hardware.read_words(address, 1)
            raise AssertionError(f"{address:#x} not refused")
        except NoHardware as error:
            assert f"refused an access to {address:#x}" in str(error)

    def program() -> None:
        nonlocal hardware
        line.send(WRITE + b"\0\0\0")  # a program that died
        hardware = SerialHardware(connection, line)
        with Accelerator(hardware, package, timeout=0.01) as accelerator:
            result = accelerator.selftest(2)
            assert (result.images, result.wrong) == (2, [])
            dut._log.warning("%s cycles per image", result.cycles)

            opcode = hardware.read_words(0, 1)
            hardware.write_words(0, b"\xee\0\0\0")
            try:
                accelerator.run(package.golden()["images"][0])
                raise AssertionError("no error")
            except RunFailed as error:
                assert error.code == "BAD_DESCRIPTOR"
            hardware.write_words(0, opcode)
            hardware.reset()
            accelerator._prepare()
            assert accelerator.selftest(1).wrong == []

            size = connection["memory_bytes"]
            for address, write in (
                (size, False),
                (size, True),
                (0x4000_0FF0, False),
                (0x4000_0000, True),
                (0x4000_1000, True),
                (0x3FFF_FFFC, False),
            ):
                refused(address, write=write)
            hardware.write_words(size - 8, b"12345678")
            assert hardware.read_words(size - 8, 2) == b"12345678"
            assert hardware.read_words(size - 4, 1) == b"5678"
            line.send(b"\0\xff?" + READ + b"\0\0\0\0\0\0")  # noise, then no words at all
            assert line.receive(2, 1e-3) == b"\0"

    hardware = None
    await bridge(program)()
    check_bus(dut)
