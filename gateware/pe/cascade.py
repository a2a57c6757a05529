# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Parts of the engines on multipliers: operands with two pixels, cascades, late weights."""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import data

from gateware.pe.base import RowEngine
from gateware.pe.dsp48 import DspMac, Head
from gateware.pe.ecp5 import is_ecp5
from gateware.pe.mult18 import Fields, Mult18Mac
from gateware.pe.series7 import SharedModule
from ir.numerics import ACT_BITS

LANE_SHIFT = 20  #: distance of the two pixels inside the 48-bit sum
#: Two products of a nibble and a weight of up to eight bits.
LANES = Fields(count=2, bits=12, spacing=LANE_SHIFT)


def lane_shift(platform: object) -> int:
    """Distance of the two pixels inside an operand: that of the sum, where it fits the
    multiplier."""
    return LANES.bits if is_ecp5(platform) else LANE_SHIFT


def two_pixels(act: data.View, pixel: int, shift: int) -> list[Value]:
    """Operands ``a1 * 2^shift + a0``, signed, of ``pixel`` and the next, one per channel."""
    return [
        Cat(a0, Const(0, shift - ACT_BITS), a1, Const(0, 1)).as_signed()
        for a0, a1 in zip(act[pixel], act[pixel + 1], strict=True)
    ]


def late(m: Module, code: Value, cycles: int, name: str) -> Value:
    """Delay of ``code`` by ``cycles``, in flip-flops: these devices have two for each LUT, and a
    shift register out of LUTs would take a LUT per bit."""
    for stage in range(cycles):
        register = Signal(
            code.shape(),
            name=f"{name}_{stage + 1}",
            reset_less=True,
            attrs={"shreg_extract": "no", "keep": "true"},
        )
        m.d.sync += register.eq(code)
        code = register
    return code


def late_weights(m: Module, weights: Value, bits: int) -> list[Value]:
    """Signed weights of one row, of ``bits`` each; that of channel c is c cycles late."""
    return [
        late(m, weights.word_select(c, bits), c, f"weight_{c}").as_signed()
        for c in range(len(weights) // bits)
    ]


def late_bits(k: int, engine: type[RowEngine]) -> int:
    """Flip-flops of the late weights of one engine."""
    return engine.rows * engine.scheme.bits * sum(engine.skew(c) for c in range(k))


def cascade(
    m: Module,
    platform: object,
    operands: Sequence[tuple[Value, Value]],
    name: str,
    *,
    fields: Fields,
    preadd: int | None = None,
    start: Value | None = None,
) -> SharedModule | Mult18Mac:
    """Cascade of slices that adds up ``a * b`` of all ``operands``; returns the last slice.

    The operands of each slice come a cycle after those of the one before. ``start`` is added to the
    first product; it comes as ``pcin`` of :class:`DspMac` does. ``fields`` says how a product
    becomes part of the sum on ECP5; elsewhere it is one already.
    """
    before = None
    for i, (a, b) in enumerate(operands):
        head = Head.SUM if before else Head.PRODUCT if start is None else Head.START
        if is_ecp5(platform):
            mac = Mult18Mac(fields=fields, preadd=preadd, head=head)
        else:
            mac = SharedModule(DspMac(preadd=preadd, head=head), DspMac.module_name(preadd, head))
        m.submodules[f"{name}_{i}"] = mac
        m.d.comb += [mac.a.eq(a), mac.b.eq(b)]
        if before is not None:
            m.d.comb += mac.pcin.eq(before.pcout)
        elif start is not None:
            m.d.comb += mac.start.eq(start)
        before = mac
    return before
