# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Block RAM of which a design has many."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from gateware.pe.series7 import SharedModule


class Ram(wiring.Component):
    """Memory that is read at one place or two and written at one, each cycle.

    A 7-series block RAM has two ports, so that a second place to read takes a copy of the words,
    unless it is the place of the write. A depth that is no power of two is made of memories whose
    depths are, the largest first, because Yosys would choose from blocks of 512 words.

    Parameters
    ----------
    width, depth : int
    side : bool
        Whether there is a second place to read.
    copied : bool
        Whether the second place has an address of its own; if not, it is ``write_address``.
    distributed : bool
        Made of LUTs, for few words; else the tools choose.

    Members
    -------
    read_address : In(ceil_log2(depth)), read_data : Out(width)
        One cycle after the address; the old word where it is written in the same cycle.
    side_address : In(ceil_log2(depth))
        With ``copied``.
    side_data : Out(width)
        With ``side``; likewise.
    write_enable : In(1), write_address : In(ceil_log2(depth)), write_data : In(width)
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        side: bool = False,
        copied: bool = False,
        distributed: bool = False,
    ) -> None:
        self._width, self._depth, self._side, self._copied = width, depth, side, copied
        self._attributes = {"ram_style": "distributed"} if distributed else {}
        address = ceil_log2(depth)
        super().__init__(
            {
                "read_address": In(address),
                "read_data": Out(width),
                **({"side_address": In(address)} if copied else {}),
                **({"side_data": Out(width)} if side else {}),
                "write_enable": In(1),
                "write_address": In(address),
                "write_data": In(width),
            }
        )

    @classmethod
    def shared(
        cls,
        *,
        width: int,
        depth: int,
        side: bool = False,
        copied: bool = False,
        distributed: bool = False,
    ) -> SharedModule:
        """Memory of which a design has many, as a module that text for 7-series has once."""
        name = (
            f"ram_{depth}x{width}{'_copied' if copied else '_side' if side else ''}"
            f"{'_distributed' if distributed else ''}"
        )
        return SharedModule(
            cls(width=width, depth=depth, side=side, copied=copied, distributed=distributed), name
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        side_address = self.side_address if self._copied else self.write_address
        first, read_data, side_data = 0, Const(0, self._width), Const(0, self._width)
        for depth in _powers_of_two(self._depth):
            m.submodules[f"words_{first}" if first else "words"] = words = memory.Memory(
                shape=unsigned(self._width), depth=depth, init=[], attrs=self._attributes
            )
            read, write = words.read_port(), words.write_port()
            here = self._inside(self.write_address, first, depth)
            m.d.comb += [
                read.addr.eq(self.read_address),
                write.addr.eq(self.write_address),
                write.data.eq(self.write_data),
                write.en.eq(self.write_enable & here),
            ]
            read_data = self._chosen(m, self.read_address, first, depth, read.data, read_data)
            if self._side:
                side = words.read_port()
                m.d.comb += side.addr.eq(side_address)
                side_data = self._chosen(m, side_address, first, depth, side.data, side_data)
            first += depth
        m.d.comb += self.read_data.eq(read_data)
        if self._side:
            m.d.comb += self.side_data.eq(side_data)
        return m

    def _inside(self, address: Value, first: int, depth: int) -> Value:
        """``address`` is one of ``depth`` words from ``first`` on, a multiple of it."""
        if depth == self._depth:
            return Const(1)
        bits = ceil_log2(depth)
        return address[bits:] == first >> bits

    def _chosen(
        self, m: Module, address: Value, first: int, depth: int, word: Value, others: Value
    ) -> Value:
        """``word`` if it is of these words, one cycle after the address, else ``others``."""
        if not first:
            return word
        here = Signal(name=f"here_{first}", reset_less=True)
        m.d.sync += here.eq(self._inside(address, first, depth))
        return Mux(here, word, others)


def _powers_of_two(depth: int) -> list[int]:
    """Powers of two that add up to ``depth``, the largest first."""
    return [1 << bit for bit in reversed(range(depth.bit_length())) if depth >> bit & 1]
