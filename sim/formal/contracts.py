# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Proofs about streams: for all inputs and for all time.

:func:`prove_sources` is about any component: if its neighbours keep the contract of
:mod:`sim.formal.monitor`, so does it. :func:`prove_queue` is about components that hand on the
words of ``i`` at ``o``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.hdl import Fragment, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.series7 import to_verilog
from gateware.rtl.queue import Queue
from gateware.rtl.release import ReleaseQueue
from gateware.rtl.storer import WordReader
from sim.formal.channels import Elaborated, channels
from sim.formal.monitor import Monitor, ReadyMonitor
from sim.formal.pdr import check_for_ever
from sim.formal.smt import ProofFailed, check

TOP = "contract"
#: Units that are proved by themselves, and count as what is proved of them in those around them.
ABSTRACT = (Queue, ReleaseQueue, WordReader)
_WRAPPER = """
module proof(input clk{inputs});
  wire broken;
  contract contract(.clk(clk), .rst(1'b0), .broken(broken){pins});
  always @* assert (!broken);
endmodule
"""

#: What is known about the inputs of a component: a value that is high in each cycle that is as its
#: neighbours make it, from the component and a module for registers.
Known = Callable[[Module, Any], ValueLike]


class _Contract(wiring.Component):
    """Component with free inputs; units within it are nothing but what is proved of them.

    Parameters
    ----------
    dut : Component
    abstract : types of components
        Units that are replaced by free outputs, which keep the contract.
    more : int
        Widths of further inputs.

    Members
    -------
    inputs of ``dut`` and outputs of the units that were replaced : In
        Plain vectors.
    broken : Out(1)
        The contract is broken for the first time, after inputs that were all as they may be.
    """

    def __init__(
        self,
        dut: wiring.Component,
        *,
        abstract: tuple[type[wiring.Component], ...] = (),
        **more: int,
    ) -> None:
        self.dut = dut
        self._ins = _flat(dut, In)
        self._fragment = Fragment.get(dut, None)
        self._inner = list(_take_out(self._fragment, abstract))
        for index, unit in enumerate(self._inner):
            self._ins |= {f"{name}_{index}": port for name, port in _flat(unit, Out).items()}
        super().__init__(
            {name: In(len(value)) for name, value in self._ins.items()}
            | {name: In(width) for name, width in more.items()}
            | {"broken": Out(1)}
        )

    def begin(self) -> Module:
        """Module with the component, its inputs connected."""
        m = Module()
        m.submodules.dut = Elaborated(self._fragment)
        m.d.comb += [value.eq(getattr(self, name)) for name, value in self._ins.items()]
        return m

    def conclude(self, m: Module, known: Value, breaches: Value, excused: ValueLike = 0) -> None:
        """``broken`` from what this cycle's inputs may be and what the component does."""
        for unit in self._inner:
            for channel in channels(unit):
                if channel.is_source:
                    m.submodules += (monitor := Monitor(channel, excused))
                    known &= ~monitor.broken
                elif isinstance(unit, Queue):
                    m.submodules += (stays := ReadyMonitor(channel))
                    known &= ~stays.broken
        ok = Signal(init=1)
        m.d.sync += ok.eq(ok & known & ~breaches)
        m.d.comb += self.broken.eq(ok & known & breaches)


def _flat(component: wiring.Component, flow: wiring.Flow) -> dict[str, Value]:
    """Ports of one direction by flat name."""
    return {
        "__".join(map(str, path)): Value.cast(value)
        for path, member, value in component.signature.flatten(component)
        if member.flow is flow
    }


def _take_out(
    fragment: Fragment, kinds: tuple[type[wiring.Component], ...]
) -> Iterator[wiring.Component]:
    """Units of some kinds within a design, which nothing drives the outputs of any more."""
    for index, (inner, *rest) in enumerate(fragment.subfragments):
        unit = next((one for one in inner.origins or () if isinstance(one, kinds)), None)
        if unit is None:
            yield from _take_out(inner, kinds)
        else:
            fragment.subfragments[index] = (Fragment(), *rest)
            yield unit


class _Sources(_Contract):
    """Contract of every stream that a component offers.

    With ``reached``, names of streams, it counts as broken when a word has waited and gone at each
    of them: a proof of that must fail, or there are no inputs about which the other says anything.
    """

    def __init__(
        self,
        dut: wiring.Component,
        known: Known,
        excused: str,
        *,
        fair: bool,
        reached: frozenset[str] = frozenset(),
    ) -> None:
        self._known, self._excused, self._fair = known, excused, fair
        self._reached = reached
        super().__init__(dut, abstract=ABSTRACT)

    def elaborate(self, platform: object) -> Module:
        m = self.begin()
        excused = getattr(self.dut, self._excused) if self._excused else 0
        breaches: dict[bool, list[Value]] = {True: [], False: []}
        for index, channel in enumerate(channels(self.dut)):
            monitor = Monitor(channel, excused if not channel.is_bus else 0)
            m.submodules[f"monitor_{index}"] = monitor
            breaches[channel.is_source].append(monitor.broken)
        known = self._known(m, self.dut)
        if self._fair:
            known &= ~Cat(breaches[False]).any()
        wrong = Cat(breaches[True]).any()
        if self._reached:
            wrong = self._all_words(m)
        self.conclude(m, known, wrong, excused)
        return m

    def _all_words(self, m: Module) -> Value:
        """Whether each of the streams has had a word that waited and went."""
        all_words = []
        for channel in channels(self.dut):
            if channel.name in self._reached:
                waited, went = Signal(), Signal()
                m.d.sync += [
                    waited.eq(channel.valid & ~channel.ready),
                    went.eq(went | (waited & channel.valid & channel.ready)),
                ]
                all_words.append(went)
        return Cat(all_words).all()


class _Carries(_Contract):
    """What goes into ``i`` comes out at ``o``: every word once, in order, within ``latency``.

    Words are counted. One that any input ``mark`` chooses is kept here, and must come out when as
    many others have as were inside when it came. While words are inside, ``valid`` may not stay low
    for longer than ``latency`` cycles, nor ``ready`` while there is room, so that none is lost.
    """

    def __init__(self, dut: wiring.Component, depth: int, latency: int) -> None:
        self._depth, self._latency = depth, latency
        super().__init__(dut, mark=1)

    def elaborate(self, platform: object) -> Module:
        m = self.begin()
        i, o = self.dut.i, self.dut.o
        inside, ahead = Signal(range(self._depth + 2)), Signal(range(self._depth + 2))
        watching, word = Signal(), Signal.like(Value.cast(i.payload))
        entering, leaving = i.valid & i.ready, o.valid & o.ready
        m.d.sync += inside.eq(inside + entering - leaving)
        with m.If(watching & leaving):
            m.d.sync += [ahead.eq(ahead - 1), watching.eq(ahead != 0)]
        with m.Elif(~watching & entering & self.mark):
            m.d.sync += [watching.eq(1), word.eq(i.payload), ahead.eq(inside - leaving)]
        wrong = watching & o.valid & (ahead == 0) & (Value.cast(o.payload) != word)
        m.submodules.stays = stays = ReadyMonitor(channels(self.dut)[0])
        breaches = Cat(
            stays.broken,
            wrong,
            o.valid & (inside == 0),
            inside > self._depth,
            self._late(m, ~o.valid & (inside != 0)),
            self._late(m, ~i.ready & (inside < self._depth)),
        )
        self.conclude(m, Const(1), breaches.any())
        return m

    def _late(self, m: Module, waits: Value) -> Value:
        """Whether ``waits`` has been high for longer than the latency."""
        cycles = Signal(range(self._latency + 1))
        m.d.sync += cycles.eq(
            Mux(waits & (cycles != self._latency), cycles + 1, Mux(waits, cycles, 0))
        )
        return waits & (cycles == self._latency)


class _Claimed(_Contract):
    """A claim about a component, of whatever it does: high where it is broken."""

    def __init__(self, dut: wiring.Component, breaches: Known, known: Known) -> None:
        self._breaches, self._known = breaches, known
        super().__init__(dut, abstract=ABSTRACT)

    def elaborate(self, platform: object) -> Module:
        m = self.begin()
        known = Value.cast(self._known(m, self.dut))
        for index, channel in enumerate(channels(self.dut)):
            if not channel.is_source:
                m.submodules[f"monitor_{index}"] = monitor = Monitor(channel)
                known &= ~monitor.broken
        self.conclude(m, known, Value.cast(self._breaches(m, self.dut)))
        return m


def prove_claim(
    dut: wiring.Component,
    breaches: Known,
    *,
    folder: Path,
    known: Known = lambda m, dut: Const(1),
    cycles: int | None = None,
) -> None:
    """Proof that ``breaches`` of ``dut`` is never high, or not in the first ``cycles``, while its
    neighbours keep the contract of their streams and what is ``known`` of them.

    Works in ``folder``. Raises ProofFailed.
    """
    what = f"a claim about {type(dut).__name__} is broken"
    _prove(_Claimed(dut, breaches, known), folder, what, cycles)


def prove_sources(
    dut: wiring.Component,
    *,
    folder: Path,
    excused: str = "",
    known: Known = lambda m, dut: Const(1),
    fair: bool = True,
) -> None:
    """Proof that ``dut`` keeps the contract of every stream that it offers.

    ``excused`` names the member that is high in cycles in which it need not, channels of a bus
    excepted. ``known`` is what the neighbours promise beside their contracts, which they keep if
    ``fair``. Units of :data:`ABSTRACT` within ``dut`` count as what is proved of them. Works in
    ``folder``. Raises ProofFailed.
    """
    what = f"{type(dut).__name__} takes back or changes a word on offer"
    _prove(_Sources(dut, known, excused, fair=fair), folder, what)


def reach_sources(
    dut: wiring.Component,
    *,
    folder: Path,
    excused: str = "",
    known: Known = lambda m, dut: Const(1),
    fair: bool = True,
    idle: tuple[str, ...] = (),
) -> None:
    """Proof that what :func:`prove_sources` is told of the inputs leaves some: with such inputs
    a word waits and is taken at every stream that ``dut`` offers, but for those that are ``idle``.

    Raises ProofFailed.
    """
    reached = frozenset(one.name for one in channels(dut) if one.is_source) - set(idle)
    contract = _Sources(dut, known, excused, fair=fair, reached=reached)
    try:
        _prove(contract, folder, "")
    except ProofFailed:
        return
    raise ProofFailed(f"{type(dut).__name__} never offers a word at each of its streams")


def prove_queue(dut: wiring.Component, *, depth: int, latency: int = 0, folder: Path) -> None:
    """Proof that ``dut`` hands on the words of ``i`` at ``o``, each once and in order.

    It may hold ``depth`` words, and must offer one, or take one while there is room, at most
    ``latency`` cycles late. Works in ``folder``. Raises ProofFailed.
    """
    what = f"{type(dut).__name__} loses, repeats or reorders words"
    _prove(_Carries(dut, depth, latency), folder, what)


def _prove(contract: _Contract, folder: Path, what: str, cycles: int | None = None) -> None:
    ins = {n: m.shape for n, m in contract.signature.members.items() if m.flow is In}
    widths = {name: Shape.cast(shape).width for name, shape in ins.items()}
    inputs = "".join(f",\n  input [{width - 1}:0] {name}" for name, width in widths.items())
    pins = "".join(f", .{name}({name})" for name in widths)
    text = to_verilog(contract, TOP) + _WRAPPER.format(inputs=inputs, pins=pins)
    if cycles is None:
        check_for_ever(text, folder=folder, what=what)
    else:
        check(text, cycles=cycles, folder=folder, what=what)
