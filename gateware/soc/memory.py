# SPDX-License-Identifier: Apache-2.0
"""Block RAM as the memory of an accelerator, shared with whoever fills and reads it."""

import dataclasses

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import Axi3Signature, Resp
from gateware.rtl.queue import Queue


def access_layout(data_bits: int) -> data.StructLayout:
    """Layout of an access of the host: word ``index`` is read, or ``data`` is written to it."""
    return data.StructLayout({"write": 1, "index": 32, "data": data_bits})


@dataclasses.dataclass(frozen=True)
class _Read:
    """The read burst in hand."""

    index: Signal  # word that comes next
    busy: Signal  # beats are left to read
    moves: Value  # the word at the output of the RAM moves on, if there is one
    idle: Value  # no beat is at the output of the RAM


@dataclasses.dataclass(frozen=True)
class _Write:
    """The write burst in hand."""

    index: Signal  # word that comes next
    busy: Signal  # beats are left to write
    enable: Value  # bytes that a beat writes in this cycle


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

    Latency: three cycles from an address to the first beat, three from an access to its answer.

    Both ports of the RAM have registers around them: it is far from everything, and its own output
    takes half a cycle.

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
        reading = self._read_burst(m, read)
        writing = self._write_burst(m)
        free = self._word_port(m, reading, writing, read)
        m.d.comb += [
            read.en.eq(reading.moves),
            read.addr.eq(Mux(reading.busy, reading.index, self.access.p.index)),
        ]
        self._drive_write_port(m, writing, free, write)
        return m

    @property
    def _offset_bits(self) -> int:
        """Address bits within a word."""
        return (self._data_bits // 8 - 1).bit_length()

    def _outside(self, index: Signal) -> Value:
        """Bits of a word's number that are zero inside the memory."""
        return index[(self._words - 1).bit_length() :]

    def _read_burst(self, m: Module, read: memory.ReadPort) -> _Read:
        """Read channels, a beat per cycle, the first three cycles after its address.

        Beats wait for ``rready`` in a queue, and the next one at the output of the RAM. Its enable
        goes to every block, so no handshake of another unit is in its path.
        """
        axi = self.axi
        index = Signal(32 - self._offset_bits)
        left = Signal(4)  # after the next beat
        busy = Signal()
        number = Signal.like(axi.arid)
        # Of the beat at the output of the RAM.
        loaded, last, outside, loaded_number = Signal(), Signal(), Signal(), Signal.like(axi.arid)
        beats = Queue(
            data.StructLayout({"id": len(number), "data": len(read.data), "last": 1, "resp": Resp})
        )
        m.submodules.beats = beats
        moves = ~loaded | beats.i.ready
        m.d.comb += [
            axi.arready.eq(~busy),
            beats.i.valid.eq(loaded),
            beats.i.p.id.eq(loaded_number),
            beats.i.p.data.eq(read.data),
            beats.i.p.last.eq(last),
            beats.i.p.resp.eq(Mux(outside, Resp.DECERR, Resp.OKAY)),
            axi.rvalid.eq(beats.o.valid),
            beats.o.ready.eq(axi.rready),
            axi.rid.eq(beats.o.p.id),
            axi.rdata.eq(beats.o.p.data),
            axi.rlast.eq(beats.o.p.last),
            axi.rresp.eq(beats.o.p.resp),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [
                index.eq(axi.araddr[self._offset_bits :]),
                left.eq(axi.arlen),
                number.eq(axi.arid),
                busy.eq(1),
            ]
        with m.If(moves):
            m.d.sync += [
                loaded.eq(busy),
                last.eq(left == 0),
                loaded_number.eq(number),
                outside.eq(self._outside(index) != 0),
            ]
            with m.If(busy):
                m.d.sync += [index.eq(index + 1), left.eq(left - 1), busy.eq(left != 0)]
        return _Read(index, busy, moves, ~loaded)

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
        enable = Mux(beat & inside, axi.wstrb, 0)
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
        return _Write(write_index, writing, enable)

    def _word_port(
        self, m: Module, reading: _Read, writing: _Write, read: memory.ReadPort
    ) -> Signal:
        """The word port, an answer three cycles after its access; whether it is free: no burst uses
        an address of the RAM, and no word waits at its output."""
        access, answer = self.access, self.answer
        fetched, arrived = Signal(), Signal()
        word = Signal.like(read.data, reset_less=True)  # the RAM's output is slow
        free = Signal()
        m.d.comb += [
            free.eq(
                ~fetched
                & ~arrived
                & (~answer.valid | answer.ready)
                & ~writing.busy
                & ~reading.busy
                & reading.idle
            ),
            access.ready.eq(free),
        ]
        with m.If(answer.ready):
            m.d.sync += answer.valid.eq(0)
        m.d.sync += [fetched.eq(access.valid & free), arrived.eq(fetched), word.eq(read.data)]
        with m.If(arrived):
            m.d.sync += [answer.valid.eq(1), answer.payload.eq(word)]
        return free

    def _drive_write_port(
        self, m: Module, writing: _Write, free: Value, write: memory.WritePort
    ) -> None:
        """Address, data and enables of the RAM's write port, a cycle later."""
        axi, access = self.axi, self.access
        host_write = access.valid & free & access.p.write
        address, word = Signal.like(write.addr), Signal.like(write.data)
        enable = Signal.like(write.en)
        m.d.sync += [
            address.eq(Mux(writing.busy, writing.index, access.p.index)),
            word.eq(Mux(writing.busy, axi.wdata, access.p.data)),
            enable.eq(writing.enable | host_write.replicate(len(write.en))),
        ]
        m.d.comb += [write.addr.eq(address), write.data.eq(word), write.en.eq(enable)]
