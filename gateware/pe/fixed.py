# SPDX-License-Identifier: Apache-2.0
"""Row engine for fixed-point weights: two pixels per DSP48E1."""

import numpy as np
from amaranth import *

from gateware.pe.base import SUM_BITS, Resources, RowEngine, accumulate, delay
from quant.numerics import ACT_BITS, NIBBLE_MAX, Scheme

LANE_SHIFT = 20     #: distance of the two lanes inside the 48-bit sum


def max_cascade(scheme: Scheme) -> int:
    """Largest number of products whose sum keeps both lanes apart, for every weight and activation.

    Both lanes are signed 20-bit fields, and the low one must not overflow into the high one.
    """
    return ((1 << LANE_SHIFT - 1) - 1) // (scheme.denominator * NIBBLE_MAX)


class FixedEngine(RowEngine):
    """Row of 4-bit or 8-bit two's complement weights on a cascade of ``k`` DSP48E1 per pixel pair.

    Each multiplies ``A = a1 * 2^20 + a0`` by the weight and adds the sum of the one before it,
    which is why channel c must come c cycles late. Of the 48-bit sum P the low lane is ``P[19:0]``,
    signed; it borrows 1 from the high lane when it is negative, so that one is ``P[47:20] +
    P[19]``, where the addition is the carry-in of the accumulator.

    Parameters, members and errors as in :class:`RowEngine`; ``scheme`` is FIXED4 or FIXED8,
    ``pixels`` even, and ``k`` at most :func:`max_cascade`.

    Latency: ``k + 4``: operands, product, ``k`` sums, accumulator, sums.
    """

    skewed = True

    def __init__(self, *, scheme: Scheme, k: int, pixels: int) -> None:
        if scheme not in (Scheme.FIXED4, Scheme.FIXED8):
            raise ValueError(f"scheme must be FIXED4 or FIXED8, not {scheme!r}")
        super().__init__(scheme=scheme, k=k, pixels=pixels)
        if pixels % 2:
            raise ValueError(f"pixels must be even, two share a DSP48E1, not {pixels!r}")
        if k > max_cascade(scheme):
            raise ValueError(
                f"k must be at most {max_cascade(scheme)} for {scheme.name}, not {k!r}")

    @classmethod
    def latency_for(cls, k: int) -> int:
        return k + 4

    @classmethod
    def dots(cls, values: np.ndarray, acts: np.ndarray) -> np.ndarray:
        return (values[:, None, :] * acts).sum(2)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.scheme.bits
        dot_shape = Shape.cast(range(-self.k * self.scheme.denominator * NIBBLE_MAX,
                                     self.k * self.scheme.denominator * NIBBLE_MAX + 1))
        codes = [self.weights.word_select(c, bits) for c in range(self.k)]
        weights = [delay(m, code, c + 1, name=f"weight_{c}").as_signed()
                   for c, code in enumerate(codes)]
        control = delay(m, self.control, self.k + 2, name="control", reset_less=False)

        for p in range(0, self.pixels, 2):
            cascade = None
            for c in range(self.k):
                acts = Signal(signed(25), name=f"acts_{p}_{c}", reset_less=True)
                product = Signal(signed(25 + bits), name=f"product_{p}_{c}", reset_less=True)
                total = Signal(signed(48), name=f"cascade_{p}_{c}", reset_less=True)
                gap = Const(0, LANE_SHIFT - ACT_BITS)
                m.d.sync += [
                    acts.eq(Cat(self.act[p][c], gap, self.act[p + 1][c])),
                    product.eq(acts * weights[c]),
                    total.eq(product if cascade is None else cascade + product),
                ]
                cascade = total
            for lane in range(2):
                dot = cascade[lane * LANE_SHIFT:][:dot_shape.width].as_signed()
                borrow = cascade[LANE_SHIFT - 1] if lane else None
                m.d.comb += self.sums[p + lane].eq(accumulate(
                    m, dot, control, shape=self.acc_shape, carry=borrow, name=f"pixel_{p + lane}"))
        return m

    @classmethod
    def resources(cls, *, scheme: Scheme, k: int, pixels: int) -> Resources:
        return Resources(lut=1 + pixels * SUM_BITS + scheme.bits * max(k - 4, 0),
                         ff=4 * (k + 2) + 1 + 3 * scheme.bits + pixels * (4 * k + 2 * SUM_BITS),
                         dsp48e1=k * pixels // 2)
