# SPDX-License-Identifier: Apache-2.0
"""One read port of memory, shared by the fetcher of descriptors and the loader."""

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out

from gateware.rtl.bursts import BEATS_BITS, command_layout
from gateware.rtl.queue import Queue


class ReadShare(Component):
    """Share of one :class:`~gateware.rtl.dma.ReadDma` between two clients.

    Commands are taken one at a time, the first client's before the second's if it was there in the
    cycle before; beats go back to the client whose command they answer, in order.

    Parameters
    ----------
    data_bits : int
        Width of the bus.
    depth : int
        Commands whose beats are still to come.

    Members
    -------
    commands : In(stream of command_layout).array(2)
    data : Out(stream of unsigned(data_bits)).array(2)
        A client must take its beats, or the other one waits.
    command : Out(stream of command_layout), beats : In(stream of unsigned(data_bits))
        To and from the :class:`~gateware.rtl.dma.ReadDma`.
    owner : Out(1)
        The client whose beats come next, or came last; a register.

    Latency: a command is taken in the cycle after it came, and offered in the next; beats pass in
    the cycle in which they come.

    Throughput: a command in two cycles, a beat per cycle.
    """

    def __init__(self, data_bits: int, *, depth: int = 8) -> None:
        self._depth = depth
        command, beats = stream.Signature(command_layout()), stream.Signature(unsigned(data_bits))
        super().__init__(
            {
                "commands": In(command).array(2),
                "data": Out(beats).array(2),
                "command": Out(command),
                "beats": In(beats),
                "owner": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        order = data.StructLayout({"owner": 1, "beats": BEATS_BITS})
        m.submodules.order = queue = Queue(order, depth=self._depth)
        self._take_commands(m, queue.i)
        self._return_beats(m, queue.o)
        return m

    def _take_commands(self, m: Module, order: stream.Interface) -> None:
        """A command is chosen in one cycle and offered from the next on; ``order`` keeps whose."""
        held, turn, owner = Signal(), Signal(), Signal()
        command = Signal(command_layout(), reset_less=True)
        taken = Signal()
        offers = Array(offer.valid for offer in self.commands)
        payloads = Array(offer.payload.as_value() for offer in self.commands)
        m.d.comb += [
            *(offer.ready.eq(~held & (turn == i)) for i, offer in enumerate(self.commands)),
            self.command.valid.eq(held & order.ready),
            self.command.payload.eq(command),
            taken.eq(held & order.ready & self.command.ready),
            order.valid.eq(taken & (command.beats != 0)),
            order.p.owner.eq(owner),
            order.p.beats.eq(command.beats),
        ]
        # A register, so that one client's valid is not the other one's ready.
        m.d.sync += turn.eq(~self.commands[0].valid)
        with m.If(~held):
            m.d.sync += [held.eq(offers[turn]), owner.eq(turn), command.eq(payloads[turn])]
        with m.Elif(taken):
            m.d.sync += held.eq(0)

    def _return_beats(self, m: Module, order: stream.Interface) -> None:
        """Each beat to the client of the oldest command, in the cycle in which it comes."""
        # Of the oldest command: its client, one bit, none without a command; beats that are left.
        client = Signal(len(self.data))
        left, last = Signal(BEATS_BITS, reset_less=True), Signal(reset_less=True)
        over = Signal()
        m.d.comb += [
            self.beats.ready.eq((client & Cat(beat.ready for beat in self.data)).any()),
            over.eq(self.beats.valid & self.beats.ready & last),
            order.ready.eq(over | (client == 0)),
        ]
        for beat, mine in zip(self.data, client, strict=True):
            m.d.comb += [
                beat.payload.eq(self.beats.payload),
                beat.valid.eq(self.beats.valid & mine),
            ]
        with m.If(order.ready):
            m.d.sync += [
                client.eq(Mux(order.valid, 1 << order.p.owner, 0)),
                self.owner.eq(order.p.owner),
                left.eq(order.p.beats),
                last.eq(order.p.beats == 1),
            ]
        with m.Elif(self.beats.valid & self.beats.ready):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
