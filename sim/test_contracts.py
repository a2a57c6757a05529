# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""What is offered stays on offer, and queues hand on each word once, for all inputs and all time;
faults of each kind are found."""

from pathlib import Path

import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.queue import Queue
from sim.formal.contracts import prove_queue, prove_sources, reach_sources
from sim.formal.proofs import CASES, QUEUES
from sim.formal.smt import ProofFailed

#: What takes longer than five seconds.
SLOW = ("Fetcher", "Queue of 8")


def marked(names):
    """Parameters of a test, those of :data:`SLOW` marked."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


@pytest.mark.parametrize("name", marked(CASES))
def test_what_is_offered_stays_on_offer(name: str, tmp_path: Path) -> None:
    CASES[name].prove(tmp_path)


@pytest.mark.parametrize("name", marked(QUEUES))
def test_each_word_once_and_in_order(name: str, tmp_path: Path) -> None:
    case = QUEUES[name]
    prove_queue(case.make(), depth=case.depth, latency=case.latency, folder=tmp_path)


class Slice(wiring.Component):
    """Register slice of two words, with one of several faults."""

    i: In(stream.Signature(2))
    o: Out(stream.Signature(2))

    def __init__(self, fault: str = "") -> None:
        self._fault = fault
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i, o, fault = self.i, self.o, self._fault
        words, level = [Signal(2, name=f"word_{n}") for n in range(2)], Signal(range(3))
        entering, leaving = i.valid & i.ready, o.valid & o.ready
        m.d.comb += [i.ready.eq(level != 2), o.valid.eq(level != 0), o.payload.eq(words[0])]
        m.d.sync += level.eq(level + entering - leaving)
        with m.If(leaving & (fault != "repeats")):
            m.d.sync += words[0].eq(words[1])
        with m.If(entering):
            with m.If(level - leaving == 0):
                m.d.sync += words[0].eq(i.payload)
            with m.Else():
                m.d.sync += words[1].eq(i.payload)
        if fault == "loses":  # a word that comes while another one goes
            m.d.sync += level.eq(level + (entering & ~leaving) - leaving)
        if fault == "reorders":
            m.d.comb += o.payload.eq(Mux(level == 2, words[1], words[0]))
        if fault == "takes back":
            m.d.comb += o.valid.eq((level != 0) & ~i.valid)
        if fault == "waits for ready":
            m.d.comb += o.valid.eq((level != 0) & o.ready)
        if fault == "is stuck":
            m.d.comb += i.ready.eq((level != 2) & ~o.valid)
        return m


def test_a_slice_without_fault_is_proved(tmp_path: Path) -> None:
    prove_queue(Slice(), depth=2, folder=tmp_path)
    prove_sources(Slice(), folder=tmp_path)


@pytest.mark.parametrize("fault", ["loses", "repeats", "reorders", "waits for ready", "is stuck"])
def test_words_that_are_not_handed_on_are_found(fault: str, tmp_path: Path) -> None:
    with pytest.raises(ProofFailed, match="Slice loses, repeats or reorders words in cycle"):
        prove_queue(Slice(fault), depth=2, folder=tmp_path)


@pytest.mark.parametrize("fault", ["reorders", "takes back"])
def test_an_offer_that_changes_is_found(fault: str, tmp_path: Path) -> None:
    with pytest.raises(ProofFailed, match="Slice takes back or changes a word on offer in cycle"):
        prove_sources(Slice(fault), folder=tmp_path)


def test_a_queue_that_counts_wrong_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Queue, "_after", lambda self, place: place ^ 1)
    prove_queue(Queue(2, depth=2), depth=2, folder=tmp_path)
    with pytest.raises(ProofFailed, match="Queue loses, repeats or reorders words"):
        prove_queue(Queue(2, depth=3), depth=3, folder=tmp_path)


def test_a_queue_of_fewer_words_is_found(tmp_path: Path) -> None:
    with pytest.raises(ProofFailed, match="Queue loses, repeats or reorders words"):
        prove_queue(Queue(2, depth=2), depth=3, folder=tmp_path)


def test_what_is_known_must_leave_inputs(tmp_path: Path) -> None:
    """An assumption that nothing ever comes would prove everything."""
    about = {"folder": tmp_path, "known": lambda m, dut: ~dut.i.valid}
    prove_sources(Slice("reorders"), **about)
    with pytest.raises(ProofFailed, match="Slice never offers a word at each of its streams"):
        reach_sources(Slice("reorders"), **about)
