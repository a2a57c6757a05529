# SPDX-License-Identifier: Apache-2.0
"""Moves data between the bus streams and the on-chip buffers, as LOAD_* and STORE_* ask."""

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.buffers import FillPort
from gateware.rtl.dma import command_layout
from ir.numerics import BIAS_BITS

STORE_AHEAD = 4  #: words of a store that are read before the bus takes them
LOADS_IN_FLIGHT = 4  #: loads whose data is on its way, beside the one that arrives


class TransferJob(data.StructLayout):
    """A LOAD_* or STORE_* that may begin, and where in memory it is.

    tensor : the descriptor; what TRANSFER calls ``destination`` is ``address`` here
    address : of its first byte
    """

    def __init__(self) -> None:
        super().__init__({"tensor": isa.TENSOR, "address": 32})


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
        super().__init__(
            {
                "tensor": In(isa.TENSOR),
                "start": In(1),
                "step": In(1),
                "address": Out(isa.ADDRESS_BITS),
                "bank": Out(self._bank_bits),
            }
        )

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


class Receiver(Component):
    """Takes the beats of one port into the buffers that the port's jobs name, in order.

    One beat per cycle, and one cycle between two jobs.

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

    def elaborate(self, platform) -> Module:
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
    """Asks memory for the data of LOAD_* jobs and writes it into the buffers they name.

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
        Pulse for each job, in order.
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

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        bytes_bits = ceil_log2(config.bus_bits // 8)
        job = self.job.payload
        is_tensor = job.tensor.opcode == isa.Opcode.LOAD_TENSOR

        # Each port takes the job when it can; the job goes when all have.
        sent = Signal(config.ports)
        sending = Signal(config.ports)
        m.d.comb += self.job.ready.eq((sent | sending).all())
        m.d.sync += sent.eq(Mux(self.job.ready, 0, sent | sending))

        fields = {"opcode": 8, "beats": isa.BEATS_BITS, "address": isa.ADDRESS_BITS}
        ahead = [Signal(range(2 * LOADS_IN_FLIGHT), name=f"ahead_{p}") for p in range(config.ports)]
        m.d.comb += self.completed.eq(Cat(count != 0 for count in ahead).all())
        for p in range(config.ports):
            m.submodules[f"receiver_{p}"] = receiver = Receiver(config)
            layout = isa.TENSOR if p == 0 else data.StructLayout(fields)
            m.submodules[f"queue_{p}"] = queue = SyncFIFO(width=layout.size, depth=LOADS_IN_FLIGHT)
            command = self.commands[p]
            waiting = self.job.valid & ~sent[p]
            # Other ports have no part in a tensor, but take the job to keep the order.
            beats = job.tensor.beats if p == 0 else Mux(is_tensor, 0, job.tensor.beats)
            entry, oldest = Signal(layout, name=f"entry_{p}"), data.View(layout, queue.r_data)
            m.d.comb += [
                command.valid.eq(waiting & queue.w_rdy),
                command.p.address.eq(job.address + ((job.tensor.beats * p) << bytes_bits)),
                command.p.beats.eq(beats),
                sending[p].eq(command.valid & command.ready),
                *(
                    entry[name].eq(beats if name == "beats" else job.tensor[name])
                    for name, _ in layout
                ),
                queue.w_data.eq(entry),
                queue.w_en.eq(sending[p]),
                receiver.job.valid.eq(queue.r_rdy),
                *(receiver.job.p[name].eq(oldest[name]) for name, _ in layout),
                queue.r_en.eq(receiver.job.ready),
            ]
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
            m.d.sync += ahead[p].eq(ahead[p] + receiver.completed - self.completed)
            if p == 0:
                m.d.comb += [
                    receiver.act_ready.eq(self.act_ready),
                    *(
                        getattr(self, name).eq(getattr(receiver, name))
                        for name in ("act_valid", "act_address", "act_bank", "act_data")
                    ),
                ]
        return m


class Storer(Component):
    """Writes what STORE_* jobs name to memory, a beat per cycle at most, job by job.

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
        Wide buffer; data one cycle after the address.
    completed : Out(1)
        Pulse for each job.
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

    def elaborate(self, platform) -> Module:
        m = Module()
        bus_bits = self._config.bus_bits
        tensor = self.job.p.tensor
        wide = tensor.opcode == isa.Opcode.STORE_WIDE
        left, index = Signal(isa.BEATS_BITS), Signal(isa.BEATS_BITS)
        m.submodules.walk = walk = TensorWalk(self._config)
        m.submodules.fifo = fifo = SyncFIFO(width=bus_bits, depth=STORE_AHEAD)

        # A word whose address is given comes in the next cycle; then it must find room.
        asking, arriving = Signal(), Signal()
        parts_bits = ceil_log2(isa.WIDE_BITS // bus_bits)
        part = Signal(max(1, parts_bits))
        extended = Signal(signed(isa.WIDE_BITS))
        m.d.sync += [arriving.eq(asking), part.eq(index[:parts_bits])]
        m.d.comb += [
            walk.tensor.eq(tensor),
            walk.step.eq(asking),
            self.command.p.address.eq(self.job.p.address),
            self.command.p.beats.eq(tensor.beats),
            self.gather_address.eq(walk.address),
            self.gather_bank.eq(walk.bank),
            self.wide_address.eq(tensor.address + (index >> parts_bits)),
            extended.eq(self.wide_data),
            fifo.w_en.eq(arriving),
            fifo.w_data.eq(
                Mux(wide, extended.as_unsigned().word_select(part, bus_bits), self.gather_data)
            ),
            self.beats.valid.eq(fifo.r_rdy),
            self.beats.payload.eq(fifo.r_data),
            fifo.r_en.eq(self.beats.ready),
        ]
        with m.FSM():
            with m.State("Command"):
                m.d.comb += [self.command.valid.eq(self.job.valid), walk.start.eq(1)]
                m.d.sync += [left.eq(tensor.beats), index.eq(0)]
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
