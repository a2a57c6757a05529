# SPDX-License-Identifier: Apache-2.0
"""DSP48E1 slices of a cascade: portable, or as the primitive (UG479), the same in every cycle."""

import enum

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.series7 import is_series7

A_BITS, B_BITS, P_BITS = 25, 18, 48  #: signed operands of the multiplier, and the sum


class Head(enum.Enum):
    """Head of a slice's sum: what the product is added to."""

    PRODUCT = 0b000  #: nothing
    SUM = 0b001  #: the sum of the slice before
    START = 0b011  #: a number from outside the cascade


# OPMODE: what the 48-bit adder takes. Z is bits 6..4, Y bits 3..2, X bits 1..0.
_X_Y_ARE_PRODUCT = 0b000_01_01
_PCIN = 0b001_00_00  #: with X or Y zero
_X_IS_P = 0b000_00_10
_Y_IS_C = 0b000_11_00


class DspMac(wiring.Component):
    """Slice of a cascade: ``p = pcin + (a + preadd) * b``.

    Parameters
    ----------
    preadd : int, optional
        Constant on the pre-adder's D port, 25 bits signed; the sum with ``a`` must fit as well.
        None leaves the pre-adder and its register out.
    head : Head
        What the product is added to.

    Members
    -------
    a : In(signed(25)), b : In(signed(18))
    pcin : In(signed(48))
        ``pcout`` of the slice before, whose operands came one cycle earlier.
    start : In(signed(48))
        The same from outside.
    p, pcout : Out(signed(48))
        The same; ``pcout`` is the dedicated wire to the next slice.

    Latency: :meth:`latency_for` cycles from the operands to ``p``, one from ``pcin`` or ``start``.

    Throughput: one product per cycle.
    """

    def __init__(self, *, preadd: int | None = None, head: Head = Head.PRODUCT) -> None:
        self._preadd = preadd
        self._head = head
        super().__init__(
            {
                "a": In(signed(A_BITS)),
                "b": In(signed(B_BITS)),
                "pcin": In(signed(P_BITS)),
                "start": In(signed(P_BITS)),
                "p": Out(signed(P_BITS)),
                "pcout": Out(signed(P_BITS)),
            }
        )

    @staticmethod
    def module_name(preadd: int | None, head: Head) -> str:
        """Verilog module of a slice by name, another one for other parameters."""
        constant = "" if preadd is None else f"_preadd_{preadd & (1 << A_BITS) - 1:x}"
        return f"dsp_mac_{head.name.lower()}{constant}"

    @staticmethod
    def latency_for(*, preadd: bool) -> int:
        """Latency from the operands to ``p``, in cycles: operands, pre-adder if there is one,
        product, sum."""
        return 4 if preadd else 3

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if is_series7(platform):
            self._elaborate_primitive(m)
        else:
            self._elaborate_portable(m)
        return m

    def _elaborate_primitive(self, m: Module) -> None:
        preadd = self._preadd is not None
        operands = {"i_A": _extend(self.a, 30), "i_B": self.b}
        if preadd:
            operands["i_D"] = Const(self._preadd, signed(A_BITS))[:]
        if self._head is Head.SUM:
            operands["i_PCIN"] = self.pcin
        elif self._head is Head.START:
            operands["i_C"] = self.start
        m.submodules.dsp = _dsp48e1(
            p_AREG=1,
            p_ACASCREG=1,
            p_BREG=1 + preadd,
            p_BCASCREG=1 + preadd,
            p_ADREG=int(preadd),
            p_MREG=1,
            p_USE_MULT="MULTIPLY",
            p_USE_DPORT="TRUE" if preadd else "FALSE",
            i_INMODE=Const(0b00100 if preadd else 0, 5),
            i_OPMODE=Const(self._head.value << 4 | _X_Y_ARE_PRODUCT, 7),
            **operands,
            o_P=self.p,
            o_PCOUT=self.pcout,
        )

    def _elaborate_portable(self, m: Module) -> None:
        a = Signal(signed(A_BITS), name="a_1", reset_less=True)
        b = Signal(signed(B_BITS), name="b_1", reset_less=True)
        m.d.sync += [a.eq(self.a), b.eq(self.b)]
        if self._preadd is not None:
            a_2 = Signal(signed(A_BITS), reset_less=True)
            b_2 = Signal(signed(B_BITS), reset_less=True)
            m.d.sync += [a_2.eq(a + self._preadd), b_2.eq(b)]
            a, b = a_2, b_2
        product = Signal(signed(A_BITS + B_BITS), reset_less=True)
        total = Signal(signed(P_BITS), reset_less=True)
        head = {Head.PRODUCT: 0, Head.SUM: self.pcin, Head.START: self.start}[self._head]
        m.d.sync += [product.eq(a * b), total.eq(head + product)]
        m.d.comb += [self.p.eq(total), self.pcout.eq(total)]


class DspAccumulator(wiring.Component):
    """Slice behind a cascade that adds up what comes out of it, without a LUT.

    ::

        p = (0 if first else 16 * p if shift else p) + pcin         # while valid

    Members
    -------
    pcin : In(signed(48))
        ``pcout`` of the last :class:`DspMac`.
    valid : In(1)
        Together with ``pcin``.
    first, shift : In(1)
        One cycle before ``valid``; ``first`` wins.
    p : Out(signed(48))

    Latency: 1 cycle from ``pcin`` to ``p``.

    Throughput: one sum per cycle.
    """

    latency = 1

    def __init__(self) -> None:
        super().__init__(
            {
                "pcin": In(signed(P_BITS)),
                "valid": In(1),
                "first": In(1),
                "shift": In(1),
                "p": Out(signed(P_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if is_series7(platform):
            self._elaborate_primitive(m)
        else:
            self._elaborate_portable(m)
        return m

    def _elaborate_primitive(self, m: Module) -> None:
        p = Signal(P_BITS)
        mode = Mux(self.first, _PCIN, Mux(self.shift, _PCIN | _Y_IS_C, _PCIN | _X_IS_P))
        m.submodules.dsp = _dsp48e1(
            p_AREG=0,
            p_ACASCREG=0,
            p_BREG=0,
            p_BCASCREG=0,
            p_ADREG=0,
            p_MREG=0,
            p_USE_MULT="NONE",
            p_USE_DPORT="FALSE",
            p_OPMODEREG=1,
            i_C=Cat(Const(0, 4), p[: P_BITS - 4]),
            i_PCIN=self.pcin,
            i_OPMODE=mode[:7],
            i_CEP=self.valid,
            o_P=p,
        )
        m.d.comb += self.p.eq(p)

    def _elaborate_portable(self, m: Module) -> None:
        first, shift = Signal(reset_less=True), Signal(reset_less=True)
        total = Signal(signed(P_BITS), reset_less=True)
        m.d.sync += [first.eq(self.first), shift.eq(self.shift)]
        with m.If(self.valid):
            m.d.sync += total.eq(Mux(first, 0, Mux(shift, total << 4, total)) + self.pcin)
        m.d.comb += self.p.eq(total)


def _extend(value: Value, width: int) -> Value:
    """Sign-extended bits; a narrow operand of an Instance would be filled with zeros."""
    bits = Value.cast(value)
    return Cat(bits, bits[-1].replicate(width - len(bits)))


def _dsp48e1(**chosen: object) -> Instance:
    """DSP48E1 with everything that ``chosen`` leaves open tied off, without further registers."""
    ports: dict[str, object] = {
        "i_CLK": ClockSignal(),
        "i_A": Const(0, 30),
        "i_ACIN": Const(0, 30),
        "i_B": Const(0, 18),
        "i_BCIN": Const(0, 18),
        "i_C": Const(0, P_BITS),
        "i_D": Const(0, A_BITS),
        "i_PCIN": Const(0, P_BITS),
        "i_INMODE": Const(0, 5),
        "i_ALUMODE": Const(0, 4),
        "i_CARRYINSEL": Const(0, 3),
        "i_CARRYIN": Const(0, 1),
        "i_CARRYCASCIN": Const(0, 1),
        "i_MULTSIGNIN": Const(0, 1),
    }
    enables = (
        "A1",
        "A2",
        "AD",
        "ALUMODE",
        "B1",
        "B2",
        "C",
        "CARRYIN",
        "CTRL",
        "D",
        "INMODE",
        "M",
        "P",
    )
    resets = ("A", "ALLCARRYIN", "ALUMODE", "B", "C", "CTRL", "D", "INMODE", "M", "P")
    ports |= {f"i_CE{name}": Const(1, 1) for name in enables}
    ports |= {f"i_RST{name}": Const(0, 1) for name in resets}
    registers = {
        f"p_{name}REG": 0 for name in ("ALUMODE", "C", "CARRYIN", "CARRYINSEL", "INMODE", "OPMODE")
    }
    return Instance("DSP48E1", **(ports | registers | {"p_DREG": 1} | chosen))
