# SPDX-License-Identifier: Apache-2.0
"""Walk of the drain over the pixels, slots and phases of a job."""

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.broadcast import copies
from gateware.rtl.drain_stages import JobInHand, Step, Turn
from gateware.rtl.payloads import DrainJob

BITS_PER_COPY = 128  #: bits of the job in hand that one copy of an enable has


class DrainWalk(Component):
    """Walk over a job: every slot and phase of ``drain_pixels`` adjacent pixels, then of the next.

    With one copy of the activations, codes of two such turns alternate: the odd one has odd cycles,
    the even one even ones.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(DrainJob), job_valid : In(1)
        A job must come at least a drain after the one before.
    step : Out(Step)
        The first one two cycles after the job.
    slot_address : Out(16)
        Of the step's slot.

    Throughput: a step per cycle.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "job": In(DrainJob(config)),
                "job_valid": In(1),
                "step": Out(Step(config)),
                "slot_address": Out(isa.ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._walk_job(m, self._take_job(m))
        return m

    @property
    def _pairs(self) -> int:
        """1 if codes of two turns alternate."""
        return self._config.drain_interleave - 1

    @property
    def _pixel_bits(self) -> int:
        """Bits of a pixel's number that tell the pixels of a turn apart."""
        return ceil_log2(self._config.drain_pixels)

    def _take_job(self, m: Module) -> data.View:
        """One cycle after the job: what its steps have in common is computed."""
        job, execute = Signal(JobInHand(self._config), reset_less=True), self.job.execute
        bank_bits, tables = ceil_log2(self._config.banks), self._config.tables
        last = self.job.count - 1
        last_turn, last_pixel = last[self._pixel_bits :], last[: self._pixel_bits]
        m.d.sync += [
            job.given.eq(self.job),
            job.two_phases.eq(execute.out_planes | (execute.residual & execute.residual_planes)),
            job.last_turn.eq(last_turn | (self._pairs & ~execute.wide)),
            job.odd_turns.eq(~last_turn[0]),
            job.last_pixels.eq(Cat(last_pixel >= d for d in range(self._config.drain_pixels))),
            job.last_slot.eq(execute.slots - 1),
            job.single_slot.eq(execute.slots == 1),
            job.gather_address.eq(
                execute.residual_address
                + (Mux(execute.broadcast, 0, self.job.pixel) if tables else self.job.pixel)
            ),
            job.out_address.eq(
                execute.out_address + Mux(execute.wide, self.job.pixel << bank_bits, self.job.pixel)
            ),
        ]
        return job

    def _walk_job(self, m: Module, coming: data.View) -> None:
        """Turns, slots and phases of the job in hand."""
        config = self._config
        active, begin = Signal(), Signal()
        job = Signal(coming.shape(), reset_less=True)
        execute = job.given.execute
        number = Signal(len(job.last_turn), reset_less=True)
        slot, last_slot = Signal(isa.ADDRESS_BITS, reset_less=True), Signal(reset_less=True)
        slots_left = Signal(isa.ADDRESS_BITS, reset_less=True)
        phase = Signal(self.step.phase.shape(), reset_less=True)
        last_phase = phase == Mux(execute.wide, config.requant_lanes - 1, job.two_phases)
        last_turn = number == job.last_turn
        turn = self._take_turns(m, active, job, number)

        with m.If(turn.ends):
            m.d.sync += phase.eq(phase + 1)
            with m.If(last_phase):
                m.d.sync += [
                    phase.eq(0),
                    slot.eq(slot + 1),
                    slots_left.eq(slots_left - 1),
                    last_slot.eq(slots_left == 1),
                ]
                with m.If(last_slot):
                    m.d.sync += [
                        slot.eq(execute.slot_address),
                        slots_left.eq(job.last_slot),
                        last_slot.eq(job.single_slot),
                        number.eq(number + Mux(self._pairs & ~execute.wide, 2, 1)),
                    ]
                    with m.If(last_turn):
                        m.d.sync += active.eq(0)
        m.d.sync += begin.eq(self.job_valid)
        with m.If(begin):
            m.d.sync += [
                active.eq(1),
                slot.eq(coming.given.execute.slot_address),
                slots_left.eq(coming.last_slot),
                last_slot.eq(coming.single_slot),
                number.eq(self._pairs & ~coming.given.execute.wide),
                phase.eq(0),
            ]
        bits = Value.cast(job)
        parts = range(0, len(bits), BITS_PER_COPY)
        for first, begins in zip(
            parts, copies(m, self.job_valid, len(parts), "begin"), strict=True
        ):
            part = slice(first, first + BITS_PER_COPY)
            with m.If(begins):
                m.d.sync += bits[part].eq(Value.cast(coming)[part])
        done = turn.valid & (last_phase | execute.wide)
        pixels = job.last_pixels | (~turn.last).replicate(config.drain_pixels)
        m.d.comb += [
            self.slot_address.eq(slot),
            self.step.pixels.eq(Mux(done, pixels, 0)),
            self.step.final.eq(turn.ends & last_phase & last_slot & last_turn & job.given.final),
            self.step.gathers.eq(turn.valid & execute.residual & ~self._keeps(turn)),
            self.step.job.eq(job),
            self.step.turn.eq(turn.number),
            self.step.phase.eq(phase),
        ]

    def _keeps(self, turn: Turn) -> Value:
        """A turn has the operand that the step before it has read."""
        if not (self._pairs and self._config.tables):
            return Const(0)
        return self.step.job.given.execute.broadcast & turn.number[0]

    def _take_turns(self, m: Module, active: Signal, job: data.View, number: Signal) -> Turn:
        """Turns of the pixels: the odd one of a pair in odd cycles, the even one in even ones."""
        execute, last = job.given.execute, number == job.last_turn
        if not self._pairs:
            return Turn(valid=active, ends=active, number=number, last=last)
        odd, second = Signal(reset_less=True), Signal(reset_less=True)
        waits = execute.broadcast & ~second & odd if self._config.tables else Const(0)
        m.d.sync += [odd.eq(~odd), second.eq(active & ~(second | waits | execute.wide))]
        missing = odd & last & job.odd_turns
        return Turn(
            valid=active & (execute.wide | ~(missing | waits)),
            ends=active & (execute.wide | second),
            number=Cat(Mux(execute.wide, number[0], odd), number[1:]),
            last=last & (execute.wide | odd | job.odd_turns),
        )
