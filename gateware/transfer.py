# SPDX-License-Identifier: Apache-2.0
"""Moves data between the bus streams and the on-chip buffers, as LOAD_* and STORE_* ask."""

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware import isa
from gateware.config import AccelConfig
from quant.numerics import BIAS_BITS

WIDE_BITS = 64   #: of one wide result in memory, sign-extended


class TensorWalk(Component):
    """Buffer place of each word of a tensor in memory order: y, x, group.

    Members
    -------
    tensor : In(isa.TENSOR)
    start : In(1)
    step : In(1)
        Go on to the next word.
    address : Out(16), bank : Out(ceil_log2(banks))
        Of the current word.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._bank_bits = ceil_log2(config.banks)
        super().__init__({
            "tensor": In(isa.TENSOR),
            "start": In(1),
            "step": In(1),
            "address": Out(isa.ADDRESS_BITS),
            "bank": Out(self._bank_bits),
        })

    def elaborate(self, platform) -> Module:
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


class Loader(Component):
    """Takes the beats of one LOAD_* descriptor into the buffer it names, one per cycle.

    Members
    -------
    descriptor : In(512)
        Stable from ``start`` to ``done``.
    start : In(1)
    done : Out(1)
        High when idle.
    beats : In(stream of bus words)
    weights_start, weights_enable, slots_start, slots_enable : Out(1)
        To the :class:`~gateware.buffers.BeatBuffer` of weights and of slots.
    act_enable : Out(1), act_address : Out(16), act_bank : Out
        To the activation buffer.
    data : Out(bus_bits)
        For all of them.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__({
            "descriptor": In(isa.DESCRIPTOR_BITS),
            "start": In(1),
            "done": Out(1),
            "beats": In(stream.Signature(unsigned(config.bus_bits))),
            "weights_start": Out(1),
            "weights_enable": Out(1),
            "slots_start": Out(1),
            "slots_enable": Out(1),
            "act_enable": Out(1),
            "act_address": Out(isa.ADDRESS_BITS),
            "act_bank": Out(ceil_log2(config.banks)),
            "data": Out(config.bus_bits),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        tensor = data.View(isa.TENSOR, self.descriptor[:isa.TENSOR.size])
        left = Signal(isa.BEATS_BITS)
        taken = Signal()
        m.submodules.walk = walk = TensorWalk(self._config)
        weights = tensor.opcode == isa.Opcode.LOAD_WEIGHTS
        slots = tensor.opcode == isa.Opcode.LOAD_SLOTS
        m.d.comb += [
            self.done.eq(left == 0),
            self.beats.ready.eq(left != 0),
            taken.eq(self.beats.valid & self.beats.ready),
            self.data.eq(self.beats.payload),
            self.weights_start.eq(self.start & weights),
            self.slots_start.eq(self.start & slots),
            self.weights_enable.eq(taken & weights),
            self.slots_enable.eq(taken & slots),
            self.act_enable.eq(taken & (tensor.opcode == isa.Opcode.LOAD_TENSOR)),
            walk.tensor.eq(tensor),
            walk.start.eq(self.start),
            walk.step.eq(taken),
            self.act_address.eq(walk.address),
            self.act_bank.eq(walk.bank),
        ]
        with m.If(self.start):
            m.d.sync += left.eq(tensor.beats)
        with m.Elif(taken):
            m.d.sync += left.eq(left - 1)
        return m


class Storer(Component):
    """Gives the beats of one STORE_* descriptor, one every third cycle at most.

    Members
    -------
    descriptor : In(512)
        Stable from ``start`` to ``done``.
    start : In(1)
    done : Out(1)
        High when idle.
    beats : Out(stream of bus words)
    gather_address : Out(16), gather_bank : Out, gather_data : In(bus_bits)
        Activation buffer; data one cycle after the address.
    wide_address : Out(16), wide_data : In(signed(48))
        Wide buffer; data one cycle after the address.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__({
            "descriptor": In(isa.DESCRIPTOR_BITS),
            "start": In(1),
            "done": Out(1),
            "beats": Out(stream.Signature(unsigned(config.bus_bits))),
            "gather_address": Out(isa.ADDRESS_BITS),
            "gather_bank": Out(ceil_log2(config.banks)),
            "gather_data": In(config.bus_bits),
            "wide_address": Out(isa.ADDRESS_BITS),
            "wide_data": In(signed(BIAS_BITS)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bus_bits = self._config.bus_bits
        tensor = data.View(isa.TENSOR, self.descriptor[:isa.TENSOR.size])
        wide = tensor.opcode == isa.Opcode.STORE_WIDE
        left, index = Signal(isa.BEATS_BITS), Signal(isa.BEATS_BITS)
        m.submodules.walk = walk = TensorWalk(self._config)

        parts_bits = ceil_log2(WIDE_BITS // bus_bits)
        extended = Signal(signed(WIDE_BITS))
        wide_part = extended.as_unsigned().word_select(index[:parts_bits], bus_bits)
        m.d.comb += [
            walk.tensor.eq(tensor),
            walk.start.eq(self.start),
            self.gather_address.eq(walk.address),
            self.gather_bank.eq(walk.bank),
            self.wide_address.eq(index >> parts_bits),
            extended.eq(self.wide_data),
            self.done.eq(left == 0),
        ]
        with m.FSM():
            with m.State("Address"):
                with m.If(left != 0):
                    m.next = "Capture"
            with m.State("Capture"):
                m.d.sync += self.beats.payload.eq(Mux(wide, wide_part, self.gather_data))
                m.next = "Give"
            with m.State("Give"):
                m.d.comb += self.beats.valid.eq(1)
                with m.If(self.beats.ready):
                    m.d.comb += walk.step.eq(1)
                    m.d.sync += [left.eq(left - 1), index.eq(index + 1)]
                    m.next = "Address"
        with m.If(self.start):
            m.d.sync += [left.eq(tensor.beats), index.eq(0)]
        return m
