# SPDX-License-Identifier: Apache-2.0
"""On-chip memories: activations (banked nibble columns), beat-filled wide words, wide results."""

from amaranth import *
from amaranth.lib import data, memory
from amaranth.lib.wiring import Component, In, Out, Signature
from amaranth.utils import ceil_log2

from gateware.config import AccelConfig
from quant.numerics import ACT_BITS


class ActBuffer(Component):
    """Activations: ``banks`` banks of ``k`` nibble columns; pixel x lies in bank ``x % banks``.

    Port ``read`` gives whole words of every bank; port ``gather`` reads one nibble per column of
    one bank, each column at its own address (residual operands, stores); port ``write`` writes
    likewise. A nibble column is a memory of its own, so a tile can write any subset of channels of
    a word. Port ``load`` writes whole words, beside ``write`` unless both need the same bank.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    read_address : In(16).array(banks)
    read_data : Out(unsigned(4).array(k)).array(banks)
        One cycle after the address.
    gather_bank : In(ceil_log2(banks))
    gather_address : In(16).array(k)
    gather_data : Out(unsigned(4)).array(k)
        One cycle after bank and address.
    write_enable : In(k)
    write_bank : In(ceil_log2(banks))
    write_address : In(16).array(k)
    write_data : In(unsigned(4)).array(k)
    load_valid : In(1), load_ready : Out(1)
        The word is written when both are high; not ready while ``write`` has the bank.
    load_bank : In(ceil_log2(banks)), load_address : In(16), load_data : In(4 * k)
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        bank_bits, address = ceil_log2(config.banks), unsigned(ceil_log2(config.act_depth))
        word = data.ArrayLayout(unsigned(ACT_BITS), config.k)
        super().__init__({
            "read_address": In(data.ArrayLayout(address, config.banks)),
            "read_data": Out(data.ArrayLayout(word, config.banks)),
            "gather_bank": In(bank_bits),
            "gather_address": In(data.ArrayLayout(address, config.k)),
            "gather_data": Out(word),
            "write_enable": In(config.k),
            "write_bank": In(bank_bits),
            "write_address": In(data.ArrayLayout(address, config.k)),
            "write_data": In(word),
            "load_valid": In(1),
            "load_ready": Out(1),
            "load_bank": In(bank_bits),
            "load_address": In(address),
            "load_data": In(word),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        gathered = Signal(data.ArrayLayout(self.gather_data.shape(), config.banks))
        gather_bank = Signal.like(self.gather_bank)
        m.d.sync += gather_bank.eq(self.gather_bank)
        writing = self.write_enable.any()
        m.d.comb += [
            self.gather_data.eq(gathered[gather_bank]),
            self.load_ready.eq(~writing | (self.write_bank != self.load_bank)),
        ]

        for bank in range(config.banks):
            loading = Signal(name=f"loading_{bank}")
            m.d.comb += loading.eq(
                self.load_valid & self.load_ready & (self.load_bank == bank))
            for column in range(config.k):
                column_memory = memory.Memory(
                    shape=unsigned(ACT_BITS), depth=config.act_depth, init=[])
                m.submodules[f"bank{bank}_column{column}"] = column_memory
                read, gather = column_memory.read_port(), column_memory.read_port()
                write = column_memory.write_port()
                m.d.comb += [
                    read.addr.eq(self.read_address[bank]),
                    self.read_data[bank][column].eq(read.data),
                    gather.addr.eq(self.gather_address[column]),
                    gathered[bank][column].eq(gather.data),
                    write.addr.eq(
                        Mux(loading, self.load_address, self.write_address[column])),
                    write.data.eq(Mux(loading, self.load_data[column], self.write_data[column])),
                    write.en.eq(
                        loading | (self.write_enable[column] & (self.write_bank == bank))),
                ]
        return m


class FillPort(Signature):
    """What fills a :class:`BeatBuffer` through one bus port, seen from the one that fills.

    Members
    -------
    start : Out(1)
        Take ``address`` as the word that the next beat begins.
    address : Out(ceil_log2(depth))
    enable : Out(1)
    data : Out(bus_bits)
    """

    def __init__(self, bus_bits: int, depth: int) -> None:
        super().__init__({
            "start": Out(1), "address": Out(ceil_log2(depth)), "enable": Out(1),
            "data": Out(bus_bits)})


class BeatBuffer(Component):
    """Wide words that are filled bus beat by bus beat, lowest beat first.

    Port p fills the beats p, p + ports, p + 2 * ports... of a word, at its own pace.

    Parameters
    ----------
    beats : int
        Bus beats per word; a multiple of ``ports``.
    bus_bits, depth, ports : int

    Members
    -------
    fill : In(FillPort).array(ports)
    read_address : In(ceil_log2(depth))
    read_data : Out(beats * bus_bits)
        One cycle after the address.
    """

    def __init__(self, *, beats: int, bus_bits: int, depth: int, ports: int = 1) -> None:
        self._beats, self._bus_bits, self._depth, self._ports = beats, bus_bits, depth, ports
        super().__init__({
            "fill": In(FillPort(bus_bits, depth)).array(ports),
            "read_address": In(ceil_log2(depth)),
            "read_data": Out(beats * bus_bits),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        each = self._beats // self._ports
        for p, fill in enumerate(self.fill):
            word = Signal(range(self._depth), name=f"word_{p}")
            beat = Signal(range(each), name=f"beat_{p}")
            with m.If(fill.start):
                m.d.sync += [word.eq(fill.address), beat.eq(0)]
            with m.Elif(fill.enable):
                m.d.sync += beat.eq(beat + 1)
                with m.If(beat == each - 1):
                    m.d.sync += [
                        word.eq(Mux(word == self._depth - 1, 0, word + 1)), beat.eq(0)]

            for i in range(each):
                column = i * self._ports + p
                part = memory.Memory(shape=unsigned(self._bus_bits), depth=self._depth, init=[])
                m.submodules[f"beat{column}"] = part
                read, write = part.read_port(), part.write_port()
                m.d.comb += [
                    read.addr.eq(self.read_address),
                    self.read_data.word_select(column, self._bus_bits).eq(read.data),
                    write.addr.eq(word),
                    write.data.eq(fill.data),
                    write.en.eq(fill.enable & (beat == i)),
                ]
        return m
