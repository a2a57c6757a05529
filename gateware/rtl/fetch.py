# SPDX-License-Identifier: Apache-2.0
"""Fetcher of descriptors ahead of their turn."""

from amaranth import *
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.bursts import command_layout


class Fetcher(Component):
    """Fetcher of descriptors, ``isa.FETCH_GROUP`` at a time and ahead, until it is halted.

    After the last whole group of the program it offers one more descriptor, with opcode 0, which
    the sequencer refuses: a program without END ends there.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    start : In(1)
        Begin at ``address``; everything before is forgotten.
    halt : In(1)
        Ask for no more.
    address, size : In(32)
        Of the program, ``size`` in bytes.
    command : Out(stream of command_layout)
    beats : In(stream of bus words)
    descriptor : Out(stream of unsigned(512))

    Latency: three cycles from ``start`` to the command; a descriptor is offered in the cycle after
    its last beat left the queue, two cycles after that came.

    Throughput: a descriptor takes as many cycles as it has beats, and those until it is taken.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "halt": In(1),
                "address": In(32),
                "size": In(32),
                "command": Out(stream.Signature(command_layout())),
                "beats": In(stream.Signature(unsigned(config.bus_bits))),
                "descriptor": Out(stream.Signature(unsigned(isa.DESCRIPTOR_BITS))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bits = self._config.bus_bits
        # With a group in hand and groups on order, no more than FETCH_AHEAD descriptors.
        depth = isa.DESCRIPTOR_BITS // bus_bits * (isa.FETCH_AHEAD - 2)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=bus_bits, depth=depth)
        m.d.comb += [
            fifo.w_data.eq(self.beats.payload),
            fifo.w_en.eq(self.beats.valid),
            # No more is ever on order than there is room for.
            self.beats.ready.eq(1),
        ]
        exhausted = self._order_groups(m, fifo)
        self._assemble(m, fifo, exhausted)
        return m

    def _order_groups(self, m: Module, fifo: SyncFIFOBuffered) -> Signal:
        """Order of a group whenever there is room for it; what is on offer stays so.

        Returns whether all of the program was ordered and has left the queue.
        """
        group = isa.DESCRIPTOR_BITS // self._config.bus_bits * isa.FETCH_GROUP
        running, offered, address = Signal(), Signal(), Signal(32, reset_less=True)
        # Beats that are neither here nor on order; whether they were enough in the last cycle.
        room, enough = Signal(range(fifo.depth + 1), init=fifo.depth), Signal()
        # Groups of the program that were not ordered; whether there were any in the last cycle.
        group_bits = ceil_log2(isa.DESCRIPTOR_BYTES * isa.FETCH_GROUP)
        left, more = Signal(32 - group_bits, reset_less=True), Signal(reset_less=True)
        exhausted = Signal(reset_less=True)
        taken = offered & self.command.ready
        m.d.comb += [
            self.command.valid.eq(offered),
            self.command.p.address.eq(address),
            self.command.p.beats.eq(group),
        ]
        m.d.sync += [
            room.eq(room - Mux(taken, group, 0) + fifo.r_en),
            enough.eq(running & ~offered & (room >= group)),
            offered.eq(Mux(offered, ~self.command.ready, enough & more & ~self.halt)),
            more.eq(left != 0),
            exhausted.eq(running & ~more & ~offered & (room == fifo.depth)),
        ]
        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                more.eq(1),
                address.eq(self.address),
                left.eq(self.size[group_bits:]),
            ]
        with m.Elif(taken):
            m.d.sync += [
                address.eq(address + isa.DESCRIPTOR_BYTES * isa.FETCH_GROUP),
                left.eq(left - 1),
            ]
        with m.If(self.halt):
            m.d.sync += running.eq(0)
        return exhausted

    def _assemble(self, m: Module, fifo: SyncFIFOBuffered, exhausted: Signal) -> None:
        """Beats to their places in a descriptor, which is offered in the cycle after its last.

        A register for each beat, which only its beat enables: no net to 512 of them.
        """
        bus_bits = self._config.bus_bits
        beats = isa.DESCRIPTOR_BITS // bus_bits
        place, full = Signal(beats, init=1), Signal()  # one bit is set
        words = Signal(isa.DESCRIPTOR_BITS, reset_less=True)
        m.d.comb += [
            self.descriptor.payload.eq(words),
            self.descriptor.valid.eq(full),
            fifo.r_en.eq(fifo.r_rdy & ~full),
        ]
        for beat in range(beats):
            with m.If(fifo.r_en & place[beat]):
                m.d.sync += words.word_select(beat, bus_bits).eq(fifo.r_data)
        with m.If(fifo.r_en):
            m.d.sync += [place.eq(place.rotate_left(1)), full.eq(place[-1])]
        with m.Elif(self.descriptor.ready):
            m.d.sync += full.eq(0)
        with m.Elif(exhausted & place[0] & ~full):
            m.d.sync += [full.eq(1), words[: isa.OPCODE_BITS].eq(0)]
