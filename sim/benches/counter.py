# SPDX-License-Identifier: Apache-2.0
"""Bench of the counter in ``sim/test_harness.py``: reset, clock and both directions work."""

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge


async def start(dut) -> None:
    """Clock on, out of reset; returns between two rising edges."""
    dut.enable.value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.rst.value = 0


@cocotb.test(timeout_time=100, timeout_unit="us")
async def counts_enabled_cycles(dut) -> None:
    await start(dut)
    step, expected, largest = int(os.environ["STEP"]), 0, 0
    for _ in range(1000):
        enable = random.randrange(2)
        dut.enable.value = enable
        await FallingEdge(dut.clk)
        expected = (expected + step * enable) % 256
        assert int(dut.count.value) == expected
        assert int(dut.is_zero.value) == (expected == 0)
        largest = max(largest, expected)
    assert largest > 200  # the random enables did let it count


@cocotb.test(timeout_time=100, timeout_unit="us")
async def outputs_are_known_before_any_input_changes(dut) -> None:
    await start(dut)
    assert dut.is_zero.value.is_resolvable
    assert int(dut.is_zero.value) == 1
