# SPDX-License-Identifier: Apache-2.0
"""DMA engines of both directions, joined to one AXI3 port."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gateware.rtl.axi import Axi3Signature
from gateware.rtl.bursts import command_layout
from gateware.rtl.dma import ReadDma, WriteDma, check_outstanding


class DmaPort(wiring.Component):
    """Port with a :class:`ReadDma` and a :class:`WriteDma` on its two halves.

    Reads and writes are not ordered against each other: wait for ``write_idle`` before reading what
    was written.

    Parameters
    ----------
    addr_bits, data_bits, id_bits : int
        Widths of the bus.
    max_outstanding : int
        Bursts in flight of each direction, 1 to 16.

    Members
    -------
    axi : Out(Axi3Signature)
        The port.
    read_command, write_command : In(stream of command_layout)
        What to move.
    read_data : Out(stream of unsigned(data_bits))
        Beats from memory.
    write_data : In(stream of unsigned(data_bits))
        Beats to memory.
    flush : In(1)
        Abandon everything in both directions, see :class:`ReadDma` and :class:`WriteDma`.
    read_idle, write_idle, idle : Out(1)
        Nothing left to do; ``idle`` is both.
    read_error, write_error, error : Out(1)
        Pulse: a response other than OKAY, or a misaligned command; ``error`` is either.
    read_beats, write_beats : Out(1)
        Pulse for each beat over the bus.

    Raises
    ------
    ValueError
        For a width or ``max_outstanding`` out of range.
    """

    def __init__(
        self,
        *,
        addr_bits: int = 32,
        data_bits: int = 64,
        id_bits: int = 6,
        max_outstanding: int = 8,
    ) -> None:
        check_outstanding(max_outstanding)
        self._parameters = {
            "addr_bits": addr_bits,
            "data_bits": data_bits,
            "id_bits": id_bits,
            "max_outstanding": max_outstanding,
        }
        command = stream.Signature(command_layout(addr_bits))
        beats = stream.Signature(unsigned(data_bits))
        super().__init__(
            {
                "axi": Out(Axi3Signature(addr_bits, data_bits, id_bits)),
                "read_command": In(command),
                "read_data": Out(beats),
                "write_command": In(command),
                "write_data": In(beats),
                "flush": In(1),
                "idle": Out(1),
                "read_idle": Out(1),
                "write_idle": Out(1),
                "error": Out(1),
                "read_error": Out(1),
                "write_error": Out(1),
                "read_beats": Out(1),
                "write_beats": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.read = read = ReadDma(**self._parameters)
        m.submodules.write = write = WriteDma(**self._parameters)

        connect(m, flipped(self.read_command), read.command)
        connect(m, read.data, flipped(self.read_data))
        connect(m, flipped(self.write_command), write.command)
        connect(m, flipped(self.write_data), write.data)
        for name, member in self.axi.signature.members.items():
            half = read if name.startswith(("ar", "r")) else write
            inner, outer = getattr(half.axi, name), getattr(self.axi, name)
            m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        m.d.comb += [
            read.flush.eq(self.flush),
            write.flush.eq(self.flush),
            self.read_idle.eq(read.idle),
            self.write_idle.eq(write.idle),
            self.idle.eq(read.idle & write.idle),
            self.read_error.eq(read.error),
            self.write_error.eq(write.error),
            self.error.eq(read.error | write.error),
            self.read_beats.eq(read.beat),
            self.write_beats.eq(write.beat),
        ]
        return m
