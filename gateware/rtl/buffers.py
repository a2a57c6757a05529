# SPDX-License-Identifier: Apache-2.0
"""On-chip buffers: activations in banks of nibble columns, and wide words filled by beats."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import Component, In, Out, Signature
from amaranth.utils import ceil_log2

from gateware.arch.config import AccelConfig
from gateware.rtl.payloads import ActWord
from gateware.rtl.ram import Ram
from ir.numerics import ACT_BITS

GATHER_CYCLES = 1  #: from the address of a gathered word to the word


class ActBuffer(Component):
    """Buffer of activations: ``banks`` of ``k`` nibble columns, pixel x in bank ``x % banks``.

    Port ``read`` gives whole words of every bank; port ``gather`` reads one nibble per column of
    one bank, each column at its own address (residual operands, stores); port ``write`` writes
    likewise. A nibble column is a memory of its own, so a tile can write any subset of channels of
    a word. Port ``load`` writes whole words, beside ``write`` unless both need the same bank.

    With one copy of the words (``act_copies``), ``gather`` has the block RAMs' port that writes
    have: it may not read the bank that ``write`` has in the same cycle.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    read_address : In(16).array(banks)
    read_data : Out(unsigned(4).array(k)).array(banks)
        One cycle after the address.
    gather_enable : In(1), gather_bank : In(ceil_log2(banks))
    gather_address : In(16).array(k)
    gather_data : Out(unsigned(4)).array(k)
        One cycle after bank and address; ``gather_enable`` asks for it.
    write_enable : In(k)
    write_bank : In(ceil_log2(banks))
    write_address : In(16).array(k)
    write_data : In(unsigned(4)).array(k)
    load : In(stream of ActWord)
        Not ready while ``write`` has the bank, nor, with one copy, while ``gather`` has it.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        bank_bits, address = ceil_log2(config.banks), unsigned(ceil_log2(config.act_depth))
        word = data.ArrayLayout(unsigned(ACT_BITS), config.k)
        super().__init__(
            {
                "read_address": In(data.ArrayLayout(address, config.banks)),
                "read_data": Out(data.ArrayLayout(word, config.banks)),
                "gather_enable": In(1),
                "gather_bank": In(bank_bits),
                "gather_address": In(data.ArrayLayout(address, config.k)),
                "gather_data": Out(word),
                "write_enable": In(config.k),
                "write_bank": In(bank_bits),
                "write_address": In(data.ArrayLayout(address, config.k)),
                "write_data": In(word),
                "load": In(stream.Signature(ActWord(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        place = self.load.p.place
        loaded = data.View(self.write_data.shape(), self.load.p.data)
        gathered = Signal(data.ArrayLayout(self.gather_data.shape(), config.banks))
        gather_bank = Signal.like(self.gather_bank)
        m.d.sync += gather_bank.eq(self.gather_bank)
        writing, taken = self.write_enable.any(), Signal()
        m.d.comb += taken.eq(writing & (self.write_bank == place.bank))
        if config.act_copies == 1:
            with m.If(self.gather_enable & (self.gather_bank == place.bank)):
                m.d.comb += taken.eq(1)
        m.d.comb += [self.gather_data.eq(gathered[gather_bank]), self.load.ready.eq(~taken)]

        for bank in range(config.banks):
            loading, here = Signal(name=f"loading_{bank}"), Signal(name=f"here_{bank}")
            m.d.comb += [
                loading.eq(self.load.valid & self.load.ready & (place.bank == bank)),
                here.eq(writing & (self.write_bank == bank)),
            ]
            for column in range(config.k):
                ram = Ram.shared(
                    width=ACT_BITS, depth=config.act_depth, side=True, copied=config.act_copies == 2
                )
                m.submodules[f"bank{bank}_column{column}"] = ram
                at = Mux(loading, place.address, self.write_address[column])
                if config.act_copies == 2:
                    m.d.comb += ram.side_address.eq(self.gather_address[column])
                else:
                    at = Mux(loading | here, at, self.gather_address[column])
                m.d.comb += [
                    ram.read_address.eq(self.read_address[bank]),
                    self.read_data[bank][column].eq(ram.read_data),
                    gathered[bank][column].eq(ram.side_data),
                    ram.write_address.eq(at),
                    ram.write_data.eq(Mux(loading, loaded[column], self.write_data[column])),
                    ram.write_enable.eq(loading | (self.write_enable[column] & here)),
                ]
        return m


class FillPort(Signature):
    """Signature that fills a :class:`BeatBuffer` from one bus port, seen from the one that fills.

    Parameters
    ----------
    bus_bits, depth : int
        Of the buffer.

    Members
    -------
    start : Out(1)
        Take ``address`` as the word that the next beat begins.
    address : Out(ceil_log2(depth))
    enable : Out(1)
    data : Out(bus_bits)
    """

    def __init__(self, bus_bits: int, depth: int) -> None:
        super().__init__(
            {
                "start": Out(1),
                "address": Out(ceil_log2(depth)),
                "enable": Out(1),
                "data": Out(bus_bits),
            }
        )


class BeatBuffer(Component):
    """Buffer of wide words that are filled bus beat by bus beat, lowest beat first.

    Port p fills the beats p, p + ports, p + 2 * ports... of a word, at its own pace.

    Parameters
    ----------
    beats : int
        Bus beats per word; a multiple of ``ports``.
    bus_bits, depth, ports : int
    distributed : bool
        Made of LUTs, for few words; else the tools choose.

    Members
    -------
    fill : In(FillPort).array(ports)
    read_address : In(ceil_log2(depth))
    read_data : Out(beats * bus_bits)
        One cycle after the address.

    Latency: a beat is in memory two cycles after it came.

    Throughput: one beat per port and one word read per cycle.
    """

    _SHARERS = 16  #: memories that share a register of address and data

    def __init__(
        self, *, beats: int, bus_bits: int, depth: int, ports: int = 1, distributed: bool = False
    ) -> None:
        self._distributed = distributed
        self._beats, self._bus_bits, self._depth, self._ports = beats, bus_bits, depth, ports
        super().__init__(
            {
                "fill": In(FillPort(bus_bits, depth)).array(ports),
                "read_address": In(ceil_log2(depth)),
                "read_data": Out(beats * bus_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        each = self._beats // self._ports
        for p, fill in enumerate(self.fill):
            word = Signal(range(self._depth), name=f"word_{p}", reset_less=True)
            place = Signal(each, name=f"beat_{p}", reset_less=True)  # one bit is set
            with m.If(fill.start):
                m.d.sync += [word.eq(fill.address), place.eq(1)]
            with m.Elif(fill.enable):
                m.d.sync += place.eq(place.rotate_left(1))
                with m.If(place[-1]):
                    m.d.sync += word.eq(Mux(word == self._depth - 1, 0, word + 1))
            self._write(m, p, fill, word, place)
        return m

    def _write(
        self, m: Module, p: int, fill: wiring.PureInterface, word: Signal, place: Signal
    ) -> None:
        """Beats of port ``p`` to their memories, one cycle later: few share a register."""
        each = len(place)
        for first in range(0, each, self._SHARERS):
            names = {"name": f"at_{p}_{first}", "attrs": {"keep": "true"}, "reset_less": True}
            at = Signal.like(word, **names)
            beat = Signal.like(fill.data, **(names | {"name": f"data_{p}_{first}"}))
            m.d.sync += [at.eq(word), beat.eq(fill.data)]
            for i in range(first, min(first + self._SHARERS, each)):
                column = i * self._ports + p
                part = Ram.shared(
                    width=self._bus_bits, depth=self._depth, distributed=self._distributed
                )
                enable = Signal(name=f"enable_{column}", reset_less=True)
                m.submodules[f"beat{column}"] = part
                m.d.sync += enable.eq(fill.enable & place[i])
                m.d.comb += [
                    part.read_address.eq(self.read_address),
                    self.read_data.word_select(column, self._bus_bits).eq(part.read_data),
                    part.write_address.eq(at),
                    part.write_data.eq(beat),
                    part.write_enable.eq(enable),
                ]
