# SPDX-License-Identifier: Apache-2.0
"""Row engine for power-of-two weights, in LUTs."""

from collections.abc import Sequence

import numpy as np
from amaranth import *

from gateware.pe.base import Resources, RowEngine, accumulate, delay
from quant.numerics import ACC_BITS, ACT_BITS, NIBBLE_MAX, Scheme

_LARGEST = NIBBLE_MAX * Scheme.POT4.denominator


def _reduce(m: Module, terms: Sequence[Value], limit: int, arity: int, name: str) -> list[Value]:
    """One registered adder level: groups of ``arity`` terms, none above ``limit`` before it."""
    sums = []
    for i in range(0, len(terms), arity):
        group = terms[i:i + arity]
        total = Signal(range(len(group) * limit + 1), name=f"{name}_{len(sums)}", reset_less=True)
        m.d.sync += total.eq(sum(group[1:], group[0]))
        sums.append(total)
    return sums


class Pot4Engine(RowEngine):
    """Row of ±2^e weights in *offset-unsigned* form: no multiplier, no negation, no sign extension.

    A negative weight uses ``15 - a``, four XOR gates: ``-a * 2^e = (15 - a) * 2^e - 15 * 2^e``.
    What is too much, 15 times the magnitudes of the negative weights, does not depend on the
    activations; :func:`gateware.compiler.pack.engine_offset` is that number and the bias takes it
    away. Everything up to the accumulator is unsigned, and the accumulator counts modulo 2^24.

    The exponent code ``4*h + l`` shifts by ``l`` in one stage and by ``4*h`` inside the first
    adder.

    Parameters, members and errors as in :class:`RowEngine`, with ``scheme`` POT4.

    Latency: ``5 + ternary levels``: sign, shift, pairwise adder, ternary adders, accumulator, sums.
    """

    acc_shape = unsigned(ACC_BITS)

    def __init__(self, *, k: int, pixels: int) -> None:
        super().__init__(scheme=Scheme.POT4, k=k, pixels=pixels)

    @staticmethod
    def dot_latency(k: int) -> int:
        """Cycles from the inputs to the dot product of one word."""
        levels, terms = 0, -(-k // 2)
        while terms > 1:
            levels, terms = levels + 1, -(-terms // 3)
        return 3 + levels

    @classmethod
    def latency_for(cls, k: int) -> int:
        return cls.dot_latency(k) + 2

    @classmethod
    def dots(cls, values: np.ndarray, acts: np.ndarray) -> np.ndarray:
        values = values[:, None, :]
        return (np.where(values < 0, NIBBLE_MAX - acts, acts) * np.abs(values)).sum(2)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        codes = [self.weights.word_select(c, 4) for c in range(self.k)]
        low = [delay(m, code[:2], 1, name=f"low_{c}") for c, code in enumerate(codes)]
        high = [delay(m, code[2], 2, name=f"high_{c}") for c, code in enumerate(codes)]
        control = delay(m, self.control, self.dot_latency(self.k), name="control", reset_less=False)

        for p in range(self.pixels):
            terms = []
            for c, code in enumerate(codes):
                signed_act = Signal(ACT_BITS, name=f"signed_act_{p}_{c}", reset_less=True)
                shifted = Signal(ACT_BITS + 3, name=f"shifted_{p}_{c}", reset_less=True)
                m.d.sync += [
                    signed_act.eq(Mux(code[:3].any(), self.act[p][c] ^ code[3].replicate(4), 0)),
                    shifted.eq(signed_act << low[c]),
                ]
                # The code of 2^e is e + 1, so the shifts add up to one too many.
                terms.append((Mux(high[c], shifted << 4, shifted) >> 1)[:ACT_BITS + 6])

            limit, arity, level = _LARGEST, 2, 0
            while level == 0 or len(terms) > 1:
                terms = _reduce(m, terms, limit, arity, f"level_{p}_{level}")
                limit, arity, level = limit * arity, 3, level + 1
            m.d.comb += self.sums[p].eq(
                accumulate(m, terms[0], control, shape=self.acc_shape, name=f"pixel_{p}"))
        return m

    @classmethod
    def resources(cls, *, scheme: Scheme, k: int, pixels: int) -> Resources:
        return Resources(lut=k + pixels * (26 * k + ACC_BITS + 1),
                         ff=4 * (k + cls.dot_latency(k)) + 1 + pixels * (20 * k + 2 * ACC_BITS))
