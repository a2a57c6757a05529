# SPDX-License-Identifier: Apache-2.0
"""Bench of the row engines with primitives of a family, against their models in every cycle."""

from collections.abc import Sequence

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from gateware.pe.base import RowEngine, Word
from gateware.pe.fixed4_dsp import Fixed4DspEngine
from ir.numerics import NIBBLE_MAX, weight_values
from sim.benches.engines_design import engines, port
from sim.benches.stimulus import (
    act_bits,
    assert_sums,
    control_bits,
    idle,
    product_words,
    random_values,
    random_words,
    weight_bits,
)

SMALL, LARGE = (
    tuple(engine for engine in engines() if (engine.k == 1) == small) for small in (True, False)
)


def by_name(chosen: Sequence[RowEngine]) -> dict[str, RowEngine]:
    """Engines by the name of their class."""
    return {type(engine).__name__: engine for engine in chosen}


async def check(dut, engine: RowEngine, values: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """Comparison of the engine with its model in every cycle; returns its sums.

    ``values`` is int (rows, words, k), the sums int64 (words, rows, pixels).
    """
    act, weights, control, sums = (
        getattr(dut, port(engine, name)) for name in ("act", "weights", "control", "sums")
    )
    for signal in (act, weights, control):
        signal.value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    # Sums outlive a reset, and raw ones are not zero for words of zeros: begin with one of those.
    blank = Word(act=np.zeros((engine.pixels, engine.k), np.int64), first=True, last=True)
    words = [blank, *words]
    values = np.concatenate([np.zeros((engine.rows, 1, engine.k), np.int64), values], axis=1)
    padded = [*words, *idle(engine.k, engine.pixels, engine.latency)]
    got = []
    for i, (bits, word) in enumerate(zip(act_bits(padded, engine.skew), padded, strict=True)):
        act.value = bits
        control.value = control_bits(word)
        if i < len(words):
            weights.value = weight_bits(type(engine), values[:, i])
        await FallingEdge(dut.clk)
        got.append(int(sums.value) if i >= engine.latency - 1 else 0)
    expected = np.stack([engine.model(row, words) for row in values], axis=1)
    assert_sums(got, expected, engine.latency)
    assert len(np.unique(expected[:, 0])) > 1  # a model of zeros would prove nothing
    cocotb.log.info("%s: %d words agree", type(engine).__name__, len(words))
    return expected


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(name=list(by_name(SMALL)))
async def every_product(dut, name: str) -> None:
    """Products of all weights of each row and all activations of two pixels: whatever shares a
    DSP48E1."""
    engine = by_name(SMALL)[name]
    values, words = product_words(type(engine))
    raw = await check(dut, engine, values, words)
    acts = np.array([word.act for word in words])
    for row in range(engine.rows):
        offsets = np.array([engine.offset(value, 1) for value in values[row]])
        np.testing.assert_array_equal(
            raw[1:, row] - offsets[:, None], (values[row, :, None] * acts).sum(2)
        )


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(name=list(by_name(LARGE)), stall=[0.0, 0.5, 0.9])
async def random_sequences(dut, name: str, stall: float) -> None:
    engine = by_name(LARGE)[name]
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    words = random_words(
        rng,
        k=engine.k,
        pixels=engine.pixels,
        count=2000,
        stall=stall,
        shift=type(engine) is not Fixed4DspEngine,
    )
    values = np.stack(
        [random_values(rng, engine.scheme, len(words), engine.k) for _ in range(engine.rows)]
    )
    await check(dut, engine, values, words)


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(name=list(by_name(LARGE)), planes=[1, 2])
async def longest_sums(dut, name: str, planes: int) -> None:
    """Sums as long as the accumulators hold for certain, all rows and pixels at extremes of
    either sign, with stalls in between."""
    engine = by_name(LARGE)[name]
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    levels = weight_values(engine.scheme)
    values, words, totals = [], [], []
    for _ in range(4):
        row = np.array([np.full(engine.k, rng.choice(levels[[0, -1]])) for _ in range(engine.rows)])
        reach = max(abs(bound) for value in row for bound in engine.raw_range(value, planes))
        count = min(min(abs(limit) for limit in engine.raw_limits() if limit) // reach, 800)
        acts = rng.choice([0, NIBBLE_MAX], (engine.pixels, 1)).repeat(engine.k, 1)
        for plane in range(planes):
            for i in range(count):
                while rng.random() < 0.2:
                    values.append(row)
                    words.append(
                        Word(act=acts, valid=False, first=bool(rng.random() < 0.5), last=True)
                    )
                values.append(row)
                words.append(
                    Word(
                        act=acts,
                        first=plane == i == 0,
                        shift=plane == 1 and i == 0,
                        last=plane == planes - 1 and i == count - 1,
                    )
                )
        wide = acts * (17 if planes == 2 else 1)
        totals.append(
            (
                len(words),
                count * (row[:, None] * wide).sum(2),
                np.array([[count * engine.offset(value, planes)] for value in row]),
            )
        )
    raw = await check(dut, engine, np.stack(values, axis=1), words)
    for end, total, offset in totals:
        np.testing.assert_array_equal(raw[end] - offset, total)
