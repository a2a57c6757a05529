# SPDX-License-Identifier: Apache-2.0
"""Requantisation: from sums to activations, see :func:`ir.numerics.requantise`."""

import numpy as np
from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.base import SUM_BITS, Resources, delay
from ir.numerics import (
    BIAS_BITS,
    MULTIPLIER_BITS,
    RESIDUAL_BITS,
    SHIFT_MAX,
    SHIFT_MIN,
    accumulate,
    requantise,
)


class RequantInput(data.StructLayout):
    """Input of a :class:`RequantLane`: one sum and what turns it into an activation.

    Parameters
    ----------
    products : bool
        Whether M may be negative, as in a product of two codes.

    Members
    -------
    acc : signed(25)
        Sum of the array.
    multiplier : unsigned(16), or signed(17) with ``products``
        M.
    bias : signed(48)
        B, with the rounding constant and the engine's offset folded in.
    shift : unsigned(6)
        S, in SHIFT_MIN..SHIFT_MAX.
    low, high : unsigned(8)
        Clamp, ``low <= high``.
    residual : unsigned(8)
        r, 0 where there is none.
    n : unsigned(16)
        Residual multiplier.
    """

    def __init__(self, products: bool = False) -> None:
        super().__init__(
            {
                "acc": signed(SUM_BITS),
                "multiplier": signed(MULTIPLIER_BITS + 1) if products else MULTIPLIER_BITS,
                "bias": signed(BIAS_BITS),
                "shift": 6,
                "low": 8,
                "high": 8,
                "residual": 8,
                "n": RESIDUAL_BITS,
            }
        )


class RequantLane(wiring.Component):
    """Lane of requantisation: ``y = clamp((acc*M + B + r*n * 2^(S-14)) >> S, low, high)``.

    One DSP48E1 (25x18 bits and the 48-bit adder) computes ``t = acc*M + B``. Because the residual
    term is a multiple of ``2^(S-14)``, it is added after a shift by ``S - 14`` and before one by
    14. ``r*n`` (8x16 bits) is a tree of adders in LUTs, because a second DSP per lane is dear on
    the small devices. ``acc*M + B`` must fit 48 bits signed; the sum with the residual term need
    not.

    Parameters
    ----------
    products : bool
        As :class:`RequantInput` has it.
    wide_wait : int
        Cycles that ``wide`` comes later than ``y``.

    Members
    -------
    i : In(RequantInput)
    y : Out(8)
    wide : Out(signed(48))
        ``t`` of the same input, the raw output, without a residual: logits never have one.

    Latency: 8 cycles from ``i`` to both outputs, but for ``wide_wait``. Nothing is ever stalled or
    invalid; the surrounding logic delays its valid bit by ``latency``.

    Throughput: one result per cycle.
    """

    latency = 8

    def __init__(self, *, products: bool = False, wide_wait: int = 0) -> None:
        self._wide_wait = wide_wait
        super().__init__(
            {"i": In(RequantInput(products)), "y": Out(8), "wide": Out(signed(BIAS_BITS))}
        )

    @staticmethod
    def model(
        acc, multiplier, bias, shift, low, high, residual, n
    ) -> tuple[np.ndarray, np.ndarray]:
        """Model of a lane: ``(y, wide)``, int64, for the fields of :class:`RequantInput` as
        arrays or integers that broadcast."""
        return (
            requantise(acc, multiplier, bias, shift, low, high, residual, n),
            accumulate(acc, multiplier, bias, shift),
        )

    @classmethod
    def resources(cls) -> Resources:
        """Estimated 7-series cells: those of one lane after yosys 0.70 ``synth_xilinx``."""
        return Resources(lut=482, ff=385, dsp48e1=1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        t = self._multiply_add(m)
        residual_product = self._multiply_residual(m)
        shifted = self._shift(m, t, residual_product)
        m.d.comb += [
            self.y.eq(self._clamp(m, shifted)),
            self.wide.eq(delay(m, t, self.latency - 3 + self._wide_wait, name="wide")),
        ]
        return m

    def _multiply_add(self, m: Module) -> Signal:
        """``t``, three cycles after ``i``: operands, product, sum, the registers of a DSP48E1."""
        i = self.i
        acc = delay(m, i.acc, 1, name="acc")
        multiplier = delay(m, i.multiplier, 1, name="multiplier")
        product = Signal((acc * multiplier).shape(), reset_less=True)
        t = Signal(signed(BIAS_BITS), reset_less=True)
        m.d.sync += [
            product.eq(acc * multiplier),
            t.eq(product + delay(m, i.bias, 2, name="bias")),
        ]
        return t

    def _multiply_residual(self, m: Module) -> Value:
        """``r*n``, five cycles after ``i``: the bits of r, added pair by pair."""
        i = self.i
        residual, n = delay(m, i.residual, 1, name="residual"), delay(m, i.n, 1, name="n")
        terms = [Mux(residual[b], n, 0) << b for b in range(8)]
        while len(terms) > 1:
            pairs = list(zip(terms[::2], terms[1::2], strict=True))
            terms = [
                Signal(8 + RESIDUAL_BITS, name=f"residual_{len(pairs)}_{j}", reset_less=True)
                for j in range(len(pairs))
            ]
            m.d.sync += [total.eq(a + b) for total, (a, b) in zip(terms, pairs, strict=True)]
        return delay(m, terms[0], 1, name="residual_product")

    def _shift(self, m: Module, t: Signal, residual_product: Value) -> Signal:
        """``t`` shifted by S - 14 in 0..31, by multiples of eight, then by the rest; with the
        residual product by 14 more. Six cycles after ``i``."""
        distance = Signal(range(SHIFT_MAX - SHIFT_MIN + 1), reset_less=True)
        m.d.sync += distance.eq(self.i.shift - SHIFT_MIN)
        coarse = Signal(signed(BIAS_BITS), reset_less=True)
        fine = Signal(signed(BIAS_BITS), reset_less=True)
        m.d.sync += [
            coarse.eq(t >> (delay(m, distance[3:], 2, name="distance_coarse") << 3)),
            fine.eq(coarse >> delay(m, distance[:3], 3, name="distance_fine")),
        ]
        shifted = Signal(signed(BIAS_BITS + 1 - SHIFT_MIN), reset_less=True)
        m.d.sync += shifted.eq((fine + residual_product) >> SHIFT_MIN)
        return shifted

    def _clamp(self, m: Module, shifted: Signal) -> Signal:
        """``y``, eight cycles after ``i``.

        What eight bits cannot hold is known one stage before the comparisons are used.
        """
        low, high = delay(m, self.i.low, 6, name="low"), delay(m, self.i.high, 6, name="high")
        below = Signal(reset_less=True)
        above = Signal(reset_less=True)
        inside = Signal(8, reset_less=True)
        negative = shifted < 0
        too_large = shifted[8:].any()
        m.d.sync += [
            below.eq(negative | (~too_large & (shifted[:8] < low))),
            above.eq(~negative & (too_large | (shifted[:8] > high))),
            inside.eq(shifted[:8]),
        ]
        y = Signal(8, reset_less=True)
        m.d.sync += y.eq(
            Mux(
                below,
                delay(m, low, 1, name="low_clamp"),
                Mux(above, delay(m, high, 1, name="high_clamp"), inside),
            )
        )
        return y
