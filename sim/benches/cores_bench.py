# SPDX-License-Identifier: Apache-2.0
"""Bench of the array and the requantiser as Verilog, against their models.

The same words as in Amaranth's simulator, see :mod:`sim.benches.stimulus`. The seed is cocotb's.
"""

from collections.abc import Sequence

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from gateware.pe.base import Word
from gateware.rtl.array import GemmArray
from gateware.rtl.pool import PoolMode
from gateware.rtl.requant import RequantInput, RequantLane
from ir.numerics import NIBBLE_MAX, SHIFT_MAX, SHIFT_MIN, Scheme, weight_values
from sim.benches.cores_design import CONFIG
from sim.benches.stimulus import (
    act_bits,
    array_weight_bits,
    assert_sums,
    control_bits,
    idle,
    random_values,
    random_words,
)


async def start(dut) -> None:
    """Clock on, one reset, inputs idle; returns between two rising edges."""
    for port in (dut.act, dut.weights, dut.control, dut.pool_mode, dut.requant):
        port.value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


async def check_array(
    dut, values: Sequence[np.ndarray], words: Sequence[Word], mode: PoolMode
) -> None:
    """Comparison of the array with its model in every cycle."""
    await start(dut)
    array = GemmArray(CONFIG)
    # Sums outlive a reset: a word of zeros brings those of an earlier test back to zero.
    dut.control.value = control_bits(Word(act=np.zeros(0), first=True, last=True))
    await FallingEdge(dut.clk)
    dut.control.value = 0
    for _ in range(array.latency):
        await FallingEdge(dut.clk)

    padded = [*words, *idle(CONFIG.k, CONFIG.pixels, array.latency)]
    dut.pool_mode.value = mode.value
    sums = []
    for i, (act, word) in enumerate(zip(act_bits(padded), padded, strict=True)):
        dut.act.value = act
        dut.control.value = control_bits(word)
        if i < len(words):
            dut.weights.value = array_weight_bits(CONFIG, [row[i] for row in values])
        await FallingEdge(dut.clk)
        sums.append(int(dut.sums.value))
    expected = array.model(values, words, mode)
    assert_sums(sums, expected, array.latency)
    assert len(np.unique(expected[:, 0])) > 20  # a model of zeros would prove nothing
    cocotb.log.info("%d words agree", len(words))


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def every_product(dut) -> None:
    """Products of each weight of each scheme and each activation, next to extreme neighbours."""
    words, values = [], [[] for _ in CONFIG.lane_schemes]
    levels = [weight_values(scheme) for scheme in CONFIG.lane_schemes]
    for i in range(len(weight_values(Scheme.FIXED8))):
        for act in range(NIBBLE_MAX + 1):
            channel, lane = i % CONFIG.k, act % CONFIG.pixels
            acts = np.full((CONFIG.pixels, CONFIG.k), NIBBLE_MAX * (i // CONFIG.k % 2))
            acts[lane] = act
            words.append(Word(act=acts, first=True, last=True))
            for row, level in zip(values, levels, strict=True):
                row.append(np.roll([level[i % len(level)]] + [0] * (CONFIG.k - 1), channel))
    await check_array(dut, [np.array(row) for row in values], words, PoolMode.MAX)


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.5, 0.9], mode=list(PoolMode))
async def random_sequences(dut, stall: float, mode: PoolMode) -> None:
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    words = random_words(rng, k=CONFIG.k, pixels=CONFIG.pixels, count=1000, stall=stall)
    values = [random_values(rng, scheme, len(words), CONFIG.k) for scheme in CONFIG.lane_schemes]
    await check_array(dut, values, words, mode)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def requantise(dut) -> None:
    await start(dut)
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    count = 8000
    shift = rng.integers(SHIFT_MIN, SHIFT_MAX + 1, count)
    acc = rng.integers(-(1 << 24), 1 << 24, count) >> rng.integers(0, 20, count)
    multiplier = rng.integers(1 << 15, 1 << 16, count)
    residual = rng.integers(0, 256, count) * rng.integers(0, 2, count)
    n = rng.integers(0, 1 << 16, count)
    # Brings t to within one of the edges of the outputs, mostly near the clamps.
    low, high = np.sort(rng.integers(0, 256, (2, count)), axis=0)
    edge = np.choose(rng.integers(0, 4, count), [low, high, high + 1, rng.integers(-9, 270, count)])
    bias = (
        (edge << shift)
        + rng.integers(-1, 2, count)
        - acc * multiplier
        - (residual * n << shift - SHIFT_MIN)
    )
    bias = np.clip(bias, -(1 << 46), (1 << 46) - 1)
    columns = {
        "acc": acc,
        "multiplier": multiplier,
        "bias": bias,
        "shift": shift,
        "low": low,
        "high": high,
        "residual": residual,
        "n": n,
    }

    layout, y, wide = RequantInput(), [], []
    for i in range(count + RequantLane.latency - 1):
        if i < count:
            operation = {name: int(column[i]) for name, column in columns.items()}
            dut.requant.value = layout.const(operation).as_value().value & (1 << layout.size) - 1
        await FallingEdge(dut.clk)
        if i >= RequantLane.latency - 1:
            y.append(int(dut.y.value))
            wide.append(dut.wide.value.to_signed())
    expected_y, expected_wide = RequantLane.model(**columns)
    assert y == expected_y.tolist()
    assert wide == expected_wide.tolist()
