# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Claims about single units that are proved for all inputs, most of them for all time.

A claim is a value that is high in a cycle in which it is broken, from the unit and a module for
registers of the proof's own.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring

from gateware.arch import isa
from gateware.arch.isa import Base
from gateware.rtl.axi import BOUNDARY
from gateware.rtl.bursts import BEATS_BITS, BurstSplitter
from gateware.rtl.control import Sequencer
from gateware.rtl.release import ReleaseQueue
from sim.formal.contracts import Known, prove_claim
from sim.formal.designs import CONFIG
from sim.formal.proofs import anything, counts_only_grow

DATA_BITS = 64
SILENCE_CYCLES = 8
BOUNDED_CYCLES = 24  #: more than a run that begins, is refused, ends and begins anew


def _bursts_are_the_command(m: Module, dut: BurstSplitter) -> Value:
    """Bursts follow one another from the command's address on, none crosses 4 KiB, and all of them
    together are as long as the command."""
    beat = (DATA_BITS // 8).bit_length() - 1
    address, left = Signal(32), Signal(BEATS_BITS)
    length = dut.burst.p.length + 1
    taken = dut.burst.valid & dut.burst.ready
    accepted = dut.command.valid & dut.command.ready & ~dut.flush
    with m.If(taken):
        m.d.sync += [address.eq(address + (length << beat)), left.eq(left - length)]
    with m.If(dut.flush):
        m.d.sync += left.eq(0)
    with m.Elif(accepted):
        aligned = dut.command.p.address[:beat] == 0
        m.d.sync += [
            address.eq(dut.command.p.address),
            left.eq(Mux(aligned, dut.command.p.beats, 0)),
        ]
    inside = dut.burst.p.address[: BOUNDARY.bit_length() - 1]
    wrong = Cat(
        dut.burst.p.address != address,
        address[:beat] != 0,
        inside + (length << beat) > BOUNDARY,
        length > left,
    )
    return (dut.burst.valid & wrong.any()) | (dut.command.ready & (left != 0))


def _begins_when_all_is_complete(m: Module, dut: ReleaseQueue) -> Value:
    """No descriptor is offered before what it waits for is complete; one for which all is complete
    is offered two cycles later."""
    header = data.View(isa.HEADER, Value.cast(dut.o.payload)[: isa.HEADER.size])
    missing = Signal(len(isa.QUEUES))
    for bit, name in zip(missing, isa.QUEUES, strict=True):
        left = Signal(signed(isa.COUNT_BITS), name=f"left_{name}")
        m.d.comb += [left.eq(dut.done[name] - header[f"wait_{name}"]), bit.eq(left < 0)]
    complete = dut.present & ~missing.any()
    leaves = dut.o.valid & dut.o.ready
    once, twice = Signal(), Signal()
    m.d.sync += [once.eq(complete & ~leaves), twice.eq(once & complete & ~leaves)]
    early = dut.o.valid & (missing.any() | ~dut.present)
    return early | (twice & complete & ~dut.o.valid)


def _refuses_what_is_outside(m: Module, dut: Sequencer) -> Value:
    """Two cycles after a transfer beyond its buffer enters its queue everything is flushed: before
    it can leave."""
    transfer = data.View(isa.TENSOR, dut.descriptor.payload[: isa.TENSOR.size])
    beat, size = (CONFIG.bus_bits // 8).bit_length() - 1, Signal(32)
    m.d.comb += size.eq(
        Mux(
            transfer.base == Base.PROGRAM,
            dut.sizes.program,
            Mux(transfer.base == Base.INPUT, dut.sizes.input, dut.sizes.output),
        )
    )
    outside = (transfer.offset + (transfer.beats << beat)) > size
    entered, later = Signal(), Signal()
    moves = transfer.opcode.matches(*isa.opcodes(CONFIG, "loads"), *isa.opcodes(CONFIG, "stores"))
    m.d.sync += [
        entered.eq(dut.descriptor.ready & moves & outside),
        later.eq(entered),
    ]
    return later & ~dut.flush


def _silence_ends(m: Module, dut: Sequencer) -> Value:
    """A run in which no unit does anything, and the bus is at rest, ends."""
    still = dut.busy & ~dut.flush & dut.array_idle & dut.bus_idle
    moves = Cat(
        dut.load_completed, dut.execute_completed, dut.store_completed, dut.descriptor.ready
    )
    cycles = Signal(range(2 * SILENCE_CYCLES))
    m.d.sync += cycles.eq(Mux(still & ~moves.any(), cycles + 1, 0))
    return cycles > SILENCE_CYCLES + 3


def _buffers_stay(m: Module, dut: Sequencer) -> Value:
    """The host leaves sizes as they are."""
    before, begun = Signal.like(dut.sizes.as_value()), Signal()
    m.d.sync += [before.eq(dut.sizes), begun.eq(1)]
    return ~begun | (before == dut.sizes.as_value())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """Claim about a unit.

    make : the unit, without arguments
    breaches : high where the claim is broken
    text : it, in words
    known : what the unit's neighbours promise beside their streams' contract
    cycles : from power-up, for which it is proved; None for all time
    """

    make: Callable[[], wiring.Component]
    breaches: Callable[[Module, Any], Value]
    text: str
    known: Known = anything
    cycles: int | None = None

    def prove(self, folder: Path) -> None:
        """Proof of the claim. Raises ProofFailed."""
        prove_claim(self.make(), self.breaches, folder=folder, known=self.known, cycles=self.cycles)


CLAIMS = {
    "bursts": Claim(
        make=lambda: BurstSplitter(addr_bits=32, data_bits=DATA_BITS),
        breaches=_bursts_are_the_command,
        text="no burst crosses 4 KiB, and together they are the command",
    ),
    "waits": Claim(
        make=lambda: ReleaseQueue(isa.HEADER),
        breaches=_begins_when_all_is_complete,
        text="no descriptor begins before what it waits for, and none later than two cycles after",
        known=counts_only_grow,
    ),
    "outside": Claim(
        make=lambda: Sequencer(CONFIG),
        breaches=_refuses_what_is_outside,
        text="a transfer beyond its buffer ends the run before it leaves its queue",
        known=_buffers_stay,
        cycles=BOUNDED_CYCLES,
    ),
    "silence": Claim(
        make=lambda: Sequencer(CONFIG, silence_cycles=SILENCE_CYCLES),
        breaches=_silence_ends,
        text="no run stays without a word, a beat and a descriptor",
    ),
}
