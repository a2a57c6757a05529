# SPDX-License-Identifier: Apache-2.0
"""Storer of tensors and raw outputs from the on-chip buffers to memory: STORE_* descriptors."""

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import delay
from gateware.pe.broadcast import copies
from gateware.rtl.buffers import GATHER_CYCLES
from gateware.rtl.bursts import command_layout
from gateware.rtl.payloads import ActPlace, TransferJob
from gateware.rtl.queue import Queue
from gateware.rtl.tensor_walk import TensorWalk
from ir.numerics import BIAS_BITS

STORE_AHEAD = 16  #: words of a store that are read before the bus takes them


class WordReader(Component):
    """Reader of the words of a store from the on-chip buffers.

    Places are made as long as there is room for their words, and wait until the buffer has time.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    tensor : In(isa.TENSOR), wide : In(1)
        What to read, and whether it is raw outputs; stable from ``start`` until ``over``.
    start : In(1)
    gather, gather_data, wide_address, wide_data
        To the buffers, as :class:`Storer` has them.
    beats : Out(stream of bus words)
        Raw outputs are sign-extended, lowest beat first.
    over : Out(1)
        From the second cycle after ``start``: every beat was taken.

    Throughput: a beat per cycle at most.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "tensor": In(isa.TENSOR),
                "wide": In(1),
                "start": In(1),
                "gather": Out(stream.Signature(ActPlace(config))),
                "gather_data": In(config.bus_bits),
                "wide_address": Out(isa.ADDRESS_BITS),
                "wide_data": In(signed(BIAS_BITS)),
                "beats": Out(stream.Signature(unsigned(config.bus_bits))),
                "over": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        part_bits = ceil_log2(isa.WIDE_BITS // self._config.bus_bits)
        layout = data.StructLayout({"place": ActPlace(self._config), "part": max(1, part_bits)})
        m.submodules.places = places = Queue(layout)
        m.submodules.words = words = Queue(self._config.bus_bits, depth=STORE_AHEAD)
        asking = self._count_beats(m, places.i.ready, self.beats.valid & self.beats.ready)
        m.d.comb += places.i.valid.eq(asking)
        self._make_places(m, places.i.payload, asking)

        # A place goes to its buffer; the word comes back to the room that was kept for it.
        place, taken = places.o.p.place, Signal()
        m.d.comb += [
            self.gather.valid.eq(places.o.valid & ~self.wide),
            self.gather.payload.eq(place),
            self.wide_address.eq(place.address),
            places.o.ready.eq(self.gather.ready | self.wide),
            taken.eq(places.o.valid & places.o.ready),
        ]
        # Of its own, because the other one decides whether the activation buffer has time.
        (wide,) = copies(m, self.wide, 1, "wide")
        extended = Signal(signed(isa.WIDE_BITS))
        part = delay(m, places.o.p.part, 1, name="part")
        m.d.comb += extended.eq(self.wide_data)
        beat = extended.as_unsigned().word_select(part, self._config.bus_bits)
        m.d.comb += [
            words.i.valid.eq(delay(m, taken, GATHER_CYCLES, name="arrived", reset_less=False)),
            words.i.payload.eq(
                Mux(wide, delay(m, beat, GATHER_CYCLES - 1, name="beat"), self.gather_data)
            ),
        ]
        connect(m, words.o, flipped(self.beats))
        return m

    def _count_beats(self, m: Module, place_ready: Value, leaving: Value) -> Value:
        """Whether a place is made in this cycle: of the beats that are left, one that has room."""
        left, more = Signal(isa.BEATS_BITS, reset_less=True), Signal()
        room = Signal(range(STORE_AHEAD + 1), init=STORE_AHEAD)
        asking = more & (room != 0) & place_ready
        m.d.sync += room.eq(room - asking + leaving)
        with m.If(self.start):
            m.d.sync += [left.eq(self.tensor.beats), more.eq(self.tensor.beats != 0)]
        with m.Elif(asking):
            m.d.sync += [left.eq(left - 1), more.eq(left != 1)]
        m.d.comb += self.over.eq(~more & (room == STORE_AHEAD))
        return asking

    def _make_places(self, m: Module, given: data.View, asking: Value) -> None:
        """Place of the next beat, in either buffer."""
        m.submodules.walk = walk = TensorWalk(self._config)
        entry = Signal(isa.ADDRESS_BITS, reset_less=True)
        part = Signal(given.part.shape(), reset_less=True)
        beats = isa.WIDE_BITS // self._config.bus_bits
        m.d.comb += [
            walk.tensor.eq(self.tensor),
            walk.start.eq(self.start),
            walk.step.eq(asking),
            given.place.address.eq(Mux(self.wide, entry, walk.address)),
            given.place.bank.eq(walk.bank),
            given.part.eq(part),
        ]
        with m.If(self.start):
            m.d.sync += [entry.eq(self.tensor.address), part.eq(0)]
        with m.Elif(asking):
            m.d.sync += part.eq(Mux(part == beats - 1, 0, part + 1))
            with m.If(part == beats - 1):
                m.d.sync += entry.eq(entry + 1)


class Storer(Component):
    """Storer of what STORE_* jobs name to memory, job by job.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(stream of TransferJob)
        Taken when it is complete.
    command : Out(stream of command_layout)
    beats : Out(stream of bus words)
    write_idle : In(1)
        The memory has answered everything.
    gather : Out(stream of ActPlace)
        Word of the activation buffer that is wanted.
    gather_data : In(bus_bits)
        It, :data:`~gateware.rtl.buffers.GATHER_CYCLES` after its place was taken.
    wide_address : Out(16), wide_data : In(signed(48))
        Raw outputs; data one cycle after the address.
    completed : Out(1)
        Pulse for each job, after the memory has answered.

    Latency: four cycles from a job to its first place.

    Throughput: a beat per cycle at most.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "job": In(stream.Signature(TransferJob())),
                "command": Out(stream.Signature(command_layout())),
                "beats": Out(stream.Signature(unsigned(config.bus_bits))),
                "write_idle": In(1),
                "gather": Out(stream.Signature(ActPlace(config))),
                "gather_data": In(config.bus_bits),
                "wide_address": Out(isa.ADDRESS_BITS),
                "wide_data": In(signed(BIAS_BITS)),
                "completed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tensor = self.job.p.tensor
        begin, wide = Signal(), Signal(reset_less=True)
        m.d.sync += wide.eq(tensor.opcode == isa.Opcode.STORE_WIDE)
        m.d.comb += [
            self.command.p.address.eq(self.job.p.address),
            self.command.p.beats.eq(tensor.beats),
        ]
        m.submodules.words = words = WordReader(self._config)
        m.d.comb += [
            words.tensor.eq(tensor),
            words.start.eq(begin),
            words.wide.eq(wide),
            words.gather_data.eq(self.gather_data),
            words.wide_data.eq(self.wide_data),
            self.wide_address.eq(words.wide_address),
        ]
        connect(m, words.gather, flipped(self.gather))
        connect(m, words.beats, flipped(self.beats))
        with m.FSM():
            with m.State("Idle"):
                with m.If(self.job.valid):
                    m.next = "Begin"
            with m.State("Begin"):
                m.d.comb += begin.eq(1)
                m.next = "Command"
            with m.State("Command"):
                m.d.comb += self.command.valid.eq(1)
                with m.If(self.command.ready):
                    m.next = "Words"
            with m.State("Words"):
                with m.If(words.over):
                    m.next = "Answer"
            with m.State("Answer"):
                with m.If(self.write_idle):
                    m.next = "End"
            with m.State("End"):
                m.d.comb += [self.job.ready.eq(1), self.completed.eq(1)]
                m.next = "Idle"
        return m
