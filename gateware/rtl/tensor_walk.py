# SPDX-License-Identifier: Apache-2.0
"""Order in which the words of a tensor pass between memory and the activation buffer."""

from amaranth import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig


class TensorWalk(Component):
    """Walk over the words of a tensor in memory order, y, x, group: the buffer place of each.

    Every place is a register, and the next one an increment: what ends a row or a pixel is counted
    down beside.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    tensor : In(isa.TENSOR)
        Stable from ``start`` to the last step.
    start : In(1)
    step : In(1)
        Go on to the next word.
    address : Out(16), bank : Out(ceil_log2(banks))
        Of the current word, that of the first one in the cycle after ``start``; registers.

    Throughput: one word per cycle.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._bank_bits = ceil_log2(config.banks)
        super().__init__(
            {
                "tensor": In(isa.TENSOR),
                "start": In(1),
                "step": In(1),
                "address": Out(isa.ADDRESS_BITS),
                "bank": Out(self._bank_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tensor = self.tensor
        # After the current word: groups of this pixel and pixels of this row.
        groups, last_group = Signal(8, reset_less=True), Signal(reset_less=True)
        pixels, last_pixel = Signal(isa.SIZE_BITS, reset_less=True), Signal(reset_less=True)
        # Group 0 of this pixel and of this row, and of the next row.
        pixel = Signal(isa.ADDRESS_BITS, reset_less=True)
        next_row = Signal(isa.ADDRESS_BITS, reset_less=True)
        next_pixel = Signal(isa.ADDRESS_BITS)
        m.d.comb += next_pixel.eq(Mux(last_pixel, next_row, pixel + self.bank.all()))
        with m.If(self.start):
            m.d.sync += [
                pixel.eq(tensor.address),
                next_row.eq(tensor.address + tensor.row_pitch),
                self.address.eq(tensor.address),
                self.bank.eq(0),
                groups.eq(tensor.groups - 1),
                last_group.eq(tensor.groups == 1),
                pixels.eq(tensor.width - 1),
                last_pixel.eq(tensor.width == 1),
            ]
        with m.Elif(self.step):
            m.d.sync += [
                groups.eq(groups - 1),
                last_group.eq(groups == 1),
                self.address.eq(self.address + tensor.group_pitch),
            ]
            with m.If(last_group):
                m.d.sync += [
                    groups.eq(tensor.groups - 1),
                    last_group.eq(tensor.groups == 1),
                    pixel.eq(next_pixel),
                    self.address.eq(next_pixel),
                    pixels.eq(pixels - 1),
                    last_pixel.eq(pixels == 1),
                    self.bank.eq(self.bank + 1),
                ]
                with m.If(last_pixel):
                    m.d.sync += [
                        pixels.eq(tensor.width - 1),
                        last_pixel.eq(tensor.width == 1),
                        self.bank.eq(0),
                        next_row.eq(next_row + tensor.row_pitch),
                    ]
        return m
