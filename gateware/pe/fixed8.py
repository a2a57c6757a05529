# SPDX-License-Identifier: Apache-2.0
"""Row engine for 8-bit fixed-point weights: two multiplications per DSP48E1."""

from amaranth import *

from gateware.pe.base import (
    Resources,
    RowEngine,
    accumulate,
    accumulator_resources,
    control_resources,
    require_pairs,
)
from gateware.pe.broadcast import steering
from gateware.pe.cascade import (
    LANE_SHIFT,
    LANES,
    cascade,
    lane_shift,
    late_bits,
    late_weights,
    two_pixels,
)
from gateware.pe.dsp48 import DspMac
from ir.numerics import NIBBLE_MAX, Scheme

#: Products whose sum keeps both lanes apart, for all weights and activations.
MAX_CASCADE = ((1 << LANE_SHIFT - 1) - 1) // (Scheme.FIXED8.denominator * NIBBLE_MAX)


class Fixed8Engine(RowEngine):
    """Row of 8-bit weights on a cascade of ``k`` DSP48E1 per pair of pixels.

    Each multiplies ``A = a1 * 2^20 + a0`` by the weight and adds the sum of the one before it,
    which is why channel c must come c cycles late. Of the 48-bit sum P the low lane is ``P[19:0]``,
    signed; it borrows 1 from the high lane when it is negative, so that one is ``P[47:20] +
    P[19]``, where the addition is the carry-in of the accumulator. The accumulators are LUTs,
    because a lane overflows after :data:`MAX_CASCADE` products.

    Parameters, members and errors as in :class:`RowEngine`; ``pixels`` even, ``k`` at most
    :data:`MAX_CASCADE`.

    Latency: ``k + 4``: operands, product, ``k`` sums, accumulator, sums.
    """

    scheme = Scheme.FIXED8

    def __init__(self, *, k: int, pixels: int) -> None:
        super().__init__(k=k, pixels=pixels)
        require_pairs(pixels)
        if k > MAX_CASCADE:
            raise ValueError(f"k must be at most {MAX_CASCADE}, not {k!r}")

    @classmethod
    def latency_for(cls, k: int) -> int:
        return DspMac.latency_for(preadd=False) + k - 1 + 2

    @classmethod
    def skew(cls, channel: int) -> int:
        return channel

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weights = late_weights(m, self.weights, self.scheme.bits)
        dot_bits = Shape.cast(
            range(
                -self.k * self.scheme.denominator * NIBBLE_MAX,
                self.k * self.scheme.denominator * NIBBLE_MAX + 1,
            )
        ).width
        control = steering(m, self.control, self.latency - 2, self.pixels)
        for p in range(0, self.pixels, 2):
            acts = two_pixels(self.act, p, lane_shift(platform))
            operands = list(zip(acts, weights, strict=True))
            total = cascade(m, platform, operands, f"mac_{p}", fields=LANES).p
            for lane in range(2):
                dot = total[lane * LANE_SHIFT :][:dot_bits].as_signed()
                m.d.comb += self.sums[0][p + lane].eq(
                    accumulate(
                        m,
                        dot,
                        control[p + lane],
                        shape=self.acc_shape,
                        name=f"pixel_{p + lane}",
                        carry=total[LANE_SHIFT - 1] if lane else None,
                    )
                )
        return m

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        steering = Resources(ff=late_bits(k, cls)) + control_resources(cls.latency_for(k) - 3)
        cascades = Resources(dsp48e1=k * pixels // 2)
        return accumulator_resources(cls.acc_shape) * pixels + steering + cascades
