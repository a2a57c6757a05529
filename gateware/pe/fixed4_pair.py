# SPDX-License-Identifier: Apache-2.0
"""Row engine for pairs of rows of 4-bit fixed-point weights: four multiplications per DSP48E1."""

import dataclasses

import numpy as np
from amaranth import *

from gateware.pe.base import (
    Resources,
    RowEngine,
    accumulate,
    accumulator_resources,
    control_resources,
    delay,
    require_pairs,
)
from gateware.pe.broadcast import steering
from gateware.pe.cascade import LANE_SHIFT, cascade, late, late_bits, two_pixels
from gateware.pe.dsp48 import B_BITS, DspMac
from gateware.pe.ecp5 import is_ecp5
from gateware.pe.mult18 import Fields
from ir.numerics import ACT_BITS, Scheme

FIELD_BITS = 10  #: of each product's sum inside the 48-bit sum
CENTRE = 1 << ACT_BITS - 1  #: taken from each activation, to halve its magnitude
#: Products that a 10-bit field holds, for all weights and activations.
DEPTH = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Packing:
    """Packing of the operands of one multiplication.

    pixel_shift, row_shift : distance of the two pixels, and of the two rows
    fields : (row, pixel) of the sum's four fields, low bits first
    """

    pixel_shift: int
    row_shift: int
    fields: tuple[tuple[int, int], ...]


_DSP48E1 = _Packing(
    pixel_shift=LANE_SHIFT, row_shift=FIELD_BITS, fields=((0, 0), (1, 0), (0, 1), (1, 1))
)
#: Products of seven bits, -56 to 56. With the rows nearer to each other than the pixels, which are
#: down to -8, an operand would not fit 18 bits.
_PRODUCTS = Fields(count=4, bits=7, spacing=FIELD_BITS)
_MULT18X18D = _Packing(pixel_shift=7, row_shift=14, fields=((0, 0), (0, 1), (1, 0), (1, 1)))


class Fixed4PairEngine(RowEngine):
    """Two rows of 4-bit weights on DSP48E1: four multiplications in each.

    ::

        A + D = (a1 - 8) * 2^20 + (a0 - 8),  B = w1 * 2^10 + w0
        P[9:0] = w0 (a0 - 8),  P[19:10] = w1 (a0 - 8),  P[29:20] = w0 (a1 - 8),  P[47:30] = ...

    The pre-adder takes the constants. Cascades of eight add up to 8 * 7 * 8 = 448 in magnitude,
    which ten bits hold. Each field borrows 1 from the next one when it is negative; the sign bit of
    the field below, as a carry-in, puts that right. Two cascades, for 16 channels, meet in a
    registered adder, and then in an accumulator of LUTs. A MULT18X18D of an ECP5 has narrower
    operands: the pixels are 7 bits apart there, the rows 14, and the sum's fields in that order.

    Stored codes are ``w0`` and ``w1 - (w0 < 0)``, four bits each, so that B is their concatenation
    with the signs extended. What the sums miss, ``8 * sum(w)``, is in the bias.

    Parameters, members and errors as in :class:`RowEngine`; ``pixels`` even, ``k`` at most 8 or a
    multiple of 8.

    Latency: 4 for the first product, 7 for the cascade (``k - 1`` where k is less), one for each
    adder level of the cascades, accumulator, sums.
    """

    scheme = Scheme.FIXED4
    rows = 2

    def __init__(self, *, k: int, pixels: int) -> None:
        super().__init__(k=k, pixels=pixels)
        require_pairs(pixels)
        if k > DEPTH and k % DEPTH:
            raise ValueError(f"k must be at most {DEPTH} or a multiple of it, not {k!r}")

    @staticmethod
    def _cascades(k: int) -> list[range]:
        return [range(c, min(c + DEPTH, k)) for c in range(0, k, DEPTH)]

    @classmethod
    def _dot_latency(cls, k: int) -> int:
        adders = (len(cls._cascades(k)) - 1).bit_length()
        return DspMac.latency_for(preadd=True) + min(k, DEPTH) - 1 + adders

    @classmethod
    def latency_for(cls, k: int) -> int:
        return cls._dot_latency(k) + 2

    @classmethod
    def skew(cls, channel: int) -> int:
        return channel % DEPTH

    @classmethod
    def encode(cls, values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        codes = super().encode(values)
        return np.stack([codes[0], codes[1] - (values[0] < 0) & 15]).astype(np.uint8)

    @classmethod
    def decode(cls, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes, np.int64)
        return super().decode(np.stack([codes[0], codes[1] + (codes[0] >> 3) & 15]))

    @classmethod
    def word_offset(cls, values: np.ndarray) -> np.ndarray:
        return -CENTRE * values.sum(-1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = steering(m, self.control, self._dot_latency(self.k), self.pixels)
        packing = _MULT18X18D if is_ecp5(platform) else _DSP48E1
        weights = self._weights(m, packing.row_shift)
        for p in range(0, self.pixels, 2):
            totals = self._cascade(m, platform, p, weights, packing.pixel_shift)
            for i, (row, pixel) in enumerate(packing.fields):
                low = i * FIELD_BITS
                dots = [
                    (total[low : low + FIELD_BITS].as_signed(), total[low - 1] if i else None)
                    for total in totals
                ]
                dot, carry = _add_fields(m, dots, f"field_{p}_{i}")
                m.d.comb += self.sums[row][p + pixel].eq(
                    accumulate(
                        m,
                        dot,
                        control[p + pixel],
                        shape=self.acc_shape,
                        carry=carry,
                        name=f"row_{row}_pixel_{p + pixel}",
                    )
                )
        return m

    def _weights(self, m: Module, shift: int) -> list[Value]:
        """Operand B for each channel, as late as its activations; the rows ``shift`` bits
        apart."""
        bits = self.scheme.bits
        weights = []
        for c in range(self.k):
            both = Cat(self.weights.word_select(row * self.k + c, bits) for row in range(2))
            both = late(m, both, self.skew(c), f"weight_{c}")
            operand = Cat(
                both[:bits],
                both[bits - 1].replicate(shift - bits),
                both[bits:],
                both[-1].replicate(B_BITS - shift - bits),
            )
            weights.append(operand.as_signed())
        return weights

    def _cascade(
        self, m: Module, platform: object, p: int, weights: list[Value], shift: int
    ) -> list[Value]:
        """Sums of the cascades of pixels p and p + 1, four fields in each."""
        acts = two_pixels(self.act, p, shift)
        return [
            cascade(
                m,
                platform,
                [(acts[c], weights[c]) for c in channels],
                f"mac_{p}_{i}",
                fields=_PRODUCTS,
                preadd=-(CENTRE << shift) - CENTRE,
            ).p
            for i, channels in enumerate(self._cascades(self.k))
        ]

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        more = len(cls._cascades(k)) - 1
        lane = accumulator_resources(cls.acc_shape) + Resources(lut=10, ff=11) * more
        steering = Resources(ff=late_bits(k, cls)) + control_resources(cls._dot_latency(k) - 1)
        return lane * pixels * cls.rows + steering + Resources(dsp48e1=k * pixels // 2)


def _add_fields(
    m: Module, fields: list[tuple[Value, Value | None]], name: str
) -> tuple[Value, Value | None]:
    """One number and one carry bit equal to all ``fields``, whose second entry is a carry bit.

    Pairwise, a cycle for each level. A carry bit below both operands costs no LUT of its own.
    """
    level = 0
    while len(fields) > 1:
        level += 1
        sums = []
        for i in range(0, len(fields), 2):
            (one, carry), *rest = fields[i : i + 2]
            other, left = rest[0] if rest else (Const(0, signed(1)), None)
            added = one + other
            if carry is not None:
                added = (Cat(carry, one).as_signed() + Cat(carry, other).as_signed()) >> 1
            total = Signal(
                signed(max(len(one), len(other)) + 1), name=f"{name}_{level}_{i}", reset_less=True
            )
            m.d.sync += total.eq(added)
            if left is not None:
                left = delay(m, left, 1, name=f"{name}_{level}_{i}_carry")
            sums.append((total, left))
        fields = sums
    return fields[0]
