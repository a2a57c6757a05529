# SPDX-License-Identifier: Apache-2.0
"""Row engine for 4-bit fixed-point weights, in LUTs."""

import numpy as np
from amaranth import *

from gateware.pe.base import (
    Resources,
    RowEngine,
    accumulate,
    accumulator_resources,
    control_resources,
)
from gateware.pe.broadcast import steering
from gateware.pe.logic import pair, single
from gateware.pe.trees import Term, add_tree, levels, tree_resources
from ir.numerics import ACC_BITS, ACT_BITS, NIBBLE_MAX, Scheme


class Fixed4LutEngine(RowEngine):
    """Row of 4-bit weights in LUTs, for devices that run out of DSP48E1 first.

    Offset-unsigned as :class:`~gateware.pe.pot4.Pot4Engine`: a negative weight uses ``15 - a``.
    The magnitude times each half of that nibble is a table of six inputs, four LUTs because two
    of the five bits share one. The halves have an adder tree each.

    Stored codes are sign and magnitude.

    Parameters, members and errors as in :class:`RowEngine`.

    Latency: ``4 + levels``: tables, ternary adders, halves together, accumulator, sums.
    """

    scheme = Scheme.FIXED4
    acc_shape = unsigned(ACC_BITS)

    @classmethod
    def _dot_latency(cls, k: int) -> int:
        return 2 + levels(k)

    @classmethod
    def latency_for(cls, k: int) -> int:
        return cls._dot_latency(k) + 2

    @classmethod
    def encode(cls, values: np.ndarray) -> np.ndarray:
        codes = super().encode(values)
        return np.where(codes & 8, 8 | (16 - codes) & 7, codes).astype(np.uint8)

    @classmethod
    def decode(cls, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes, np.int64)
        return super().decode(np.where(codes & 8, 16 - (codes & 7), codes))

    @classmethod
    def word_offset(cls, values: np.ndarray) -> np.ndarray:
        return -NIBBLE_MAX * np.minimum(values, 0).sum(-1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = steering(m, self.control, self._dot_latency(self.k), self.pixels)
        half_bits = ACT_BITS // 2
        limit = self.scheme.denominator * ((1 << half_bits) - 1)
        for p in range(self.pixels):
            halves = []
            for half in range(2):
                terms = []
                for c in range(self.k):
                    code = self.weights.word_select(c, self.scheme.bits)
                    act = self.act[p][c].word_select(half, half_bits)
                    terms.append(Term(_product(m, platform, act, code, f"{p}_{half}_{c}"), limit))
                halves.append(add_tree(m, platform, terms, f"sum_{p}_{half}"))
            low, high = halves
            dot = Signal(
                range(low.limit + (high.limit << half_bits) + 1), name=f"dot_{p}", reset_less=True
            )
            m.d.sync += dot.eq(low.value + (high.value << half_bits))
            m.d.comb += self.sums[0][p].eq(
                accumulate(m, dot, control[p], shape=self.acc_shape, name=f"pixel_{p}")
            )
        return m

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        limit = 3 * cls.scheme.denominator
        tree, half = tree_resources([limit] * k)
        tables = Resources(lut=4, ff=limit.bit_length()) * k
        both = Resources(lut=half.bit_length() - 2, ff=(5 * half).bit_length())
        pixel = (tables + tree) * 2 + both + accumulator_resources(cls.acc_shape)
        return pixel * pixels + control_resources(cls._dot_latency(k) - 1)


def _product(m: Module, platform: object, act: Value, code: Value, name: str) -> Signal:
    """Magnitude of ``code`` times two bits, inverted where its sign says so: 0..21."""
    m0, m1, m2, sign = code
    bit_0, bit_1 = pair(
        m,
        platform,
        f"product_{name}_0",
        lambda a0, a1, s, m0, m1: m0 & (a0 ^ s),
        lambda a0, a1, s, m0, m1: (m1 & (a0 ^ s)) ^ (m0 & (a1 ^ s)),
        *act,
        sign,
        m0,
        m1,
    )

    def upper(a0, a1, s, m0, m1, m2):
        """Bits 2 to 4: partial products of weight 4 and 8, and the carries into them."""
        a0, a1 = a0 ^ s, a1 ^ s
        carry_1 = m0 & m1 & a0 & a1
        one, other = m2 & a0, m1 & a1
        carry_2 = (one & other) | (carry_1 & (one ^ other))
        three = m2 & a1
        return one ^ other ^ carry_1, three ^ carry_2, three & carry_2

    product = Signal(
        range(3 * Scheme.FIXED4.denominator + 1), name=f"product_{name}", reset_less=True
    )
    rest = [
        single(
            m,
            platform,
            f"product_{name}_{i + 2}",
            lambda *bits, i=i: upper(*bits)[i],
            *act,
            sign,
            m0,
            m1,
            m2,
        )
        for i in range(3)
    ]
    m.d.sync += product.eq(Cat(bit_0, bit_1, *rest))
    return product
