# SPDX-License-Identifier: Apache-2.0
"""Fetches descriptors ahead of their turn, and shares the port that it reads them through."""

from amaranth import *
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.dma import BEATS_BITS, command_layout


class ReadShare(Component):
    """Lets two clients read through one :class:`~gateware.rtl.dma.ReadDma`.

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
    """

    def __init__(self, data_bits: int, depth: int = 8) -> None:
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

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.order = order = SyncFIFO(width=1 + BEATS_BITS, depth=self._depth)
        # A command on offer may not change before it is taken, so the choice is kept.
        chosen, waiting = Signal(), Signal()
        choice = Mux(waiting, chosen, ~self.commands[0].valid)
        offered = Signal()
        m.d.comb += offered.eq(Mux(choice, self.commands[1].valid, self.commands[0].valid))
        taken = offered & order.w_rdy & self.command.ready
        beats = Signal(BEATS_BITS)
        m.d.comb += [
            self.command.valid.eq(offered & order.w_rdy),
            self.command.payload.eq(
                Mux(
                    choice, self.commands[1].payload.as_value(), self.commands[0].payload.as_value()
                )
            ),
            beats.eq(self.command.p.beats),
            order.w_data.eq(Cat(choice, beats)),
            order.w_en.eq(taken & (beats != 0)),
        ]
        m.d.sync += [chosen.eq(choice), waiting.eq(offered & ~taken)]
        for index, command in enumerate(self.commands):
            m.d.comb += command.ready.eq((choice == index) & order.w_rdy & self.command.ready)

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
        return m


class Fetcher(Component):
    """Reads descriptors one after the other, ``isa.FETCH_GROUP`` at a time, until it is halted.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    start : In(1)
        Begin at ``address``; everything before is forgotten.
    halt : In(1)
        Ask for no more.
    address : In(32)
    command : Out(stream of command_layout)
    beats : In(stream of bus words)
    descriptor : Out(stream of unsigned(512))
        A descriptor takes as many cycles as it has beats.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "halt": In(1),
                "address": In(32),
                "command": Out(stream.Signature(command_layout())),
                "beats": In(stream.Signature(unsigned(config.bus_bits))),
                "descriptor": Out(stream.Signature(unsigned(isa.DESCRIPTOR_BITS))),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bus_bits = self._config.bus_bits
        beats = isa.DESCRIPTOR_BITS // bus_bits
        group = beats * isa.FETCH_GROUP
        # With a group in hand and groups on order, no more than FETCH_AHEAD descriptors.
        depth = beats * (isa.FETCH_AHEAD - 2)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=bus_bits, depth=depth)
        m.d.comb += [
            fifo.w_data.eq(self.beats.payload),
            fifo.w_en.eq(self.beats.valid),
            self.beats.ready.eq(fifo.w_rdy),
        ]

        running, address = Signal(), Signal(32)
        room = Signal(range(depth + 1), init=depth)  # beats that are neither here nor on order
        taken = Signal()
        m.d.comb += [
            self.command.valid.eq(running & (room >= group)),
            self.command.p.address.eq(address),
            self.command.p.beats.eq(group),
            taken.eq(self.command.valid & self.command.ready),
        ]
        m.d.sync += room.eq(room - Mux(taken, group, 0) + fifo.r_en)
        with m.If(taken):
            m.d.sync += address.eq(address + isa.DESCRIPTOR_BYTES * isa.FETCH_GROUP)

        position, full = Signal(range(beats)), Signal()
        free = ~full | self.descriptor.ready
        m.d.comb += [
            self.descriptor.valid.eq(full),
            fifo.r_en.eq(fifo.r_rdy & free),
        ]
        with m.If(self.descriptor.ready):
            m.d.sync += full.eq(0)
        with m.If(fifo.r_en):
            m.d.sync += [
                self.descriptor.payload.eq(Cat(self.descriptor.payload[bus_bits:], fifo.r_data)),
                position.eq(position + 1),
            ]
            with m.If(position == beats - 1):
                m.d.sync += [position.eq(0), full.eq(1)]
        with m.If(self.start):
            m.d.sync += [running.eq(1), address.eq(self.address)]
        with m.If(self.halt):
            m.d.sync += running.eq(0)
        return m
