# SPDX-License-Identifier: Apache-2.0
"""On-chip buffers: activations in banks of nibble columns, and wide words filled by beats."""

from amaranth import *
from amaranth.lib import data, memory, stream
from amaranth.lib.wiring import Component, In, Out, Signature
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import delay
from gateware.pe.broadcast import copies
from gateware.pe.series7 import SharedModule
from gateware.rtl.payloads import ActWord
from gateware.rtl.ram import Ram
from ir.numerics import ACT_BITS, BIAS_BITS

GATHER_CYCLES = 5  #: from the address of a gathered word to the word
COLUMNS_PER_COPY = 4  #: nibble columns of an :class:`ActBuffer` that share a register
READ_CYCLES = 2  #: from the address of a :class:`BeatBuffer` to its word


class ActBuffer(Component):
    """Buffer of activations: ``banks`` of ``k`` nibble columns, pixel x in bank ``x % banks``.

    Port ``read`` gives whole words of every bank; port ``gather`` reads one nibble per column of
    ``drain_pixels`` banks, each column at its own address (residual operands), or of one bank
    (stores); port ``write`` writes likewise. Such banks are neighbours, the first one a multiple of
    ``drain_pixels``. A nibble column is a memory of its own, so a tile can write any subset of
    channels of a word. Port ``load`` writes whole words, beside ``write`` unless it needs one of
    those banks.

    Which bank each port has is decided in the cycle in which it asks; what goes there is
    registered first, so that the memories see it in the next cycle.

    With one copy of the words (``act_copies``), ``gather`` has the block RAMs' port that writes
    have: it may not read a bank that ``write`` has in the same cycle.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    read_address : In(16).array(banks)
    read_data : Out(unsigned(4).array(k)).array(banks)
        One cycle after the address.
    gather_enable : In(1), gather_bank : In(ceil_log2(banks))
    gather_single : In(1)
        The word of ``gather_bank`` for every pixel, not of a bank each.
    gather_address : In(16).array(k)
    gather_data : Out(ArrayLayout(ArrayLayout(unsigned(4), k), drain_pixels))
        :data:`GATHER_CYCLES` after bank and address; ``gather_enable`` asks for it.
    writing : In(1)
        Some column may be written; without it none is.
    write_enable : In(k), write_pixels : In(drain_pixels)
        Columns and pixels that are written.
    write_bank : In(ceil_log2(banks))
        Of the first pixel.
    write_address : In(16).array(k)
    write_data : In(ArrayLayout(ArrayLayout(unsigned(4), k), drain_pixels))
    load : In(stream of ActWord)
        Not ready while ``write`` has the bank or a neighbour, nor, with one copy, while ``gather``
        has.

    Latency: what is written in a cycle is read by an address of the cycle after the next.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        bank_bits, address = ceil_log2(config.banks), unsigned(ceil_log2(config.act_depth))
        word = data.ArrayLayout(unsigned(ACT_BITS), config.k)
        words = data.ArrayLayout(word, config.drain_pixels)
        super().__init__(
            {
                "read_address": In(data.ArrayLayout(address, config.banks)),
                "read_data": Out(data.ArrayLayout(word, config.banks)),
                "gather_enable": In(1),
                "gather_bank": In(bank_bits),
                "gather_single": In(1),
                "gather_address": In(data.ArrayLayout(address, config.k)),
                "gather_data": Out(words),
                "writing": In(1),
                "write_enable": In(config.k),
                "write_pixels": In(config.drain_pixels),
                "write_bank": In(bank_bits),
                "write_address": In(data.ArrayLayout(address, config.k)),
                "write_data": In(words),
                "load": In(stream.Signature(ActWord(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        address = self.load.p.place.address[: ceil_log2(config.act_depth)]
        load_address = copies(m, address, self._parts, "load_address")
        loaded = delay(m, self.load.p.data, 1, name="loaded").word_select
        written = delay(m, self.write_data, 1, name="written")
        write_enable = delay(m, self.write_enable, 1, name="write_enable")
        write_address = delay(m, self.write_address, 1, name="write_address")
        gather_address = delay(m, self.gather_address, 1, name="gather_address")
        gathered = Signal(self.read_data.shape())
        for bank, (load, write) in enumerate(self._give_banks(m)):
            for column in range(config.k):
                part = column // COLUMNS_PER_COPY
                ram = Ram.shared(
                    width=ACT_BITS, depth=config.act_depth, side=True, copied=config.act_copies == 2
                )
                m.submodules[f"bank{bank}_column{column}"] = ram
                nibble = written[bank % config.drain_pixels][column]
                at = Mux(load[part], load_address[part], write_address[column])
                if config.act_copies == 2:
                    m.d.comb += ram.side_address.eq(gather_address[column])
                else:
                    at = Mux(load[part] | write[part], at, gather_address[column])
                m.d.comb += [
                    ram.read_address.eq(self.read_address[bank]),
                    self.read_data[bank][column].eq(ram.read_data),
                    gathered[bank][column].eq(ram.side_data),
                    ram.write_address.eq(at),
                    ram.write_data.eq(Mux(load[part], loaded(column, ACT_BITS), nibble)),
                    ram.write_enable.eq(load[part] | (write_enable[column] & write[part])),
                ]
        m.d.comb += self.gather_data.eq(self._chosen(m, delay(m, gathered, 1, name="gathered")))
        return m

    def _chosen(self, m: Module, gathered: data.View) -> Signal:
        """Words of the banks that were asked, two cycles later: one of four, then of the rest."""
        config, pixel_bits = self._config, ceil_log2(self._config.drain_pixels)
        bank, count = delay(m, self.gather_bank, 2, name="gather_bank"), config.banks // 4
        low_bits = ceil_log2(count)
        some = Signal(data.ArrayLayout(gathered[0].shape(), count), reset_less=True)
        highs = copies(m, bank[low_bits:], count, "gather_high")
        for first, (chosen, high) in enumerate(zip(some, highs, strict=True)):
            of_four = data.ArrayLayout(gathered[0].shape(), 4)
            candidates = Cat(
                Value.cast(gathered[bank]) for bank in range(first, config.banks, count)
            )
            m.d.sync += chosen.eq(data.View(of_four, candidates)[high])
        words = Signal(self.gather_data.shape(), reset_less=True)
        late = delay(m, bank[:low_bits], 1, name="gather_low")
        single = delay(m, self.gather_single, 3, name="gather_single")
        for d, word in enumerate(words):
            own = Mux(single, late[:pixel_bits], d) if pixel_bits else Const(0, 0)
            which = Signal(low_bits, name=f"gather_low_{d}", reset_less=True)
            m.d.sync += [
                which.eq(Cat(own[:pixel_bits], late[pixel_bits:])),
                word.eq(some[which] if low_bits else some[0]),
            ]
        return words

    @property
    def _parts(self) -> int:
        """Copies of what goes to every column."""
        return -(-self._config.k // COLUMNS_PER_COPY)

    def _give_banks(self, m: Module) -> list[tuple[list[Value], list[Value]]]:
        """For each bank copies of two bits, a cycle after the ports asked: ``load`` has it, and
        ``write`` has it."""
        config, bank = self._config, self.load.p.place.bank
        pixels, pixel_bits = config.drain_pixels, ceil_log2(config.drain_pixels)
        taken = self.writing & (self.write_bank[pixel_bits:] == bank[pixel_bits:])
        if config.act_copies == 1:
            taken |= self.gather_enable & (self.gather_bank[pixel_bits:] == bank[pixel_bits:])
        loading = Signal()
        m.d.comb += [self.load.ready.eq(~taken), loading.eq(self.load.valid & ~taken)]
        written = [
            self.writing
            & self.write_pixels[b % pixels]
            & (self.write_bank[pixel_bits:] == b // pixels)
            for b in range(config.banks)
        ]
        return [
            (
                copies(m, loading & (bank == b), self._parts, f"load_{b}"),
                copies(m, written[b], self._parts, f"write_{b}"),
            )
            for b in range(config.banks)
        ]


class RawBuffer(Component):
    """Buffer of raw outputs, which ``drain_pixels`` neighbours are written to at once.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    write_enable : In(drain_pixels), write_address : In(16)
        Which of them are written, and where the first one is.
    write_data : In(ArrayLayout(signed(48), drain_pixels))
    read_address : In(16), read_data : Out(signed(48))
        One cycle after the address.

    Latency: what is written in a cycle is read by an address of the third cycle after it.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "write_enable": In(config.drain_pixels),
                "write_address": In(isa.ADDRESS_BITS),
                "write_data": In(data.ArrayLayout(signed(BIAS_BITS), config.drain_pixels)),
                "read_address": In(isa.ADDRESS_BITS),
                "read_data": Out(signed(BIAS_BITS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pixels, pixel_bits = self._config.drain_pixels, ceil_log2(self._config.drain_pixels)
        found = Signal(self.write_data.shape())
        first = self.write_address[:pixel_bits]
        for i in range(pixels):
            m.submodules[f"entries_{i}"] = entries = memory.Memory(
                shape=signed(BIAS_BITS), depth=self._config.wide_depth // pixels, init=[]
            )
            read, write = entries.read_port(), entries.write_port()
            # Entries i, i + drain_pixels... lie here, of neighbours the one that is it.
            mine, enable = Signal(signed(BIAS_BITS), reset_less=True), Signal()
            address = Signal(len(self.write_address) - pixel_bits, reset_less=True)
            which = (i - first)[:pixel_bits]
            m.d.sync += [
                mine.eq(self.write_data[which] if pixel_bits else self.write_data[0]),
                enable.eq(self.write_enable.bit_select(which, 1)),
                address.eq(self.write_address[pixel_bits:] + (i < first)),
            ]
            m.d.comb += [
                read.addr.eq(self.read_address[pixel_bits:]),
                found[i].eq(read.data),
                write.addr.eq(address),
                write.data.eq(mine),
                write.en.eq(enable),
            ]
        which = delay(m, self.read_address[:pixel_bits], 1, name="which")
        m.d.comb += self.read_data.eq(found[which] if pixel_bits else found[0])
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
    late_bits : int
        Bits at the low end of a word that are read ``late_cycles`` after the others.
    late_cycles : int

    Members
    -------
    fill : In(FillPort).array(ports)
    read_address : In(ceil_log2(depth))
    read_data : Out(beats * bus_bits)
        :data:`READ_CYCLES` after the address, which is registered first; a memory's register
        comes last.

    Latency: a beat is in memory two cycles after it came.

    Throughput: one beat per port and one word read per cycle.
    """

    _SHARERS = 8  #: memories that share a register of what is written
    _READ_SHARERS = 2  #: memories that share a register of the address that is read
    _PINS = 192  #: of LUT memories that one bit of such a register feeds at most

    def __init__(
        self,
        *,
        beats: int,
        bus_bits: int,
        depth: int,
        ports: int = 1,
        distributed: bool = False,
        late_bits: int = 0,
        late_cycles: int = 0,
    ) -> None:
        self._distributed = distributed
        self._late_bits, self._late_cycles = late_bits, late_cycles
        self._beats, self._bus_bits, self._depth, self._ports = beats, bus_bits, depth, ports
        super().__init__(
            {
                "fill": In(FillPort(bus_bits, depth)).array(ports),
                "read_address": In(ceil_log2(depth)),
                "read_data": Out(beats * bus_bits),
            }
        )

    def _sharers(self, most: int, pins: int) -> int:
        """Memories, of at most ``most``, that share an address of which a bit goes to ``pins`` pins
        of each LUT that keeps 3 bits of 64 words, or 4 of 16."""
        if not self._distributed:
            return most
        cells = max(
            pins * -(-self._bus_bits // 3) * -(-self._depth // 64),
            -(-self._bus_bits // 4) * -(-self._depth // 16),
        )
        return max(1, min(most, self._PINS // cells))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        each = self._beats // self._ports
        memories = [
            Ram.shared(width=self._bus_bits, depth=self._depth, distributed=self._distributed)
            for _ in range(self._beats)
        ]
        for beat, part in enumerate(memories):
            m.submodules[f"beat{beat}"] = part
        for p, fill in enumerate(self.fill):
            word = Signal(range(self._depth), name=f"word_{p}", reset_less=True)
            place = Signal(each, name=f"beat_{p}", reset_less=True)  # one bit is set
            with m.If(fill.start):
                m.d.sync += [word.eq(fill.address), place.eq(1)]
            with m.Elif(fill.enable):
                m.d.sync += place.eq(place.rotate_left(1))
                with m.If(place[-1]):
                    m.d.sync += word.eq(Mux(word == self._depth - 1, 0, word + 1))
            self._write(m, memories[p :: self._ports], p, word, place)
        self._read(m, memories)
        return m

    def _write(
        self, m: Module, memories: list[SharedModule], p: int, word: Signal, place: Signal
    ) -> None:
        """Beats of port ``p`` to its memories, one cycle later."""
        fill, count, sharers = self.fill[p], len(memories), self._sharers(self._SHARERS, 1)
        addresses = copies(m, word, -(-count // sharers), f"fill_{p}_address")
        words = copies(m, fill.data, -(-count // self._SHARERS), f"fill_{p}_data")
        for i, part in enumerate(memories):
            enable = Signal(name=f"enable_{p}_{i}", reset_less=True)
            m.d.sync += enable.eq(fill.enable & place[i])
            m.d.comb += [
                part.write_address.eq(addresses[i // sharers]),
                part.write_data.eq(words[i // self._SHARERS]),
                part.write_enable.eq(enable),
            ]

    def _read(self, m: Module, memories: list[SharedModule]) -> None:
        """Words from registered addresses; the late bits from later ones. A beat of both kinds is
        read early, and a part of it kept."""
        behind = self._late_bits // self._bus_bits
        late = delay(m, self.read_address, self._late_cycles, name="late_address")
        sharers = self._sharers(self._READ_SHARERS, 3)
        for name, address, group in (
            ("late", late, memories[:behind]),
            ("early", self.read_address, memories[behind:]),
        ):
            addresses = copies(m, address, -(-len(group) // sharers), name)
            for i, part in enumerate(group):
                m.d.comb += part.read_address.eq(addresses[i // sharers])
        read = Cat(part.read_data for part in memories)
        first = behind * self._bus_bits
        kept = delay(m, read[first : self._late_bits], self._late_cycles, name="kept")
        m.d.comb += self.read_data.eq(Cat(read[:first], kept, read[self._late_bits :]))
