# SPDX-License-Identifier: Apache-2.0
"""One read port of memory, shared by the fetcher of descriptors and the loader."""

from amaranth import *
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out

from gateware.rtl.bursts import BEATS_BITS, command_layout


class ReadShare(Component):
    """Share of one :class:`~gateware.rtl.dma.ReadDma` between two clients.

    Commands are taken one at a time, the first client's before the second's; beats go back to the
    client whose command they answer, in order.

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
        The client whose beats come next.

    Latency: none, commands and beats pass in the cycle in which they come.

    Throughput: a command and a beat per cycle.
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
        m.submodules.order = order = SyncFIFO(width=1 + BEATS_BITS, depth=self._depth)
        self._take_commands(m, order)
        self._return_beats(m, order)
        return m

    def _take_commands(self, m: Module, order: SyncFIFO) -> None:
        """The first client's command before the second's, combinational; ``order`` keeps whose."""
        # A command on offer may not change before it is taken, so the choice is kept.
        chosen, waiting = Signal(), Signal()
        choice = Mux(waiting, chosen, ~self.commands[0].valid)
        first, second = self.commands
        offered = Signal()
        m.d.comb += offered.eq(Mux(choice, second.valid, first.valid))
        taken = offered & order.w_rdy & self.command.ready
        beats = Signal(BEATS_BITS)
        m.d.comb += [
            self.command.valid.eq(offered & order.w_rdy),
            self.command.payload.eq(
                Mux(choice, second.payload.as_value(), first.payload.as_value())
            ),
            beats.eq(self.command.p.beats),
            order.w_data.eq(Cat(choice, beats)),
            order.w_en.eq(taken & (beats != 0)),
        ]
        m.d.sync += [chosen.eq(choice), waiting.eq(offered & ~taken)]
        for index, command in enumerate(self.commands):
            m.d.comb += command.ready.eq((choice == index) & order.w_rdy & self.command.ready)

    def _return_beats(self, m: Module, order: SyncFIFO) -> None:
        """Each beat to the client of the oldest command, combinational."""
        position = Signal(BEATS_BITS)
        ready = Mux(self.owner, self.data[1].ready, self.data[0].ready)
        m.d.comb += [
            self.owner.eq(order.r_data[0]),
            self.beats.ready.eq(order.r_rdy & ready),
        ]
        for index, beat in enumerate(self.data):
            m.d.comb += [
                beat.payload.eq(self.beats.payload),
                beat.valid.eq(self.beats.valid & order.r_rdy & (self.owner == index)),
            ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += position.eq(position + 1)
            with m.If(position == order.r_data[1:] - 1):
                m.d.comb += order.r_en.eq(1)
                m.d.sync += position.eq(0)
