# SPDX-License-Identifier: Apache-2.0
"""Block RAM as the memory of an accelerator, shared with whoever fills and reads it."""

import dataclasses

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import Axi3Signature, Resp


def access_layout(data_bits: int) -> data.StructLayout:
    """Layout of an access of the host: word ``index`` is read, or ``data`` is written to it."""
    return data.StructLayout({"write": 1, "index": 32, "data": data_bits})


@dataclasses.dataclass(frozen=True)
class _Read:
    """The read burst in hand."""

    index: Signal  # word that comes next
    left: Signal  # beats
    issue: Signal  # a beat is read in this cycle


@dataclasses.dataclass(frozen=True)
class _Write:
    """The write burst in hand."""

    index: Signal  # word that comes next
    inside: Value  # the memory
    beat: Signal  # a beat comes in this cycle


@dataclasses.dataclass(frozen=True)
class _Host:
    """The access at the word port."""

    free: Signal  # neither address of the RAM is in use, and no word waits at its output
    read: Signal  # a word is read in this cycle


class BlockMemory(wiring.Component):
    """Memory of block RAM with an AXI3 port and a word port.

    The AXI3 port takes one read and one write burst at a time, INCR and of the full width. Beats
    outside the memory are answered DECERR. The word port gets the cycles in which the other one is
    idle; its accesses are answered in order.

    Parameters
    ----------
    size : int
        Bytes, a power of two of at least 4096; the memory begins at address 0.
    axi : Axi3Signature
        The port.

    Members
    -------
    axi : In(axi)
    access : In(stream of access_layout(data_bits))
    answer : Out(stream of unsigned(data_bits))
        One per access: the word read, or anything for a write.

    Latency: two cycles from an address to the first beat, and from an access to its answer.

    Throughput: one beat read and one written per cycle; an access in two cycles.

    Raises
    ------
    ValueError
        For a size that is not a power of two or below 4096.
    """

    def __init__(self, size: int, axi: Axi3Signature) -> None:
        if size < 4096 or size & size - 1:
            raise ValueError(f"size must be a power of two of at least 4096, not {size!r}")
        self._words = size * 8 // axi.data_bits
        self._data_bits = axi.data_bits
        super().__init__(
            {
                "axi": In(axi),
                "access": In(stream.Signature(access_layout(axi.data_bits))),
                "answer": Out(stream.Signature(axi.data_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = store = memory.Memory(
            shape=self._data_bits, depth=self._words, init=[]
        )
        read, write = store.read_port(), store.write_port(granularity=8)
        reading = self._read_burst(m)
        writing = self._write_burst(m)
        host = self._word_port(m, reading, writing, read)
        self._drive_read_port(m, reading, host, read)
        self._drive_write_port(m, writing, host, write)
        return m

    @property
    def _offset_bits(self) -> int:
        """Address bits within a word."""
        return (self._data_bits // 8 - 1).bit_length()

    def _outside(self, index: Signal) -> Value:
        """Bits of a word's number that are zero inside the memory."""
        return index[(self._words - 1).bit_length() :]

    def _read_burst(self, m: Module) -> _Read:
        """Read channels, a beat per cycle, the first two cycles after its address.

        ``en`` moves a word to the output of the RAM, which is where it waits for ``rready``.
        """
        axi = self.axi
        read_index = Signal(32 - self._offset_bits)
        read_left = Signal(5)
        issue = Signal()
        m.d.comb += [
            axi.arready.eq((read_left == 0) & (~axi.rvalid | axi.rready)),
            issue.eq((read_left != 0) & (~axi.rvalid | axi.rready)),
        ]
        with m.If(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [
                read_index.eq(axi.araddr[self._offset_bits :]),
                read_left.eq(axi.arlen + 1),
                axi.rid.eq(axi.arid),
            ]
        with m.If(issue):
            m.d.sync += [
                read_index.eq(read_index + 1),
                read_left.eq(read_left - 1),
                axi.rvalid.eq(1),
                axi.rlast.eq(read_left == 1),
                axi.rresp.eq(Mux(self._outside(read_index) == 0, Resp.OKAY, Resp.DECERR)),
            ]
        return _Read(read_index, read_left, issue)

    def _write_burst(self, m: Module) -> _Write:
        """Write channels, a beat per cycle from the cycle after the address."""
        axi = self.axi
        write_index = Signal(32 - self._offset_bits)
        writing = Signal()
        inside = self._outside(write_index) == 0
        beat = Signal()
        m.d.comb += [
            axi.awready.eq(~writing & ~axi.bvalid),
            axi.wready.eq(writing),
            beat.eq(axi.wvalid & writing),
        ]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [
                write_index.eq(axi.awaddr[self._offset_bits :]),
                axi.bid.eq(axi.awid),
                axi.bresp.eq(Resp.OKAY),
                writing.eq(1),
            ]
        with m.If(beat):
            m.d.sync += write_index.eq(write_index + 1)
            with m.If(~inside):
                m.d.sync += axi.bresp.eq(Resp.DECERR)
            with m.If(axi.wlast):
                m.d.sync += [writing.eq(0), axi.bvalid.eq(1)]
        return _Write(write_index, inside, beat)

    def _word_port(
        self, m: Module, reading: _Read, writing: _Write, read: memory.ReadPort
    ) -> _Host:
        """The word port; an answer two cycles after its access."""
        axi, access, answer = self.axi, self.access, self.answer
        fetched = Signal()
        free = Signal()
        m.d.comb += [
            free.eq(
                ~fetched
                & (~answer.valid | answer.ready)
                & ~writing.beat
                & (reading.left == 0)
                & ~axi.rvalid
            ),
            access.ready.eq(free),
        ]
        host_read = Signal()
        m.d.comb += host_read.eq(access.valid & free & ~access.p.write)
        with m.If(answer.ready):
            m.d.sync += answer.valid.eq(0)
        m.d.sync += fetched.eq(access.valid & free)
        with m.If(fetched):
            m.d.sync += [answer.valid.eq(1), answer.payload.eq(read.data)]
        return _Host(free, host_read)

    def _drive_read_port(
        self, m: Module, reading: _Read, host: _Host, read: memory.ReadPort
    ) -> None:
        """Address and enable of the RAM's read port, combinational."""
        m.d.comb += [
            read.en.eq(reading.issue | host.read),
            # Not by `issue`: `rready` comes late, and this net goes to every block RAM.
            read.addr.eq(Mux(reading.left != 0, reading.index, self.access.p.index)),
            self.axi.rdata.eq(read.data),
        ]

    def _drive_write_port(
        self, m: Module, writing: _Write, host: _Host, write: memory.WritePort
    ) -> None:
        """Address, data and enables of the RAM's write port, combinational."""
        axi, access = self.axi, self.access
        host_write = access.valid & host.free & access.p.write
        m.d.comb += [
            write.addr.eq(Mux(writing.beat, writing.index, access.p.index)),
            write.data.eq(Mux(writing.beat, axi.wdata, access.p.data)),
            write.en.eq(
                Mux(
                    writing.beat & writing.inside,
                    axi.wstrb,
                    host_write.replicate(self._data_bits // 8),
                )
            ),
        ]
