# SPDX-License-Identifier: Apache-2.0
"""Block RAM as the memory of an accelerator, shared with whoever fills and reads it."""

import dataclasses
import itertools

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import Axi3Signature, Resp
from gateware.rtl.queue import Queue

#: Of a bank: as deep as a block RAM of one bit, so that none needs a multiplexer.
BANK_WORDS = 1 << 14

READ_CYCLES = 3  #: of the RAM: its address, itself, the word behind it


def access_layout(data_bits: int) -> data.StructLayout:
    """Layout of an access of the host: word ``index`` is read, or ``data`` is written to it."""
    return data.StructLayout({"write": 1, "index": 32, "data": data_bits})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Read:
    """The read burst in hand."""

    index: Signal  # word that comes next
    busy: Signal  # beats are left to read
    moves: Value  # the words behind the RAM move on, if there are any
    idle: Value  # no beat is behind the RAM
    word: Value  # the RAM's output, a cycle later


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

    Latency: five cycles from an address to the first beat, four from an access to its answer.

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
        enable = Signal()
        index = Signal(range(self._words))
        word, banks = self._banks(m, index, enable)
        reading = self._read_burst(m, word)
        writing = self._write_burst(m)
        free = self._word_port(m, reading, writing)
        m.d.comb += [
            enable.eq(reading.moves),
            index.eq(Mux(reading.busy, reading.index, self.access.p.index)),
        ]
        self._drive_write_ports(m, writing, free, banks)
        return m

    def _banks(
        self, m: Module, index: Signal, enable: Signal
    ) -> tuple[Value, list[memory.WritePort]]:
        """Word at ``index``, three cycles with ``enable`` later, and the write ports of the banks.

        Each bank has registers of its own: for its address, which goes to every block of it, and
        for its word, so that no multiplexer is in the way from its slow output.
        """
        depth = min(self._words, BANK_WORDS)
        count = self._words // depth
        words, writes = [], []
        for number in range(count):
            bank = memory.Memory(shape=self._data_bits, depth=depth, init=[])
            m.submodules[f"bank_{number}"] = bank
            read, write = bank.read_port(), bank.write_port(granularity=8)
            word = Signal(self._data_bits, reset_less=True, name=f"word_{number}")
            # Kept, or synthesis would make one address for all banks.
            address = Signal.like(read.addr, name=f"read_{number}", attrs={"keep": "true"})
            m.d.comb += [read.addr.eq(address), read.en.eq(enable)]
            with m.If(enable):
                m.d.sync += [address.eq(index), word.eq(read.data)]
            words.append(word)
            writes.append(write)
        chosen: Value = index[(depth - 1).bit_length() :]
        for stage in range(READ_CYCLES):
            later = Signal(range(count), reset_less=True, name=f"bank_of_word_{stage}")
            with m.If(enable):
                m.d.sync += later.eq(chosen)
            chosen = later
        return Array(words)[chosen], writes

    @property
    def _offset_bits(self) -> int:
        """Address bits within a word."""
        return (self._data_bits // 8 - 1).bit_length()

    def _outside(self, index: Signal) -> Value:
        """Bits of a word's number that are zero inside the memory."""
        return index[(self._words - 1).bit_length() :]

    def _read_burst(self, m: Module, word: Value) -> _Read:
        """Read channels, a beat per cycle, the first five cycles after its address.

        Beats wait for ``rready`` in a queue, and the next ones in the registers around the RAM.
        Its enable goes to every block, so no handshake of another unit is in its path.
        """
        axi = self.axi
        index = Signal(32 - self._offset_bits)
        left = Signal(4)  # after the next beat
        busy = Signal()
        number = Signal.like(axi.arid)
        layout = data.StructLayout({"valid": 1, "id": len(number), "last": 1, "resp": Resp})
        stages = [Signal(layout, name=f"beat_{stage}") for stage in range(READ_CYCLES)]
        answered = stages[-1]
        beats = Queue(
            data.StructLayout({"id": len(number), "data": len(word), "last": 1, "resp": Resp})
        )
        m.submodules.beats = beats
        moves = ~answered.valid | beats.i.ready
        m.d.comb += [
            axi.arready.eq(~busy),
            beats.i.valid.eq(answered.valid),
            beats.i.p.id.eq(answered.id),
            beats.i.p.data.eq(word),
            beats.i.p.last.eq(answered.last),
            beats.i.p.resp.eq(answered.resp),
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
                stages[0].valid.eq(busy),
                stages[0].id.eq(number),
                stages[0].last.eq(left == 0),
                stages[0].resp.eq(Mux(self._outside(index) != 0, Resp.DECERR, Resp.OKAY)),
                *(after.eq(before) for before, after in itertools.pairwise(stages)),
            ]
            with m.If(busy):
                m.d.sync += [index.eq(index + 1), left.eq(left - 1), busy.eq(left != 0)]
        idle = ~Cat(stage.valid for stage in stages).any()
        return _Read(index=index, busy=busy, moves=moves, idle=idle, word=word)

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

    def _word_port(self, m: Module, reading: _Read, writing: _Write) -> Signal:
        """The word port, an answer four cycles after its access; whether it is free: no burst uses
        an address of the RAM, and no word waits behind it."""
        access, answer = self.access, self.answer
        under_way = Signal(READ_CYCLES)  # of a word, the first cycle lowest
        free = Signal()
        m.d.comb += [
            free.eq(
                ~under_way.any()
                & (~answer.valid | answer.ready)
                & ~writing.busy
                & ~reading.busy
                & reading.idle
            ),
            access.ready.eq(free),
        ]
        with m.If(answer.ready):
            m.d.sync += answer.valid.eq(0)
        m.d.sync += under_way.eq(Cat(access.valid & free, under_way))
        with m.If(under_way[-1]):
            m.d.sync += [answer.valid.eq(1), answer.payload.eq(reading.word)]
        return free

    def _drive_write_ports(
        self, m: Module, writing: _Write, free: Value, banks: list[memory.WritePort]
    ) -> None:
        """Address, data and enables of the banks' write ports, a cycle later."""
        axi, access = self.axi, self.access
        host_write = access.valid & free & access.p.write
        index = Mux(writing.busy, writing.index, access.p.index)[: (self._words - 1).bit_length()]
        lanes = writing.enable | host_write.replicate(len(banks[0].en))
        word = Signal.like(banks[0].data)
        m.d.sync += word.eq(Mux(writing.busy, axi.wdata, access.p.data))
        for number, write in enumerate(banks):
            # An address goes to every block of a bank: kept, or synthesis would make one for all.
            address = Signal.like(write.addr, name=f"address_{number}", attrs={"keep": "true"})
            enable = Signal.like(write.en, name=f"enable_{number}")
            m.d.sync += [
                address.eq(index),
                enable.eq(Mux(index[len(address) :] == number, lanes, 0)),
            ]
            m.d.comb += [write.addr.eq(address), write.data.eq(word), write.en.eq(enable)]
