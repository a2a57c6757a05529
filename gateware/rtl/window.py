# SPDX-License-Identifier: Apache-2.0
"""Window on the activations: bank addresses, rotation to pixel lanes, padding."""

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import WordControl, act_layout, delay
from gateware.pe.broadcast import copies
from gateware.pe.logic import Bit, choose, single
from gateware.rtl.payloads import WordRequest
from ir.numerics import ACT_BITS

CHANNELS_PER_COPY = 8  #: nibbles of a word that one copy of a lane's bank chooses


class Window(Component):
    """Window of one word per pixel lane: lane p gets column ``x + p * stride`` of the row.

    Column x lies in bank ``x % banks``; because there are twice as many banks as lanes, the lanes
    never meet in a bank at strides 1 and 2 (:attr:`~gateware.arch.config.AccelConfig.max_stride`
    for other lane counts).

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    request : In(WordRequest)
    stride_x : In(4)
        Of the request, one cycle before it.
    width : In(10)
        Of the request, one cycle after it.
    read_address : Out(ArrayLayout(address, banks)), read_data : In(ArrayLayout(word, banks))
        To :class:`~gateware.rtl.buffers.ActBuffer`.
    weight_address : Out(address)
        To the weight buffer, two cycles after the request; its word arrives two cycles later and
        must be registered once.
    act : Out(act_layout(k, pixels)), control : Out(WordControl)
        ``latency`` cycles after the request.

    Latency: 5 cycles: columns of the lanes, addresses, read, what was read, choice of the banks.

    Throughput: one request per cycle.
    """

    latency = 5

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        address = unsigned(ceil_log2(config.act_depth))
        word = act_layout(config.k, config.banks)
        super().__init__(
            {
                "request": In(WordRequest()),
                "stride_x": In(4),
                "width": In(isa.SIZE_BITS),
                "read_address": Out(data.ArrayLayout(address, config.banks)),
                "read_data": In(word),
                "weight_address": Out(isa.ADDRESS_BITS),
                "act": Out(act_layout(config.k, config.pixels)),
                "control": Out(WordControl()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = self._columns(m)
        self._address(m, columns)
        self._choose(m, platform, columns, self._inside(m, columns))
        control = delay(m, self.request.control, self.latency, name="control", reset_less=False)
        m.d.comb += self.control.eq(control)
        return m

    def _columns(self, m: Module) -> list[Signal]:
        """Column of each lane, one cycle after the request."""
        x, columns = self.request.x, []
        for lane in range(self._config.pixels):
            distance = self.stride_x * lane
            late = Signal(distance.shape(), name=f"distance_{lane}", reset_less=True)
            column = Signal(x.shape(), name=f"column_{lane}", reset_less=True)
            m.d.sync += [late.eq(distance), column.eq(x + late)]
            columns.append(column)
        return columns

    def _address(self, m: Module, columns: list[Signal]) -> None:
        """Addresses, two cycles after the request. Banks left of the first column belong to the
        next column quotient."""
        request, bank_bits = self.request, ceil_log2(self._config.banks)
        addresses = Signal(self.read_address.shape(), reset_less=True)
        row, next_row = (Signal(addresses[0].shape(), reset_less=True) for _ in range(2))
        quotient = request.row_address + (request.x >> bank_bits)
        m.d.sync += [row.eq(quotient), next_row.eq(quotient + 1)]
        first_bank = columns[0][:bank_bits]
        m.d.sync += [
            addresses[bank].eq(Mux(first_bank > bank, next_row, row))
            for bank in range(self._config.banks)
        ]
        m.d.comb += [
            self.read_address.eq(addresses),
            self.weight_address.eq(delay(m, request.weight_address, 2, name="weight_address")),
        ]

    def _inside(self, m: Module, columns: list[Signal]) -> Signal:
        """Which lanes lie in the image, two cycles after the request."""
        row_inside = delay(m, self.request.row_inside, 1, name="row_inside")
        inside = Signal(len(columns), reset_less=True)
        m.d.sync += [
            inside[lane].eq(row_inside & (column >= 0) & (column < self.width))
            for lane, column in enumerate(columns)
        ]
        return inside

    def _choose(self, m: Module, platform: object, columns: list[Signal], inside: Signal) -> None:
        """Each lane's nibbles from its bank or the pad, five cycles after the request."""
        config = self._config
        act = Signal(self.act.shape(), reset_less=True)
        m.d.comb += self.act.eq(act)
        pad = delay(m, self.request.pad, 4, name="pad")
        read = delay(m, self.read_data, 1, name="read")
        inside = delay(m, inside, 1, name="inside")
        for lane, column in enumerate(columns):
            bank = delay(m, column[: ceil_log2(config.banks)], 2, name=f"bank_{lane}")
            choices = copies(
                m, Cat(bank, inside[lane]), -(-config.k // CHANNELS_PER_COPY), f"choice_{lane}"
            )
            for channel in range(config.k):
                *select, within = choices[channel // CHANNELS_PER_COPY]
                for bit in range(ACT_BITS):
                    banks = [word[channel][bit] for word in read]
                    name = f"choice_{lane}_{channel}_{bit}"
                    chosen = _chosen(m, platform, name, banks, select)
                    m.d.sync += act[lane][channel][bit].eq(Mux(within, chosen, pad[bit]))


def _chosen(
    m: Module, platform: object, name: str, bits: list[Value], select: list[Value]
) -> Value:
    """One of ``bits`` by number: four in a LUT, where a synthesiser would save levels with three
    times as many."""
    level = 0
    while len(bits) >= 4:
        low, high, *select = select
        bits = [
            single(m, platform, f"{name}_{level}_{i}", _one_of_four, *bits[i : i + 4], low, high)
            for i in range(0, len(bits), 4)
        ]
        level += 1
    return bits[0] if len(bits) == 1 else Mux(select[0], bits[1], bits[0])


def _one_of_four(a: Bit, b: Bit, c: Bit, d: Bit, low: Bit, high: Bit) -> Bit:
    return choose(high, choose(low, d, c), choose(low, b, a))
