# SPDX-License-Identifier: Apache-2.0
"""On-chip memories: activations (banked nibble columns), beat-filled wide words, wide results."""

from amaranth import *
from amaranth.lib import data, memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.config import AccelConfig
from quant.numerics import ACT_BITS


class ActBuffer(Component):
    """Activations: ``banks`` banks of ``k`` nibble columns; pixel x lies in bank ``x % banks``.

    Port ``read`` gives whole words of every bank; port ``gather`` reads one nibble per column of
    one bank, each column at its own address (residual operands, stores); port ``write`` writes
    likewise. A nibble column is a memory of its own, so a tile can write any subset of channels of
    a word.

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
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        gathered = Signal(data.ArrayLayout(self.gather_data.shape(), config.banks))
        gather_bank = Signal.like(self.gather_bank)
        m.d.sync += gather_bank.eq(self.gather_bank)
        m.d.comb += self.gather_data.eq(gathered[gather_bank])

        for bank in range(config.banks):
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
                    write.addr.eq(self.write_address[column]),
                    write.data.eq(self.write_data[column]),
                    write.en.eq(self.write_enable[column] & (self.write_bank == bank)),
                ]
        return m


class BeatBuffer(Component):
    """Wide words that are filled bus beat by bus beat, lowest beat first.

    Parameters
    ----------
    beats : int
        Bus beats per word.
    bus_bits, depth : int

    Members
    -------
    start : In(1)
        Take ``address`` as the word that the next beat begins.
    address : In(ceil_log2(depth))
    write_enable : In(1)
    write_data : In(bus_bits)
    read_address : In(ceil_log2(depth))
    read_data : Out(beats * bus_bits)
        One cycle after the address.
    """

    def __init__(self, *, beats: int, bus_bits: int, depth: int) -> None:
        self._beats, self._bus_bits, self._depth = beats, bus_bits, depth
        super().__init__({
            "start": In(1),
            "address": In(ceil_log2(depth)),
            "write_enable": In(1),
            "write_data": In(bus_bits),
            "read_address": In(ceil_log2(depth)),
            "read_data": Out(beats * bus_bits),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        word = Signal(range(self._depth))
        beat = Signal(range(self._beats))
        with m.If(self.start):
            m.d.sync += [word.eq(self.address), beat.eq(0)]
        with m.Elif(self.write_enable):
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == self._beats - 1):
                m.d.sync += [word.eq(word + 1), beat.eq(0)]

        for i in range(self._beats):
            part = memory.Memory(shape=unsigned(self._bus_bits), depth=self._depth, init=[])
            m.submodules[f"beat{i}"] = part
            read, write = part.read_port(), part.write_port()
            m.d.comb += [
                read.addr.eq(self.read_address),
                self.read_data.word_select(i, self._bus_bits).eq(read.data),
                write.addr.eq(word),
                write.data.eq(self.write_data),
                write.en.eq(self.write_enable & (beat == i)),
            ]
        return m
