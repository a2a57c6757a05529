# SPDX-License-Identifier: Apache-2.0
"""Commands that move runs of beats, and the AXI3 bursts that they are cut into."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import BURST_BEATS

BEATS_BITS = 20  #: width of a command's beat count: up to 8 MiB at 64 bits


def command_layout(addr_bits: int = 32) -> data.StructLayout:
    """Layout of a command: ``beats`` bus words, 0 to 2^20 - 1, from byte ``address`` on, which
    is aligned to the bus width."""
    return data.StructLayout({"address": addr_bits, "beats": BEATS_BITS})


def _burst_layout(addr_bits: int) -> data.StructLayout:
    return data.StructLayout({"address": addr_bits, "length": 4})


class BurstSplitter(wiring.Component):
    """Splitter of commands into INCR bursts that AXI3 allows.

    A burst ends at a multiple of 16 beats or at the end of the command.

    Parameters
    ----------
    addr_bits, data_bits : int
        Widths of the bus.

    Members
    -------
    command : In(stream of command_layout)
        What to move.
    burst : Out(stream of {address, length})
        ``length`` is the number of beats less one, as on the bus.
    flush : In(1)
        Drop the command in hand, and every one that is taken.
    active : Out(1)
        A command is in hand.
    rejected : Out(1)
        Pulse: the command accepted in the cycle before was misaligned.

    Latency: the burst comes two cycles after the command was accepted.

    Throughput: one burst in two cycles, and a third one between two commands.
    """

    def __init__(self, *, addr_bits: int, data_bits: int) -> None:
        self._bytes = data_bits // 8
        super().__init__(
            {
                "command": In(stream.Signature(command_layout(addr_bits))),
                "burst": Out(stream.Signature(_burst_layout(addr_bits))),
                "flush": In(1),
                "active": Out(1),
                "rejected": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        offset_bits = (self._bytes - 1).bit_length()
        address = Signal.like(self.command.p.address, reset_less=True)
        beats = Signal(BEATS_BITS, reset_less=True)
        # Of the burst that comes next; known a cycle after address and beats are.
        offered = Signal()
        length, last = Signal(5, reset_less=True), Signal(reset_less=True)
        taken = Signal()

        to_boundary = BURST_BEATS - address[offset_bits:][:4]
        m.d.comb += [
            self.burst.p.address.eq(address),
            self.burst.p.length.eq(length - 1),
            self.burst.valid.eq(offered),
            self.command.ready.eq(~self.active),
            taken.eq(offered & self.burst.ready),
        ]
        m.d.sync += [
            last.eq(beats <= to_boundary),
            length.eq(Mux(beats <= to_boundary, beats, to_boundary)),
        ]
        with m.If(taken):
            m.d.sync += [
                address.eq(address + (length << offset_bits)),
                beats.eq(beats - length),
                self.active.eq(~last),
                offered.eq(0),
            ]
        with m.Else():
            m.d.sync += offered.eq(self.active)
        m.d.sync += self.rejected.eq(0)
        with m.If(self.flush):
            m.d.sync += [self.active.eq(0), offered.eq(0)]
        with m.Elif(self.command.valid & ~self.active):
            aligned = self.command.p.address[:offset_bits] == 0
            m.d.sync += [
                self.rejected.eq(~aligned),
                address.eq(self.command.p.address),
                beats.eq(self.command.p.beats),
                self.active.eq(aligned & (self.command.p.beats != 0)),
                offered.eq(0),
            ]
        return m
