# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Row engines that the accelerator does not have: what each idea of its own ones saves.

They keep the contract of :class:`gateware.pe.base.RowEngine` and are tested with it.
"""

import abc

from amaranth import *

from gateware.pe.base import RowEngine, accumulate
from gateware.pe.broadcast import steering
from gateware.pe.cascade import cascade, late_weights
from gateware.pe.dsp48 import P_BITS, DspMac
from gateware.pe.mult18 import FACTOR_BITS, Fields
from gateware.pe.pot4 import Pot4Engine
from ir.numerics import ACT_BITS, NIBBLE_MAX, Scheme


def _signed_tree(m: Module, terms: list[Value], name: str) -> Value:
    """Sum of signed ``terms`` by a registered tree of two-operand adders."""
    level = 0
    while len(terms) > 1:
        level += 1
        sums = []
        for i in range(0, len(terms), 2):
            added = terms[i] + terms[i + 1] if i + 1 < len(terms) else terms[i]
            total = Signal(added.shape(), name=f"{name}_{level}_{i}", reset_less=True)
            m.d.sync += total.eq(added)
            sums.append(total)
        terms = sums
    return terms[0]


class _SignedEngine(RowEngine):
    """Signed products, an adder tree, an accumulator. Subclasses say what a product is."""

    @classmethod
    def latency_for(cls, k: int) -> int:
        return 1 + (k - 1).bit_length() + 2

    @staticmethod
    @abc.abstractmethod
    def product(act: Value, code: Value) -> Value:
        """Signed product of a nibble and a weight code, without a register."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = steering(m, self.control, self.latency - 2, self.pixels)
        for p in range(self.pixels):
            terms = []
            for c in range(self.k):
                code = self.weights.word_select(c, self.scheme.bits)
                product = self.product(self.act[p][c], code)
                term = Signal(product.shape(), name=f"product_{p}_{c}", reset_less=True)
                m.d.sync += term.eq(product)
                terms.append(term)
            m.d.comb += self.sums[0][p].eq(
                accumulate(
                    m,
                    _signed_tree(m, terms, f"sum_{p}"),
                    control[p],
                    shape=self.acc_shape,
                    name=f"pixel_{p}",
                )
            )
        return m


class Pot4ShiftBaseline(_SignedEngine):
    """PoT-4 as one would write it: shift, negate, add up signed numbers."""

    scheme = Scheme.POT4

    @staticmethod
    def product(act: Value, code: Value) -> Value:
        magnitude = Mux(code[:3] == 0, 0, (act << code[:3])[1 : ACT_BITS + 7])
        return Mux(code[3], -magnitude, magnitude)


class Fixed4MultiplyBaseline(_SignedEngine):
    """Fixed-4 with multipliers that the synthesiser makes out of LUTs."""

    scheme = Scheme.FIXED4

    @staticmethod
    def product(act: Value, code: Value) -> Value:
        # `*` would become a DSP48E1: partial products, the highest with a negative weight.
        code = code.as_signed()
        parts = [Mux(code[i], act << i, 0) for i in range(3)]
        return sum(parts) - Mux(code[3], act << 3, 0)


class Pot4PortableBaseline(Pot4Engine):
    """The shipped PoT-4 engine in its portable form: what LUT6_2 and CARRY4 by hand save."""

    def elaborate(self, platform: object) -> Module:
        return super().elaborate(None)


class UnpackedBaseline(RowEngine):
    """A DSP48E1 for each multiplication, in cascades; accumulators in LUTs."""

    scheme = Scheme.FIXED8

    @classmethod
    def latency_for(cls, k: int) -> int:
        return DspMac.latency_for(preadd=False) + k - 1 + 2

    @classmethod
    def skew(cls, channel: int) -> int:
        return channel

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weights = late_weights(m, self.weights, self.scheme.bits)
        dot_bits = Shape.cast(range(self.k * self.scheme.denominator * NIBBLE_MAX + 1)).width + 1
        control = steering(m, self.control, self.latency - 2, self.pixels)
        for p in range(self.pixels):
            total = cascade(
                m,
                platform,
                [
                    (Cat(self.act[p][c], Const(0, 21)).as_signed(), weights[c])
                    for c in range(self.k)
                ],
                f"mac_{p}",
                fields=Fields(count=1, bits=2 * FACTOR_BITS, spacing=P_BITS),
            ).p
            m.d.comb += self.sums[0][p].eq(
                accumulate(
                    m,
                    total[:dot_bits].as_signed(),
                    control[p],
                    shape=self.acc_shape,
                    name=f"pixel_{p}",
                )
            )
        return m


BASELINES = (Pot4ShiftBaseline, Fixed4MultiplyBaseline, Pot4PortableBaseline, UnpackedBaseline)
