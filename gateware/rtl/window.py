# SPDX-License-Identifier: Apache-2.0
"""Window on the activations: bank addresses, rotation to pixel lanes, padding."""

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import WordControl, act_layout, delay
from gateware.rtl.payloads import WordRequest


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
    stride_x : In(4), width : In(10)
        Of the request.
    read_address : Out(ArrayLayout(address, banks)), read_data : In(ArrayLayout(word, banks))
        To :class:`~gateware.rtl.buffers.ActBuffer`.
    weight_address : Out(address)
        To the weight buffer, whose word arrives one cycle later; it must be registered once.
    act : Out(act_layout(k, pixels)), control : Out(WordControl)
        ``latency`` cycles after the request.

    Latency: 3 cycles: address, read, rotation.

    Throughput: one request per cycle.
    """

    latency = 3

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
        config, request = self._config, self.request
        bank_bits = ceil_log2(config.banks)

        # Addresses: banks left of column x belong to the next column quotient.
        control, pad = Signal(WordControl()), Signal.like(request.pad)
        rotation = Signal(bank_bits)
        inside = Signal(config.pixels)
        first_bank = request.x[:bank_bits]
        row = request.row_address + (request.x >> bank_bits)
        m.d.sync += [
            control.eq(request.control),
            pad.eq(request.pad),
            rotation.eq(first_bank),
            self.weight_address.eq(request.weight_address),
        ]
        m.d.sync += [
            self.read_address[bank].eq(row + (first_bank > bank)) for bank in range(config.banks)
        ]
        for lane in range(config.pixels):
            x = request.x + self.stride_x * lane
            m.d.sync += inside[lane].eq(request.row_inside & (x >= 0) & (x < self.width))

        # The buffer reads; then each lane picks its bank.
        rotation_read = delay(m, rotation, 1, name="rotation")
        inside_read = delay(m, inside, 1, name="inside")
        pad_read = delay(m, pad, 1, name="pad")
        stride_read = delay(m, self.stride_x, 2, name="stride")
        m.d.sync += self.control.eq(delay(m, control, 1, name="control", reset_less=False))
        for lane in range(config.pixels):
            bank = Signal(bank_bits, name=f"bank_{lane}")
            m.d.comb += bank.eq(rotation_read + stride_read * lane)
            m.d.sync += self.act[lane].eq(
                Mux(
                    inside_read[lane], self.read_data[bank].as_value(), pad_read.replicate(config.k)
                )
            )
        return m
