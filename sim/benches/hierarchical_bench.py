# SPDX-License-Identifier: Apache-2.0
"""Two registers that each add one."""

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge


@cocotb.test()
async def adds(dut) -> None:
    """Output two cycles after each input, two larger."""
    dut.rst.value = 0
    dut.step.value = 0
    Clock(dut.clk, 10, unit="ns").start()
    given = [3, 14, 15, 0, 7, 8]
    for index, value in enumerate([*given, 0, 0]):
        await FallingEdge(dut.clk)
        if index >= 2:
            assert int(dut.count.value) == (given[index - 2] + 2) % 16
        dut.step.value = value
