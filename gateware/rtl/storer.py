# SPDX-License-Identifier: Apache-2.0
"""Storer of tensors and raw outputs from the on-chip buffers to memory: STORE_* descriptors."""

from amaranth import *
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.bursts import command_layout
from gateware.rtl.payloads import TransferJob
from gateware.rtl.tensor_walk import TensorWalk
from ir.numerics import BIAS_BITS

STORE_AHEAD = 4  #: words of a store that are read before the bus takes them


class Storer(Component):
    """Storer of what STORE_* jobs name to memory, job by job.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(stream of TransferJob)
        Taken when it is complete.
    command : Out(stream of command_layout)
    beats : Out(stream of bus words)
    write_idle : In(1)
        The memory has answered everything.
    gathering : Out(1), gather_ready : In(1)
        A word is wanted; ``gather_bank`` and ``gather_address`` reach the activation buffer in
        this cycle.
    gather_address : Out(16), gather_bank : Out, gather_data : In(bus_bits)
        Activation buffer; data one cycle after the address.
    wide_address : Out(16), wide_data : In(signed(48))
        Raw outputs; data one cycle after the address.
    completed : Out(1)
        Pulse for each job, when the memory has answered.

    Throughput: a beat per cycle at most.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "job": In(stream.Signature(TransferJob())),
                "command": Out(stream.Signature(command_layout())),
                "beats": Out(stream.Signature(unsigned(config.bus_bits))),
                "write_idle": In(1),
                "gathering": Out(1),
                "gather_ready": In(1),
                "gather_address": Out(isa.ADDRESS_BITS),
                "gather_bank": Out(ceil_log2(config.banks)),
                "gather_data": In(config.bus_bits),
                "wide_address": Out(isa.ADDRESS_BITS),
                "wide_data": In(signed(BIAS_BITS)),
                "completed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bits = self._config.bus_bits
        wide = self.job.p.tensor.opcode == isa.Opcode.STORE_WIDE
        left, index = Signal(isa.BEATS_BITS), Signal(isa.BEATS_BITS)
        m.submodules.walk = walk = TensorWalk(self._config)
        m.submodules.fifo = fifo = SyncFIFO(width=bus_bits, depth=STORE_AHEAD)
        # A word whose address is given comes in the next cycle; then it must find room.
        asking, arriving = Signal(), Signal()
        word_bits = ceil_log2(isa.WIDE_BITS // bus_bits)  # of the number of a beat within a result
        part = Signal(max(1, word_bits))
        m.d.sync += [arriving.eq(asking), part.eq(index[:word_bits])]
        self._address_words(m, walk, asking, index >> word_bits)
        self._queue_words(m, fifo, arriving, part, wide)
        with m.FSM():
            with m.State("Command"):
                m.d.comb += [self.command.valid.eq(self.job.valid), walk.start.eq(1)]
                m.d.sync += [left.eq(self.job.p.tensor.beats), index.eq(0)]
                with m.If(self.job.valid & self.command.ready):
                    m.next = "Words"
            with m.State("Words"):
                wanted = (left != 0) & (fifo.level + arriving < STORE_AHEAD)
                m.d.comb += [
                    self.gathering.eq(wanted & ~wide),
                    asking.eq(wanted & (self.gather_ready | wide)),
                ]
                with m.If(asking):
                    m.d.sync += [left.eq(left - 1), index.eq(index + 1)]
                with m.If((left == 0) & ~arriving & (fifo.level == 0)):
                    m.next = "Answer"
            with m.State("Answer"):
                with m.If(self.write_idle):
                    m.d.comb += [self.job.ready.eq(1), self.completed.eq(1)]
                    m.next = "Command"
        return m

    def _address_words(self, m: Module, walk: TensorWalk, asking: Signal, entry: Value) -> None:
        """The command to memory, and places of the next word in both buffers, combinational."""
        tensor = self.job.p.tensor
        m.d.comb += [
            walk.tensor.eq(tensor),
            walk.step.eq(asking),
            self.command.p.address.eq(self.job.p.address),
            self.command.p.beats.eq(tensor.beats),
            self.gather_address.eq(walk.address),
            self.gather_bank.eq(walk.bank),
            self.wide_address.eq(tensor.address + entry),
        ]

    def _queue_words(
        self, m: Module, fifo: SyncFIFO, arriving: Signal, part: Signal, wide: Value
    ) -> None:
        """Words that arrive wait for the bus; raw outputs are sign-extended, lowest beat first."""
        extended = Signal(signed(isa.WIDE_BITS))
        beat = extended.as_unsigned().word_select(part, self._config.bus_bits)
        m.d.comb += [
            extended.eq(self.wide_data),
            fifo.w_en.eq(arriving),
            fifo.w_data.eq(Mux(wide, beat, self.gather_data)),
            self.beats.valid.eq(fifo.r_rdy),
            self.beats.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.beats.ready),
        ]
