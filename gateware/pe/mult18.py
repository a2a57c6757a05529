# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""MULT18X18D of an ECP5 with its registers, and the slice of a cascade on it (FPGA-TN-02205).

An ECP5's adders behind the multiplier (ALU54B) are not used: nextpnr does not time them.
"""

import dataclasses

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.dsp48 import P_BITS, DspMac, Head

FACTOR_BITS = 18  #: signed operands of the multiplier


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    """Numbers that share a product, and further apart a sum.

    count : numbers, the first in the low bits; each borrows 1 from the next when it is negative
    bits : signed width of each in the product, which must hold one less than the smallest
    spacing : distance of two of them in the sum
    """

    count: int
    bits: int
    spacing: int

    def spread(self, product: Value) -> Value:
        """Sum of 48 bits that equals ``product``, its fields moved apart: wires only."""
        last = self.count - 1
        parts = [product.word_select(i, self.bits).as_signed() for i in range(last)]
        widened = [_extend(part, self.spacing) for part in parts]
        top = product[last * self.bits :].as_signed()
        return Cat(*widened, _extend(top, P_BITS - last * self.spacing)).as_signed()


class Mult18Mac(wiring.Component):
    """Slice of a cascade on ECP5: ``p = pcin + fields.spread((a + preadd) * b)``.

    Takes the place of a :class:`~gateware.pe.dsp48.DspMac`, with the same latency. Of the
    MULT18X18D the registers of the operands and of the product are used; the pre-adder and the sum
    are LUTs.

    Parameters
    ----------
    fields : Fields
        What is in a product.
    preadd : int, optional
        Added to ``a``; the sum must fit 18 bits signed.
    head : Head
        What the product is added to.

    Members
    -------
    a, b : In(signed(18))
    pcin : In(signed(48))
        ``pcout`` of the slice before, whose operands came one cycle earlier.
    start : In(signed(48))
        The same from outside.
    p, pcout : Out(signed(48))
        The same.

    Latency: that of DspMac: 4 cycles from the operands to ``p`` with a pre-adder, 3 without.

    Throughput: one product per cycle.
    """

    latency_for = DspMac.latency_for

    def __init__(
        self, *, fields: Fields, preadd: int | None = None, head: Head = Head.PRODUCT
    ) -> None:
        self._fields = fields
        self._preadd = preadd
        self._head = head
        super().__init__(
            {
                "a": In(signed(FACTOR_BITS)),
                "b": In(signed(FACTOR_BITS)),
                "pcin": In(signed(P_BITS)),
                "start": In(signed(P_BITS)),
                "p": Out(signed(P_BITS)),
                "pcout": Out(signed(P_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = self.a, self.b
        if self._preadd is not None:
            a_1 = Signal.like(self.a, reset_less=True)
            b_1 = Signal.like(self.b, reset_less=True)
            m.d.sync += [a_1.eq(a), b_1.eq(b)]
            a, b = (a_1 + self._preadd)[:FACTOR_BITS], b_1
        product = Signal(2 * FACTOR_BITS)
        m.submodules.mult = _mult18x18d(a, b, product)
        total = Signal(signed(P_BITS), reset_less=True)
        head = {Head.PRODUCT: 0, Head.SUM: self.pcin, Head.START: self.start}[self._head]
        m.d.sync += total.eq(head + self._fields.spread(product))
        m.d.comb += [self.p.eq(total), self.pcout.eq(total)]
        return m


def _extend(value: Value, width: int) -> Value:
    """Sign-extended bits, ``width`` of them."""
    return Cat(value, value[-1].replicate(width - len(value)))


def _mult18x18d(a: Value, b: Value, product: Signal) -> Instance:
    """Signed product, two cycles after its factors."""
    registers = {
        f"p_REG_{name}_{pin}": f"{pin}0"
        for name in ("INPUTA", "INPUTB", "OUTPUT")
        for pin in ("CLK", "CE", "RST")
    }
    ones = dict.fromkeys(("CE0", "SIGNEDA", "SIGNEDB"), Const(1, 1))
    zeros = dict.fromkeys(("RST0", "SOURCEA", "SOURCEB"), Const(0, 1))
    return Instance(
        "MULT18X18D",
        p_GSR="DISABLED",
        **registers,
        i_CLK0=ClockSignal(),
        **{f"i_{name}": value for name, value in (ones | zeros).items()},
        **{f"i_A{i}": a[i] for i in range(FACTOR_BITS)},
        **{f"i_B{i}": b[i] for i in range(FACTOR_BITS)},
        **{f"o_P{i}": product[i] for i in range(2 * FACTOR_BITS)},
    )
