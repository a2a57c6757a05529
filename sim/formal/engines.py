# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Proofs about row engines: for all inputs, over a bounded number of cycles after power-up.

The engine is what goes into a device, with 7-series primitives. Yosys turns engine and contract
into one transition system, an SMT solver looks for inputs that tell them apart (sim/formal/smt.py).

No solver ends on the multipliers of many slices and what is done with their sums at once. So an
engine on DSP48E1 is proved in two steps. sim/formal/reference_slice.py proves that one slice does
what a slice with separate products and sums does, whatever sums come in; :func:`prove` puts that
one in the place of every slice of a cascade."""

import enum
from pathlib import Path

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.base import SUM_BITS, RowEngine, WordControl, act_layout, delay
from gateware.pe.series7 import Series7, to_verilog
from ir.numerics import ACC_BITS, ACT_BITS
from sim.formal.reference_slice import (
    add_product,
    field_bits,
    known,
    product,
    use_fields,
    use_reference_slices,
)
from sim.formal.smt import check

TOP = "miter"
_DOT = WordControl().const({"valid": 1, "first": 1, "last": 1}).as_value().value
_WRAPPER = """
module proof(input clk, input [{act}:0] act, input [{weights}:0] weights,
             input [{control}:0] control);
  wire differs;
  miter miter(.clk(clk), .rst(1'b0), .act(act), .weights(weights), .control({word}),
              .differs(differs));
  always @* assert (!differs);
endmodule
"""


class Contract(wiring.Component):
    """Contract of one engine: its sums as :mod:`ir.numerics` has them, written without any trick.

    Exact products, from a table of the stored codes, are added up one by one, and then in a wide
    accumulator; what the engine's raw sums exceed them by is part of each product. Ports and timing
    are those of the engine. Of cascades, whose channels come one after the other, the sums are made
    one after the other, too.
    """

    def __init__(self, engine: RowEngine) -> None:
        self._engine = engine
        super().__init__(
            {
                "act": In(act_layout(engine.k, engine.pixels)),
                "weights": In(engine.weights.shape()),
                "control": In(WordControl()),
                "sums": Out(engine.sums.shape()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        engine, kind = self._engine, type(self._engine)
        bits = kind.scheme.bits
        chains = [range(c, c + 1) for c in range(engine.k)]
        if engine.skew(engine.k - 1):
            starts = [c for c in range(engine.k) if not engine.skew(c)]
            chains = [range(*ends) for ends in zip(starts, [*starts[1:], engine.k], strict=True)]
        length = max(map(len, chains))
        joins = (len(chains) - 1).bit_length() if length > 1 else 0
        wait = engine.latency - 2 - joins - length
        late = [
            [
                delay(
                    m,
                    self.weights.word_select(row * engine.k + c, bits),
                    engine.skew(c),
                    name=f"weight_{row}_{c}",
                )
                for row in range(engine.rows)
            ]
            for c in range(engine.k)
        ]
        control = delay(m, self.control, wait + length + joins, name="control")
        for r in range(engine.rows):
            for p in range(engine.pixels):
                sums = []
                for chain in chains:
                    total = 0
                    for c in chain:
                        name = f"{r}_{p}_{c}"
                        one = product(m, kind, late[c][: r + 1], self.act[p][c], name)
                        total = add_product(m, one, total, wait, field_bits(kind), name)
                    sums.append(total)
                dot = delay(m, _whole(m, sum(sums), f"dot_{r}_{p}"), joins, name=f"dot_{r}_{p}")
                m.d.comb += self.sums[r][p].eq(self._accumulate(m, dot, control, f"{r}_{p}"))
        return m

    def _accumulate(self, m: Module, dot: Value, control: data.View, name: str) -> Signal:
        acc = Signal(signed(SUM_BITS + 8), name=f"acc_{name}")
        total = Signal(acc.shape(), name=f"total_{name}")
        added = _whole(
            m,
            Mux(control.first, 0, Mux(control.shift, acc << ACT_BITS, acc)) + dot,
            f"added_{name}",
        )
        with m.If(control.valid):
            m.d.sync += acc.eq(added)
            with m.If(control.last):
                m.d.sync += total.eq(added)
        kept = total[: self._engine.acc_shape.width]
        kept = kept.as_signed() if self._engine.acc_shape.signed else kept
        return delay(m, kept, 1, name=f"sums_{name}")


def _whole(m: Module, value: Value, name: str) -> Signal:
    """``value`` as a signal of its shape."""
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


class Miter(wiring.Component):
    """Engine and contract with the same inputs.

    Members
    -------
    act, weights, control : plain vectors of the engine's ports; each channel reaches both as late
        as the engine wants it
    differs : Out(1)
    """

    def __init__(self, engine: RowEngine) -> None:
        self._engine = engine
        super().__init__(
            {
                "act": In(act_layout(engine.k, engine.pixels).size),
                "weights": In(len(engine.weights)),
                "control": In(WordControl().size),
                "differs": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self._engine
        m.submodules.contract = contract = Contract(engine)
        act = Signal(act_layout(engine.k, engine.pixels))
        control = Signal(WordControl())
        m.d.comb += [
            Value.cast(act).eq(self.act),
            Value.cast(control).eq(self.control),
            contract.weights.eq(self.weights),
            engine.weights.eq(self.weights),
        ]
        for side in (engine, contract):
            m.d.comb += Value.cast(side.control).eq(Value.cast(control))
        for p in range(engine.pixels):
            for c in range(engine.k):
                late = delay(m, act[p][c], engine.skew(c), name=f"a_{p}_{c}")
                m.d.comb += [engine.act[p][c].eq(late), contract.act[p][c].eq(late)]
        # Of words that nobody makes nothing is claimed.
        claimed = compiled(m, engine, self.weights, control)
        m.d.comb += self.differs.eq(
            claimed & (Value.cast(engine.sums) != Value.cast(contract.sums))
        )
        return m


def compiled(m: Module, engine: RowEngine, weights: Value, control: data.View) -> Value:
    """Signal that is high while all words so far were such as the compiler makes.

    Codes mean a weight. Where the accumulator has less than 24 bits, a sum also begins with
    ``first`` and has one ``shift`` at most.
    """
    kind, bits = type(engine), engine.scheme.bits
    ok = Signal(init=1)
    good = Const(1, 1)
    if engine.acc_shape.width < ACC_BITS:
        begun, shifted = Signal(), Signal()
        good = ~control.valid | control.first | (begun & ~(shifted & control.shift))
        with m.If(control.valid):
            m.d.sync += [begun.eq(1), shifted.eq(~control.first & (shifted | control.shift))]
    for c in range(engine.k):
        codes = [weights.word_select(row * engine.k + c, bits) for row in range(kind.rows)]
        good &= known(m, kind, codes, f"{c}")
    m.d.sync += ok.eq(ok & good)
    return ok & good


class Slices(enum.Enum):
    """Form of the slices of an engine's cascades in a proof."""

    REAL = enum.auto()  #: what they are in a device
    FIELDS = enum.auto()  #: the same with a multiplication for each field
    REFERENCE = enum.auto()  #: :class:`~sim.formal.reference_slice.ReferenceSlice`


def prove(
    engine: RowEngine,
    *,
    words: int,
    folder: Path,
    any_control: bool = True,
    slices: Slices = Slices.REAL,
) -> None:
    """Proof that ``engine`` keeps its contract until the sums of ``words`` words after power-up.

    For all activations and weights, and for all sequences of control bits; without ``any_control``
    each word is a sum of its own. Works in ``folder``.

    Raises ProofFailed with the cycle in which there are inputs that tell engine and contract apart.
    """
    miter = Miter(engine)
    platform, before = Series7(), ""
    if slices is Slices.REFERENCE:
        use_reference_slices(platform, type(engine))
    if slices is Slices.FIELDS:
        before = use_fields(type(engine), folder)
    wrapper = _WRAPPER.format(
        act=len(miter.act) - 1,
        weights=len(miter.weights) - 1,
        control=len(miter.control) - 1,
        word="control" if any_control else f"4'd{_DOT}",
    )
    check(
        to_verilog(miter, TOP, platform) + wrapper,
        cycles=engine.latency + words,
        folder=folder,
        before=before,
        what=f"{type(engine).__name__}(k={engine.k}) breaks its contract",
    )
