# SPDX-License-Identifier: Apache-2.0
"""Order in which the words of a tensor pass between memory and the activation buffer."""

from amaranth import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig


class TensorWalk(Component):
    """Walk over the words of a tensor in memory order, y, x, group: the buffer place of each.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    tensor : In(isa.TENSOR)
    start : In(1)
    step : In(1)
        Go on to the next word.
    address : Out(16), bank : Out(ceil_log2(banks))
        Of the current word, that of the first one in the cycle after ``start``.

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
        group, group_offset = Signal(8), Signal(isa.ADDRESS_BITS)
        x, row = Signal(isa.SIZE_BITS), Signal(isa.ADDRESS_BITS)
        m.d.comb += [
            self.address.eq(row + group_offset + (x >> self._bank_bits)),
            self.bank.eq(x),
        ]
        with m.If(self.start):
            m.d.sync += [group.eq(0), group_offset.eq(0), x.eq(0), row.eq(self.tensor.address)]
        with m.Elif(self.step):
            m.d.sync += [
                group.eq(group + 1),
                group_offset.eq(group_offset + self.tensor.group_pitch),
            ]
            with m.If(group == self.tensor.groups - 1):
                m.d.sync += [group.eq(0), group_offset.eq(0), x.eq(x + 1)]
                with m.If(x == self.tensor.width - 1):
                    m.d.sync += [x.eq(0), row.eq(row + self.tensor.row_pitch)]
        return m
