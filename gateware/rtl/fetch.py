# SPDX-License-Identifier: Apache-2.0
"""Fetcher of descriptors ahead of their turn."""

from amaranth import *
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.bursts import command_layout


class Fetcher(Component):
    """Fetcher of descriptors, ``isa.FETCH_GROUP`` at a time and ahead, until it is halted.

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

    Throughput: a descriptor takes as many cycles as it has beats.
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

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bits = self._config.bus_bits
        # With a group in hand and groups on order, no more than FETCH_AHEAD descriptors.
        depth = isa.DESCRIPTOR_BITS // bus_bits * (isa.FETCH_AHEAD - 2)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=bus_bits, depth=depth)
        m.d.comb += [
            fifo.w_data.eq(self.beats.payload),
            fifo.w_en.eq(self.beats.valid),
            self.beats.ready.eq(fifo.w_rdy),
        ]
        running, address = Signal(), Signal(32)
        self._order_groups(m, fifo, running, address)
        self._assemble(m, fifo)
        with m.If(self.start):
            m.d.sync += [running.eq(1), address.eq(self.address)]
        with m.If(self.halt):
            m.d.sync += running.eq(0)
        return m

    def _order_groups(
        self, m: Module, fifo: SyncFIFOBuffered, running: Signal, address: Signal
    ) -> None:
        """Order a group whenever there is room for it."""
        group = isa.DESCRIPTOR_BITS // self._config.bus_bits * isa.FETCH_GROUP
        # Beats that are neither here nor on order.
        room = Signal(range(fifo.depth + 1), init=fifo.depth)
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

    def _assemble(self, m: Module, fifo: SyncFIFOBuffered) -> None:
        """Shift beats into a descriptor; it is offered in the cycle after its last."""
        bus_bits = self._config.bus_bits
        beats = isa.DESCRIPTOR_BITS // bus_bits
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
