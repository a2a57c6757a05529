# SPDX-License-Identifier: Apache-2.0
"""A serial line in simulation, as the driver of ``boards/driver`` uses one. For cocotb benches."""

import cocotb
from cocotb.task import resume
from cocotb.triggers import FallingEdge, Timer
from cocotb.utils import get_sim_time

from boards.driver.serial import Line

STEP_NS = 1000  #: how often a receiver looks for bytes


class SimulatedLine(Line):
    """Serial line at the pins ``rx`` and ``tx`` of ``dut``, seen from the other end, with
    ``bit_ns`` per bit."""

    def __init__(self, dut, bit_ns: int) -> None:
        self._dut, self._bit_ns = dut, bit_ns
        self._received = bytearray()
        dut.rx.value = 1
        cocotb.start_soon(self._listen())

    async def _listen(self) -> None:
        while True:
            await FallingEdge(self._dut.tx)
            await Timer(self._bit_ns * 3 // 2, unit="ns")
            byte = 0
            for bit in range(8):
                byte |= int(self._dut.tx.value) << bit
                await Timer(self._bit_ns, unit="ns")
            assert int(self._dut.tx.value) == 1, "no stop bit"
            self._received.append(byte)

    async def _send(self, data: bytes) -> None:
        for byte in data:
            # A level stays until it changes: one wait per run of equal bits.
            levels = [0, *(byte >> bit & 1 for bit in range(8)), 1]
            start = 0
            for end in range(1, len(levels) + 1):
                if end == len(levels) or levels[end] != levels[start]:
                    self._dut.rx.value = levels[start]
                    await Timer((end - start) * self._bit_ns, unit="ns")
                    start = end

    async def _receive(self, count: int, seconds: float) -> bytes:
        deadline = get_sim_time("ns") + seconds * 1e9
        while len(self._received) < count and get_sim_time("ns") < deadline:
            await Timer(STEP_NS, unit="ns")
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def _pause(self, seconds: float) -> None:
        await Timer(max(1, round(seconds * 1e9)), unit="ns")

    def send(self, data: bytes) -> None:
        resume(self._send)(data)

    def receive(self, count: int, seconds: float) -> bytes:
        return resume(self._receive)(count, seconds)

    def pause(self, seconds: float) -> None:
        resume(self._pause)(seconds)

    def now(self) -> float:
        return get_sim_time("ns") * 1e-9

    def close(self) -> None:
        """No effect: there is nothing to give back."""
