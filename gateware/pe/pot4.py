# SPDX-License-Identifier: Apache-2.0
"""Row engine for power-of-two weights, in LUTs."""

from collections.abc import Callable, Sequence

import numpy as np
from amaranth import *

from gateware.pe.base import (
    Resources,
    RowEngine,
    accumulate,
    accumulator_resources,
    control_resources,
)
from gateware.pe.broadcast import copies, steering
from gateware.pe.logic import Bit, choose, pair, single
from gateware.pe.trees import Term, add_tree, levels, tree_resources
from ir.numerics import ACC_BITS, ACT_BITS, NIBBLE_MAX, Scheme

TERM_LIMIT = NIBBLE_MAX * Scheme.POT4.denominator  #: largest product, 960
ZERO_CODE = 7  #: stored exponent that stands for the weight 0
PIXELS_PER_COPY = 4  #: pixels that one copy of a weight's shift distance steers

#: Bits of a term that share a LUT, and the bits of the first stage that they come from.
_FAR_PAIRS = (
    ((0, 1), (0, 1)),
    ((2, 4), (0, 2, 4)),
    ((6, 8), (0, 2, 4)),
    ((3, 5), (1, 3)),
    ((7, 9), (1, 3)),
)
_CLEARED = (7, 9)  #: bits of a term that are zero for h = 3, l = 1


class Pot4Engine(RowEngine):
    """Row of ±2^e weights in *offset-unsigned* form: no multiplier, no negation, no sign extension.

    A negative weight uses ``15 - a``, four XOR gates: ``-a * 2^e = (15 - a) * 2^e - 15 * 2^e``.
    What is too much, 15 times the magnitudes of the negative weights, does not depend on the
    activations. Everything up to the accumulator is unsigned, and that counts modulo 2^24.

    Stored codes are the sign and e, with 7 for the weight 0. The shift by ``e = 2h + l`` takes two
    stages, and eight LUTs: the sign and a shift by l in three, which have two outputs but for one;
    a shift by 2h in five with two outputs each. The code 7 (h = 3, l = 1) gives zero because h = 3
    keeps bits 0 to 3 of the first stage only: bit 0 is zero for l = 1, bit 2 is made zero there,
    bits 1 and 3 on the way out.

    Parameters, members and errors as in :class:`RowEngine`.

    Latency: ``4 + levels``: first stage, second stage, ternary adders, accumulator, sums.
    """

    scheme = Scheme.POT4
    acc_shape = unsigned(ACC_BITS)

    @staticmethod
    def dot_latency(k: int) -> int:
        """Cycles from the inputs to the dot product of one word."""
        return 2 + levels(k)

    @classmethod
    def latency_for(cls, k: int) -> int:
        return cls.dot_latency(k) + 2

    @classmethod
    def encode(cls, values: np.ndarray) -> np.ndarray:
        codes = super().encode(values)  # e + 1, or 0
        return (codes & 8 | codes - 1 & 7).astype(np.uint8)

    @classmethod
    def decode(cls, codes: np.ndarray) -> np.ndarray:
        codes = np.asarray(codes, np.int64)
        return super().decode(codes & 8 | codes + 1 & 7)

    @classmethod
    def word_offset(cls, values: np.ndarray) -> np.ndarray:
        return -NIBBLE_MAX * np.minimum(values, 0).sum(-1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        distances = self._distances(m)
        control = steering(m, self.control, self.dot_latency(self.k), self.pixels)
        for p in range(self.pixels):
            terms = []
            for c in range(self.k):
                name = f"{p}_{c}"
                code = self.weights.word_select(c, self.scheme.bits)
                near = self._shift_near(m, platform, self.act[p][c], code, name)
                distance = distances[p // PIXELS_PER_COPY].word_select(c, 3)
                terms.append(Term(self._shift_far(m, platform, near, distance, name), TERM_LIMIT))
            dot = add_tree(m, platform, terms, f"sum_{p}")
            m.d.comb += self.sums[0][p].eq(
                accumulate(m, dot.value, control[p], shape=self.acc_shape, name=f"pixel_{p}")
            )
        return m

    def _distances(self, m: Module) -> list[Value]:
        """The exponents of all channels for the second stage, a copy for each few pixels."""
        exponents = Cat(self.weights.word_select(c, self.scheme.bits)[:3] for c in range(self.k))
        return copies(m, exponents, -(-self.pixels // PIXELS_PER_COPY), "distance")

    @staticmethod
    def _shift_near(m: Module, platform: object, act: Value, code: Value, name: str) -> Signal:
        """Sign, shift by 0 or 1: five bits, one cycle after ``act``."""
        l, h0, h1, sign = code[0], code[1], code[2], code[3]
        a0, a1, a2, a3 = act
        bit_0, bit_1 = pair(
            m,
            platform,
            f"near_{name}_0",
            lambda a0, a1, s, l: (1 ^ l) & (a0 ^ s),
            lambda a0, a1, s, l: choose(l, a0, a1) ^ s,
            a0,
            a1,
            sign,
            l,
        )
        bit_2 = single(
            m,
            platform,
            f"near_{name}_2",
            lambda a1, a2, s, l, h0, h1: (1 ^ (l & h0 & h1)) & (choose(l, a1, a2) ^ s),
            a1,
            a2,
            sign,
            l,
            h0,
            h1,
        )
        bit_3, bit_4 = pair(
            m,
            platform,
            f"near_{name}_3",
            lambda a2, a3, s, l: choose(l, a2, a3) ^ s,
            lambda a2, a3, s, l: l & (a3 ^ s),
            a2,
            a3,
            sign,
            l,
        )
        near = Signal(ACT_BITS + 1, name=f"near_{name}", reset_less=True)
        m.d.sync += near.eq(Cat(bit_0, bit_1, bit_2, bit_3, bit_4))
        return near

    @staticmethod
    def _shift_far(m: Module, platform: object, near: Value, exponent: Value, name: str) -> Signal:
        """Shift by 0, 2, 4 or 6: ten bits, one cycle after ``near``."""
        l, h0, h1 = exponent
        bits: list[Value] = [None] * TERM_LIMIT.bit_length()
        for (low, high), sources in _FAR_PAIRS:
            bits[low], bits[high] = pair(
                m,
                platform,
                f"far_{name}_{low}",
                _far_bit(low, sources),
                _far_bit(high, sources),
                *(near[source] for source in sources),
                *([l] if low in _CLEARED else []),
                h0,
                h1,
            )
        term = Signal(len(bits), name=f"term_{name}", reset_less=True)
        m.d.sync += term.eq(Cat(*bits))
        return term

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        tree, _ = tree_resources([TERM_LIMIT] * k)
        shifter = Resources(lut=8, ff=ACT_BITS + 1 + TERM_LIMIT.bit_length())
        pixel = shifter * k + tree + accumulator_resources(cls.acc_shape)
        distances = Resources(ff=3 * k * -(-pixels // PIXELS_PER_COPY))
        return pixel * pixels + distances + control_resources(cls.dot_latency(k) - 1)


def _far_bit(bit: int, sources: Sequence[int]) -> Callable[..., Bit]:
    """Function for :func:`~gateware.pe.logic.pair` of a bit of the term, of :data:`_FAR_PAIRS`.

    Its arguments are the bits ``sources`` of the first stage, l if ``bit`` is of :data:`_CLEARED`,
    h0 and h1. Shifted by 2h, bit ``bit - 2h`` comes to ``bit``.
    """

    def function(*inputs: Bit) -> Bit:
        *near, h0, h1 = inputs
        chosen = 0
        for h in range(4):
            if bit - 2 * h in sources:
                candidate = near[sources.index(bit - 2 * h)]
                if h == 3 and bit in _CLEARED:
                    candidate = (1 ^ near[-1]) & candidate
                chosen |= candidate & (h0 if h & 1 else 1 ^ h0) & (h1 if h & 2 else 1 ^ h1)
        return chosen

    return function
