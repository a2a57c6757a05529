# SPDX-License-Identifier: Apache-2.0
"""Loader of weights, slots and tensors from memory into the on-chip buffers: LOAD_* descriptors."""

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.buffers import FillPort
from gateware.rtl.bursts import command_layout
from gateware.rtl.payloads import TransferJob
from gateware.rtl.tensor_walk import TensorWalk

LOADS_IN_FLIGHT = 4  #: loads whose data is on its way, beside the one that arrives

#: What a port that loads no tensors must know of a job.
_FILL = data.StructLayout({"opcode": 8, "beats": isa.BEATS_BITS, "address": isa.ADDRESS_BITS})


class Receiver(Component):
    """Receiver of the beats of one port, for the buffers that the port's jobs name, in order.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(stream of isa.TENSOR)
        ``beats`` are those of this port.
    beats : In(stream of bus words)
    weights, slots : Out(FillPort)
        To the :class:`~gateware.rtl.buffers.BeatBuffer` of weights and of slots.
    act_valid : Out(1), act_ready : In(1)
        A word for the activation buffer; it is written when both are high.
    act_address : Out(16), act_bank : Out, act_data : Out(bus_bits)
    completed : Out(1)
        Pulse: the last beat of a job is written.

    Latency: none, a beat is written in the cycle in which it comes.

    Throughput: one beat per cycle, and one cycle between two jobs.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "job": In(stream.Signature(isa.TENSOR)),
                "beats": In(stream.Signature(unsigned(config.bus_bits))),
                "weights": Out(FillPort(config.bus_bits, config.weight_depth)),
                "slots": Out(FillPort(config.bus_bits, config.slot_depth)),
                "act_valid": Out(1),
                "act_ready": In(1),
                "act_address": Out(isa.ADDRESS_BITS),
                "act_bank": Out(ceil_log2(config.banks)),
                "act_data": Out(config.bus_bits),
                "completed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job, tensor = Signal(isa.TENSOR), self.job.payload
        left = Signal(isa.BEATS_BITS)
        busy, start, taken = Signal(), Signal(), Signal()
        m.submodules.walk = walk = TensorWalk(self._config)
        is_tensor = job.opcode == isa.Opcode.LOAD_TENSOR
        m.d.comb += [
            self.job.ready.eq(~busy),
            start.eq(self.job.valid & ~busy),
            self.beats.ready.eq((left != 0) & (self.act_ready | ~is_tensor)),
            taken.eq(self.beats.valid & self.beats.ready),
            walk.tensor.eq(Mux(start, tensor.as_value(), job.as_value())),
            walk.start.eq(start),
            walk.step.eq(taken),
            self.act_valid.eq(self.beats.valid & (left != 0) & is_tensor),
            self.act_address.eq(walk.address),
            self.act_bank.eq(walk.bank),
            self.act_data.eq(self.beats.payload),
        ]
        for fill, opcode in (
            (self.weights, isa.Opcode.LOAD_WEIGHTS),
            (self.slots, isa.Opcode.LOAD_SLOTS),
        ):
            m.d.comb += [
                fill.start.eq(start & (tensor.opcode == opcode)),
                fill.address.eq(tensor.address),
                fill.enable.eq(taken & (job.opcode == opcode)),
                fill.data.eq(self.beats.payload),
            ]
        with m.If(start):
            m.d.sync += [job.eq(tensor), left.eq(tensor.beats), busy.eq(1)]
        with m.Elif(taken):
            m.d.sync += left.eq(left - 1)
        with m.If(busy & (left == taken)):
            m.d.sync += busy.eq(0)
            m.d.comb += self.completed.eq(1)
        return m


class Loader(Component):
    """Loader of the data of LOAD_* jobs from memory into the buffers that they name.

    A job's reads are ordered while the data of up to ``LOADS_IN_FLIGHT`` earlier jobs is on its
    way, so that the memory's latency is not seen. Weights and slots come through all ports, tensors
    through the first.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(stream of TransferJob)
    commands : Out(stream of command_layout).array(ports)
    beats : In(stream of bus words).array(ports)
    weights, slots : Out(FillPort).array(ports)
        To the :class:`~gateware.rtl.buffers.BeatBuffer` of weights and of slots.
    act_valid, act_ready, act_address, act_bank, act_data
        To the activation buffer, as :class:`Receiver` has them.
    completed : Out(1)
        Pulse for each job, in order, when its data is written.

    Throughput: a beat per cycle and port.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        ports = config.ports
        super().__init__(
            {
                "job": In(stream.Signature(TransferJob())),
                "commands": Out(stream.Signature(command_layout())).array(ports),
                "beats": In(stream.Signature(unsigned(config.bus_bits))).array(ports),
                "weights": Out(FillPort(config.bus_bits, config.weight_depth)).array(ports),
                "slots": Out(FillPort(config.bus_bits, config.slot_depth)).array(ports),
                "act_valid": Out(1),
                "act_ready": In(1),
                "act_address": Out(isa.ADDRESS_BITS),
                "act_bank": Out(ceil_log2(config.banks)),
                "act_data": Out(config.bus_bits),
                "completed": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        # Each port takes the job when it can; the job goes when all have.
        sent = Signal(config.ports)
        sending = Signal(config.ports)
        m.d.comb += self.job.ready.eq((sent | sending).all())
        m.d.sync += sent.eq(Mux(self.job.ready, 0, sent | sending))

        # Jobs that each port has done and another has not.
        ahead = [Signal(range(2 * LOADS_IN_FLIGHT), name=f"ahead_{p}") for p in range(config.ports)]
        m.d.comb += self.completed.eq(Cat(count != 0 for count in ahead).all())
        for p in range(config.ports):
            m.submodules[f"receiver_{p}"] = receiver = Receiver(config)
            self._order_reads(m, p, sent[p], sending[p], receiver)
            self._connect_receiver(m, p, receiver)
            m.d.sync += ahead[p].eq(ahead[p] + receiver.completed - self.completed)
            if p == 0:
                self._connect_activations(m, receiver)
        return m

    def _order_reads(
        self, m: Module, p: int, sent: Value, sending: Value, receiver: Receiver
    ) -> None:
        """Port p's part of the job: a command to memory, and the job to the receiver's queue, where
        it comes out in the next cycle at the earliest."""
        layout = isa.TENSOR if p == 0 else _FILL
        m.submodules[f"queue_{p}"] = queue = SyncFIFO(width=layout.size, depth=LOADS_IN_FLIGHT)
        job, command = self.job.payload, self.commands[p]
        is_tensor = job.tensor.opcode == isa.Opcode.LOAD_TENSOR
        waiting = self.job.valid & ~sent
        # Other ports have no part in a tensor, but take the job to keep the order.
        beats = job.tensor.beats if p == 0 else Mux(is_tensor, 0, job.tensor.beats)
        bytes_bits = ceil_log2(self._config.bus_bits // 8)
        entry, oldest = Signal(layout, name=f"entry_{p}"), data.View(layout, queue.r_data)
        m.d.comb += [
            command.valid.eq(waiting & queue.w_rdy),
            command.p.address.eq(job.address + ((job.tensor.beats * p) << bytes_bits)),
            command.p.beats.eq(beats),
            sending.eq(command.valid & command.ready),
            *(entry[name].eq(beats if name == "beats" else job.tensor[name]) for name, _ in layout),
            queue.w_data.eq(entry),
            queue.w_en.eq(sending),
            receiver.job.valid.eq(queue.r_rdy),
            *(receiver.job.p[name].eq(oldest[name]) for name, _ in layout),
            queue.r_en.eq(receiver.job.ready),
        ]

    def _connect_receiver(self, m: Module, p: int, receiver: Receiver) -> None:
        """Beats of port p to its receiver, and on to the buffers of weights and slots."""
        for name in ("weights", "slots"):
            fill, inner = getattr(self, name)[p], getattr(receiver, name)
            m.d.comb += [
                getattr(fill, part).eq(getattr(inner, part))
                for part in ("start", "address", "enable", "data")
            ]
        m.d.comb += [
            receiver.beats.payload.eq(self.beats[p].payload),
            receiver.beats.valid.eq(self.beats[p].valid),
            self.beats[p].ready.eq(receiver.beats.ready),
        ]

    def _connect_activations(self, m: Module, receiver: Receiver) -> None:
        m.d.comb += [
            receiver.act_ready.eq(self.act_ready),
            *(
                getattr(self, name).eq(getattr(receiver, name))
                for name in ("act_valid", "act_address", "act_bank", "act_data")
            ),
        ]
