# SPDX-License-Identifier: Apache-2.0
"""Pool engine beside the array: every channel on its own, with the same words and control."""

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
from gateware.pe.broadcast import BROADCAST_FANOUT, Broadcast, broadcast_nodes, copies
from ir.numerics import ACC_BITS, ACT_BITS

LANES_PER_COPY = 2  #: lanes that one copy of control and mode steers


class PoolMode(enum.Enum, shape=1):
    """Kinds of pooling of :class:`PoolEngine`."""

    MAX = 0  #: largest nibble; ``shift`` is ignored, so tensors are 4-bit
    SUM = 1  #: sum, of one plane or two; the requantiser divides


class PoolEngine(wiring.Component):
    """Engine of ``k x pixels`` lanes, each the maximum or the sum of its nibble over the words.

    Control and mode reach the lanes through a registered tree, which is why ``act`` comes later.

    Parameters
    ----------
    k, pixels : int
        Channels of a word and pixels per cycle.

    Members
    -------
    act : In(act_layout(k, pixels))
        ``act[pixel][channel]``, ``skew`` cycles after ``control``.
    control : In(WordControl)
    mode : In(PoolMode)
        Together with ``control``; constant over one sum.
    sums : Out(ArrayLayout(ArrayLayout(signed(SUM_BITS), pixels), k))
        ``sums[channel][pixel]``, never negative; the accumulator counts modulo 2^24.

    Attributes
    ----------
    skew : int
        Levels of the tree.
    latency : int
        ``skew + 2``: cycles from ``control.last`` to ``sums``. One word per cycle.

    Raises
    ------
    TypeError, ValueError
        For sizes that are not positive integers.
    """

    acc_shape = unsigned(ACC_BITS)

    def __init__(self, *, k: int, pixels: int) -> None:
        self.k = positive("k", k)
        self.pixels = positive("pixels", pixels)
        super().__init__(
            {
                "act": In(act_layout(k, pixels)),
                "control": In(WordControl()),
                "mode": In(PoolMode),
                "sums": Out(data.ArrayLayout(data.ArrayLayout(signed(SUM_BITS), pixels), k)),
            }
        )

    @staticmethod
    def _copies(k: int, pixels: int) -> int:
        return -(-k * pixels // LANES_PER_COPY)

    @classmethod
    def skew_for(cls, *, k: int, pixels: int) -> int:
        """Skew of an engine of this size, in cycles."""
        return len(broadcast_nodes(cls._copies(k, pixels))) + 1

    @classmethod
    def latency_for(cls, *, k: int, pixels: int) -> int:
        """Latency of an engine of this size, in cycles."""
        return cls.skew_for(k=k, pixels=pixels) + 2

    @property
    def skew(self) -> int:
        """Cycles that ``act`` comes after ``control``."""
        return self.skew_for(k=self.k, pixels=self.pixels)

    @property
    def latency(self) -> int:
        """Cycles from ``control.last`` to ``sums``."""
        return self.latency_for(k=self.k, pixels=self.pixels)

    @classmethod
    def model(cls, mode: PoolMode, words: Sequence[Word]) -> np.ndarray:
        """Model: ``sums`` after each word, int64 (words, k, pixels), from power-up on."""
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
        layout = data.StructLayout({"control": WordControl(), "mode": PoolMode})
        count = self._copies(self.k, self.pixels)
        m.submodules.broadcast = broadcast = Broadcast(layout, sinks=count)
        m.d.comb += [broadcast.i.control.eq(self.control), broadcast.i.mode.eq(self.mode)]
        steering = [
            copy
            for i, leaf in enumerate(broadcast.o)
            for copy in copies(
                m, leaf, min(BROADCAST_FANOUT, count - i * BROADCAST_FANOUT), f"leaf_{i}"
            )
        ]
        for c in range(self.k):
            for p in range(self.pixels):
                name = f"lane_{c}_{p}"
                steer = steering[(c * self.pixels + p) // LANES_PER_COPY]
                control = steer.control
                acc, base = accumulator_base(control, shape=self.acc_shape, name=name)
                nibble, before = self.act[p][c], acc[:ACT_BITS]
                largest = Mux(control.first | (nibble > before), nibble, before)
                added = Mux(steer.mode == PoolMode.MAX, largest, nibble + base)
                m.d.comb += self.sums[c][p].eq(accumulator_sum(m, acc, added, control, name=name))
        return m

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        """Estimated 7-series cells, fitted to yosys 0.70 ``synth_xilinx``."""
        count = cls._copies(k, pixels)
        registers = count + sum(broadcast_nodes(count))
        return Resources(lut=31 * k * pixels, ff=(2 * ACC_BITS + 1) * k * pixels + 5 * registers)
