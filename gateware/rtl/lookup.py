# SPDX-License-Identifier: Apache-2.0
"""Tables of the requantisers, for activation functions: a code of 8 bits in, another one out."""

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from gateware.pe.base import Resources, delay
from gateware.pe.broadcast import copies
from gateware.rtl.buffers import FillPort
from ir.numerics import TABLE_BITS, TABLE_SIZE

LANES_PER_COPY = 4  #: tables that one register of what is common to all of them feeds


class LookupLane(wiring.Component):
    """Table of one requantiser: 256 codes in LUTs, with one address for reads and writes.

    Members
    -------
    code : In(8)
    used : In(1)
        The code of this cycle is looked up, not passed on.
    fill_enable : In(1), fill_address : In(8), fill_data : In(8)
        An entry is written; the code of that cycle must not be looked up.
    y : Out(8)

    Latency: 2 cycles from ``code`` to ``y``.

    Throughput: one code per cycle.
    """

    latency = 2

    def __init__(self) -> None:
        super().__init__(
            {
                "code": In(TABLE_BITS),
                "used": In(1),
                "fill_enable": In(1),
                "fill_address": In(TABLE_BITS),
                "fill_data": In(TABLE_BITS),
                "y": Out(TABLE_BITS),
            }
        )

    @classmethod
    def resources(cls) -> Resources:
        """Estimated 7-series cells: those of one lane after yosys 0.70 ``synth_xilinx``."""
        return Resources(lut=48, ff=34, dsp48e1=0)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.codes = codes = memory.Memory(
            shape=unsigned(TABLE_BITS),
            depth=TABLE_SIZE,
            init=[],
            attrs={"ram_style": "distributed"},
        )
        read, write = codes.read_port(domain="comb"), codes.write_port()
        address = Signal(TABLE_BITS, reset_less=True)
        y = Signal(TABLE_BITS, reset_less=True)
        # Codes that are passed on may come while the table is filled for those after them.
        passed = delay(m, self.code, 1, name="passed")
        m.d.sync += [
            address.eq(Mux(self.fill_enable, self.fill_address, self.code)),
            y.eq(Mux(delay(m, self.used, 1, name="used"), read.data, passed)),
        ]
        m.d.comb += [
            read.addr.eq(address),
            write.addr.eq(address),
            write.en.eq(delay(m, self.fill_enable, 1, name="fill_enable", reset_less=False)),
            write.data.eq(delay(m, self.fill_data, 1, name="fill_data")),
            self.y.eq(y),
        ]
        return m


class Lookup(wiring.Component):
    """Tables of all requantisers, which hold the same codes.

    Parameters
    ----------
    lanes : int
        Requantisers.
    bus_bits : int
        Of the port that fills the tables.

    Members
    -------
    fill : In(FillPort)
        The low byte of each beat is an entry, from the first one on after ``start``.
    codes : In(ArrayLayout(unsigned(8), lanes))
    used : In(1)
        One cycle before the codes: they are looked up, not passed on.
    y : Out(ArrayLayout(unsigned(8), lanes))

    Latency: :attr:`LookupLane.latency` from ``codes`` to ``y``; a beat of ``fill`` is in the tables
    three cycles after it came.
    """

    latency = LookupLane.latency

    def __init__(self, lanes: int, bus_bits: int) -> None:
        self._lanes = lanes
        codes = data.ArrayLayout(unsigned(TABLE_BITS), lanes)
        super().__init__(
            {
                "fill": In(FillPort(bus_bits, TABLE_SIZE)),
                "codes": In(codes),
                "used": In(1),
                "y": Out(codes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        entry = Signal(ceil_log2(TABLE_SIZE), reset_less=True)
        with m.If(self.fill.start):
            m.d.sync += entry.eq(0)
        with m.Elif(self.fill.enable):
            m.d.sync += entry.eq(entry + 1)
        groups = -(-self._lanes // LANES_PER_COPY)
        used = copies(m, self.used, groups, "used")
        enable = copies(m, self.fill.enable, groups, "fill_enable")
        address = copies(m, entry, groups, "fill_address")
        word = copies(m, self.fill.data[:TABLE_BITS], groups, "fill_data")
        for q in range(self._lanes):
            group = q // LANES_PER_COPY
            m.submodules[f"lane_{q}"] = lane = LookupLane()
            m.d.comb += [
                lane.code.eq(self.codes[q]),
                lane.used.eq(used[group]),
                lane.fill_enable.eq(enable[group]),
                lane.fill_address.eq(address[group]),
                lane.fill_data.eq(word[group]),
                self.y[q].eq(lane.y),
            ]
        return m
