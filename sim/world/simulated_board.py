# SPDX-License-Identifier: Apache-2.0
"""The hardware that a driver sees in simulation: bus models around
:class:`sim.world.zynq_logic.ZynqLogic`.

The driver is ordinary blocking code. It runs in a thread of its own (``cocotb.task.bridge``) and
waits there while the simulation goes on (``cocotb.task.resume``).
"""

import logging
from typing import Any

import numpy as np
from cocotb.clock import Clock
from cocotb.task import resume
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer
from cocotb.utils import get_sim_time

from boards.driver import Buffer, Hardware, NoHardware
from boards.driver.hardware import Arena
from sim.world.axi3 import AxiMaster, AxiResp, AxiSlave, axi3_bus, pause_channels

CLOCK_NS = 10
POLL_NS = 2000


class Fault(Exception):
    """Access that the memory answers with SLVERR."""


class HostMemory:
    """Memory behind HP0, with faults on order.

    refuse : range
        Bytes whose reads and writes are refused.
    silent : bool
        Answer nothing from now on; a reset lifts it.
    """

    def __init__(self, size: int) -> None:
        self.bytes = np.zeros(size, np.uint8)
        self.refuse = range(0)
        self.silent = False

    async def read(self, address: int, length: int) -> bytes:
        """Bytes from ``address`` on. Raises Fault for bytes that are refused or outside."""
        await self._access(address, length)
        return self.bytes[address : address + length].tobytes()

    async def write(self, address: int, data: bytes) -> None:
        """Access that writes from ``address`` on. Raises Fault for bytes that are refused or
        outside."""
        await self._access(address, len(data))
        self.bytes[address : address + len(data)] = np.frombuffer(data, np.uint8)

    async def _access(self, address: int, length: int) -> None:
        while self.silent:
            await Timer(1, unit="us")
        if address + length > len(self.bytes) or address in self.refuse:
            raise Fault


class CachedBuffer(Buffer):
    """Copy of its own, as a cache holds it: without a flush the other side does not see it."""

    def __init__(self, memory: HostMemory, size: int, address: int) -> None:
        super().__init__(np.zeros(size, np.uint8), address)
        self._memory = memory.bytes[address : address + size]

    def to_device(self) -> None:
        self._memory[:] = self.array

    def from_device(self) -> None:
        self.array[:] = self._memory


class SimulatedBoard(Hardware):
    """Zynq-7000 board in simulation.

    Parameters
    ----------
    dut : handle of a :class:`sim.world.zynq_logic.ZynqLogic`
    base : int
        Address of the registers.
    interrupts : bool
        Wait by interrupt, else by polling.
    memory_bytes : int
    """

    def __init__(self, dut, base: int, *, interrupts: bool, memory_bytes: int = 1 << 20) -> None:
        logging.getLogger("cocotb").setLevel(logging.WARNING)  # a line per burst otherwise
        self._dut, self._base, self.interrupts = dut, base, interrupts
        self.memory = HostMemory(memory_bytes)
        self._arena = Arena(memory_bytes)
        self._processor = AxiMaster(axi3_bus(dut, "gp0"), dut.clk, dut.rst, max_burst_len=16)
        self._slave = AxiSlave(axi3_bus(dut, "hp0"), dut.clk, dut.rst, target=self.memory)
        #: Called in every :meth:`wait`, to do something in the middle of a run.
        self.meanwhile = lambda: None

    async def start(self, pauses: str = "none", seed: int = 1) -> None:
        """Start of clock and reset; ``pauses`` of the memory's channels as in
        :mod:`sim.world.axi3`."""
        pause_channels(self._slave, pauses, seed)
        Clock(self._dut.clk, CLOCK_NS, unit="ns", impl="gpi").start()
        await self._reset()

    async def _reset(self) -> None:
        self._dut.rst.value = 1
        await ClockCycles(self._dut.clk, 4)
        self.memory.silent = False
        self._dut.rst.value = 0
        await ClockCycles(self._dut.clk, 2)

    async def _read(self, address: int) -> int:
        answer: Any = await self._processor.read(address, 4)
        if answer.resp != AxiResp.OKAY:
            raise NoHardware(f"bus error reading {address:#x}")  # SIGBUS on a board
        return int.from_bytes(answer.data, "little")

    async def _write(self, address: int, value: int) -> None:
        answer: Any = await self._processor.write(address, value.to_bytes(4, "little"))
        if answer.resp != AxiResp.OKAY:
            raise NoHardware(f"bus error writing {address:#x}")

    async def _wait(self, seconds: float) -> None:
        nanoseconds = max(CLOCK_NS, round(seconds * 1e9))
        if not self.interrupts:
            await Timer(min(nanoseconds, POLL_NS), unit="ns")
        elif not int(self._dut.irq.value):
            await First(RisingEdge(self._dut.irq), Timer(nanoseconds, unit="ns"))

    def read(self, offset: int) -> int:
        return resume(self._read)(self._base + offset)

    def write(self, offset: int, value: int) -> None:
        resume(self._write)(self._base + offset, value)

    def allocate(self, size: int) -> Buffer:
        address = self._arena.take(size)
        if address is None:
            raise NoHardware("the simulated memory is full")
        return CachedBuffer(self.memory, size, address)

    def wait(self, seconds: float) -> None:
        self.meanwhile()
        resume(self._wait)(seconds)

    def now(self) -> float:
        return get_sim_time("ns") * 1e-9

    def reset(self) -> None:
        resume(self._reset)()

    def close(self) -> None:
        """No effect: there is nothing to give back."""
