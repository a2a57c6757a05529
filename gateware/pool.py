# SPDX-License-Identifier: Apache-2.0
"""Pooling beside the array: every channel on its own, with the same words and control."""

from collections.abc import Sequence

import numpy as np
from amaranth import *
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.base import (
    SUM_BITS,
    Resources,
    Word,
    WordControl,
    accumulator_base,
    accumulator_sum,
    act_layout,
    model_sums,
    positive,
)
from quant.numerics import ACC_BITS, ACT_BITS


class PoolMode(enum.Enum, shape=1):
    """What :class:`PoolEngine` does with the words of a sum."""

    MAX = 0     #: largest nibble; ``shift`` is ignored, so tensors are 4-bit
    SUM = 1     #: sum, of one plane or two; the requantiser divides


class PoolEngine(wiring.Component):
    """``k x pixels`` lanes, each the maximum or the sum of its own nibble over the words.

    Parameters
    ----------
    k, pixels : int
        Channels of a word and pixels per cycle.

    Members
    -------
    act : In(act_layout(k, pixels))
        ``act[pixel][channel]``.
    control : In(WordControl)
    mode : In(PoolMode)
        Belongs to the word; constant over one sum.
    sums : Out(ArrayLayout(ArrayLayout(signed(SUM_BITS), pixels), k))
        ``sums[channel][pixel]``, never negative; the accumulator counts modulo 2^24.

    Latency: 2 cycles from ``control.last`` to ``sums``, one word per cycle.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers.
    """

    latency = 2
    acc_shape = unsigned(ACC_BITS)

    def __init__(self, *, k: int, pixels: int) -> None:
        self.k = positive("k", k)
        self.pixels = positive("pixels", pixels)
        super().__init__({
            "act": In(act_layout(k, pixels)),
            "control": In(WordControl()),
            "mode": In(PoolMode),
            "sums": Out(data.ArrayLayout(data.ArrayLayout(signed(SUM_BITS), pixels), k)),
        })

    @classmethod
    def model(cls, mode: PoolMode, words: Sequence[Word]) -> np.ndarray:
        """``sums`` after each word, int64 (words, k, pixels), from power-up on."""
        acts = np.array([word.act for word in words], np.int64).transpose(0, 2, 1)
        if mode is PoolMode.SUM:
            return model_sums(acts, words, cls.acc_shape)
        largest, total = np.zeros_like(acts[0]), np.zeros_like(acts[0])
        sums = np.empty_like(acts)
        for i, word in enumerate(words):
            if word.valid:
                largest = np.maximum(0 if word.first else largest, acts[i])
                total = largest if word.last else total
            sums[i] = total
        return sums

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for c in range(self.k):
            for p in range(self.pixels):
                name = f"lane_{c}_{p}"
                acc, base = accumulator_base(self.control, shape=self.acc_shape, name=name)
                nibble, before = self.act[p][c], acc[:ACT_BITS]
                largest = Mux(self.control.first | (nibble > before), nibble, before)
                added = Mux(self.mode == PoolMode.MAX, largest, nibble + base)
                m.d.comb += self.sums[c][p].eq(
                    accumulator_sum(m, acc, added, self.control, name=name))
        return m

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        """An estimate, fitted to yosys 0.70 ``synth_xilinx``."""
        return Resources(lut=31 * k * pixels, ff=1 + 2 * ACC_BITS * k * pixels)
