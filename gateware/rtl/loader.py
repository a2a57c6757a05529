# SPDX-License-Identifier: Apache-2.0
"""Loader of weights, slots and tensors from memory into the on-chip buffers: LOAD_* descriptors."""

import dataclasses

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import delay
from gateware.rtl.buffers import FillPort
from gateware.rtl.bursts import command_layout
from gateware.rtl.payloads import ActWord, TransferJob
from gateware.rtl.queue import Queue
from gateware.rtl.tensor_walk import TensorWalk
from ir.numerics import TABLE_SIZE

LOADS_IN_FLIGHT = 4  #: loads whose data is on its way, beside the one that arrives

#: What a port that loads no tensors must know of a job.
_FILL = data.StructLayout({"opcode": 8, "beats": isa.BEATS_BITS, "address": isa.ADDRESS_BITS})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Beats:
    """Beats of the job in hand."""

    moved: Value  # one is taken
    last: Signal  # the next one is the last
    none: Signal  # pulse: the job has none
    room: Signal  # one may be taken

    @property
    def over(self) -> Value:
        """The last one is taken."""
        return self.moved & self.last


def table_port(config: AccelConfig) -> dict[str, Out]:
    """Member ``table`` of what fills the tables of the requantisers, if the array has them."""
    return {"table": Out(FillPort(config.bus_bits, TABLE_SIZE))} if config.tables else {}


class Receiver(Component):
    """Receiver of the beats of one port, for the buffers that the port's jobs name, in order.

    Parameters
    ----------
    config : AccelConfig
    tensors : bool
        Whether LOAD_TENSOR brings beats through this port.

    Members
    -------
    job : In(stream of isa.TENSOR)
        ``beats`` are those of this port.
    beats : In(stream of bus words)
    weights, slots : Out(FillPort)
        To the :class:`~gateware.rtl.buffers.BeatBuffer` of weights and of slots.
    table : Out(FillPort)
        With ``tensors``, of an array with tables: to those of the requantisers.
    act : Out(stream of ActWord)
        Words for the activation buffer.
    completed : Out(1)
        Pulse: the last beat of a job is written.

    Latency: a beat is handed on in the cycle after it came.

    Throughput: one beat per cycle, and two cycles between two jobs, some more after a tensor.
    """

    def __init__(self, config: AccelConfig, *, tensors: bool = True) -> None:
        self._config = config
        self._tensors = tensors
        super().__init__(
            {
                "job": In(stream.Signature(isa.TENSOR)),
                "beats": In(stream.Signature(unsigned(config.bus_bits))),
                "weights": Out(FillPort(config.bus_bits, config.weight_depth)),
                "slots": Out(FillPort(config.bus_bits, config.slot_depth)),
                "act": Out(stream.Signature(ActWord(config))),
                "completed": Out(1),
                **(table_port(config) if tensors else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tables = self._tensors and self._config.tables
        job = Signal(isa.TENSOR, reset_less=True)
        kinds = {"weights": 1, "slots": 1, "tensor": 1} | ({"table": 1} if tables else {})
        kind = Signal(data.StructLayout(kinds), reset_less=True)
        busy, begin, over = Signal(), Signal(), Signal()
        given = self.job.payload
        m.d.comb += self.job.ready.eq(~busy)
        m.d.sync += begin.eq(self.job.valid & ~busy)
        with m.If(~busy):
            m.d.sync += [
                busy.eq(self.job.valid),
                job.eq(given),
                kind.weights.eq(given.opcode == isa.Opcode.LOAD_WEIGHTS),
                kind.slots.eq(given.opcode == isa.Opcode.LOAD_SLOTS),
                kind.tensor.eq(given.opcode == isa.Opcode.LOAD_TENSOR),
                *([kind.table.eq(given.opcode == isa.Opcode.LOAD_TABLE)] if tables else []),
            ]
        with m.Elif(over):
            m.d.sync += busy.eq(0)
        left = self._take_beats(m, job, begin)
        self._fill(m, job, kind, begin, left)
        written = self._hand_on_words(m, job, kind, begin, left) if self._tensors else 0
        m.d.comb += over.eq(Mux(kind.tensor & ~left.none, written, left.over | left.none))
        # What was handed on is in memory two cycles later.
        m.d.comb += self.completed.eq(delay(m, over, 2, name="completed", reset_less=False))
        return m

    def _take_beats(self, m: Module, job: data.View, begin: Signal) -> _Beats:
        """Beats of the job in hand, counted down, while there is room for them."""
        left = Signal(isa.BEATS_BITS, reset_less=True)
        more, last, none, room = Signal(), Signal(), Signal(), Signal(init=1)
        moved = self.beats.valid & more & room
        m.d.comb += self.beats.ready.eq(more & room)
        m.d.sync += none.eq(begin & (job.beats == 0))
        with m.If(begin):
            m.d.sync += [left.eq(job.beats), more.eq(job.beats != 0), last.eq(job.beats == 1)]
        with m.Elif(moved):
            m.d.sync += [left.eq(left - 1), more.eq(~last), last.eq(left == 2)]
        return _Beats(moved=moved, last=last, none=none, room=room)

    def _fill(
        self, m: Module, job: data.View, kind: data.View, begin: Signal, beats: _Beats
    ) -> None:
        """Beats to the buffers of weights and slots, and to tables, one cycle after they came."""
        word = Signal(self._config.bus_bits, reset_less=True)
        m.d.sync += word.eq(self.beats.payload)
        for name in ("weights", "slots", *(["table"] if "table" in dict(kind.shape()) else [])):
            fill = getattr(self, name)
            m.d.comb += [
                fill.start.eq(begin & kind[name]),
                fill.address.eq(job.address),
                fill.data.eq(word),
            ]
            m.d.sync += fill.enable.eq(beats.moved & kind[name])

    def _hand_on_words(
        self, m: Module, job: data.View, kind: data.View, begin: Signal, beats: _Beats
    ) -> Value:
        """Words with their places to the activation buffer; returns when the last one is taken."""
        layout = data.StructLayout({"word": ActWord(self._config), "last": 1})
        m.submodules.walk = walk = TensorWalk(self._config)
        m.submodules.words = words = Queue(layout)
        m.d.comb += [
            beats.room.eq(words.i.ready | ~kind.tensor),
            walk.tensor.eq(job),
            walk.start.eq(begin),
            walk.step.eq(beats.moved),
            words.i.valid.eq(beats.moved & kind.tensor),
            words.i.p.word.place.address.eq(walk.address),
            words.i.p.word.place.bank.eq(walk.bank),
            words.i.p.word.data.eq(self.beats.payload),
            words.i.p.last.eq(beats.last),
            self.act.valid.eq(words.o.valid),
            self.act.payload.eq(words.o.p.word),
            words.o.ready.eq(self.act.ready),
        ]
        return words.o.valid & self.act.ready & words.o.p.last


class Loader(Component):
    """Loader of the data of LOAD_* jobs from memory into the buffers that they name.

    A job's reads are ordered while the data of up to ``LOADS_IN_FLIGHT`` earlier jobs is on its
    way, so that the memory's latency is not seen. Weights and slots come through all ports, tensors
    and tables through the first.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(stream of TransferJob)
        Taken when all commands have gone.
    commands : Out(stream of command_layout).array(ports)
    beats : In(stream of bus words).array(ports)
    weights, slots : Out(FillPort).array(ports)
        To the :class:`~gateware.rtl.buffers.BeatBuffer` of weights and of slots.
    table : Out(FillPort)
        Of an array with tables: to those of the requantisers.
    act : Out(stream of ActWord)
        Words for the activation buffer.
    completed : Out(1)
        Pulse for each job, in order, when its data is written.

    Latency: a job's commands come two cycles after it.

    Throughput: a beat per cycle and port, a job in five cycles.
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
                "act": Out(stream.Signature(ActWord(config))),
                "completed": Out(1),
                **table_port(config),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        # The job stays on offer while its commands are made and go.
        started, fresh = Signal(), Signal()
        pending = Signal(config.ports)  # ports whose command has not gone
        m.d.comb += self.job.ready.eq(started & ~fresh & (pending == 0))
        m.d.sync += fresh.eq(self.job.valid & ~started)
        m.d.sync += started.eq(Mux(started, ~self.job.ready, self.job.valid))

        # Jobs that each port has done and another has not.
        ahead = [Signal(range(2 * LOADS_IN_FLIGHT), name=f"ahead_{p}") for p in range(config.ports)]
        m.d.comb += self.completed.eq(Cat(count != 0 for count in ahead).all())
        for p in range(config.ports):
            m.submodules[f"receiver_{p}"] = receiver = Receiver(config, tensors=p == 0)
            self._order_reads(m, p, fresh, pending[p], receiver)
            connect(m, flipped(self.beats[p]), receiver.beats)
            connect(m, receiver.weights, flipped(self.weights[p]))
            connect(m, receiver.slots, flipped(self.slots[p]))
            m.d.sync += ahead[p].eq(ahead[p] + receiver.completed - self.completed)
            if p == 0:
                connect(m, receiver.act, flipped(self.act))
                if config.tables:
                    connect(m, receiver.table, flipped(self.table))
        return m

    @property
    def _of_first_port(self) -> tuple[isa.Opcode, ...]:
        """Opcodes of what comes through the first port alone."""
        table = (isa.Opcode.LOAD_TABLE,) if self._config.tables else ()
        return (isa.Opcode.LOAD_TENSOR, *table)

    def _order_reads(
        self, m: Module, p: int, fresh: Signal, pending: Value, receiver: Receiver
    ) -> None:
        """Port p's part of the job: a command to memory, and the job to the receiver's queue."""
        layout = isa.TENSOR if p == 0 else _FILL
        m.submodules[f"queue_{p}"] = queue = Queue(layout, depth=LOADS_IN_FLIGHT)
        tensor, command = self.job.p.tensor, self.commands[p]
        # Other ports have no part in a tensor, but take the job to keep the order.
        beats = Signal(isa.BEATS_BITS, name=f"beats_{p}", reset_less=True)
        address = Signal(32, name=f"address_{p}", reset_less=True)
        # Beats of the ports before; sums of shifts, not a product, which would take a DSP48E1.
        before = Signal(isa.BEATS_BITS + 2, name=f"before_{p}", reset_less=True)
        m.d.sync += before.eq(
            sum((tensor.beats << bit for bit in range(2) if p >> bit & 1), Const(0))
        )
        bytes_bits = ceil_log2(self._config.bus_bits // 8)
        sent = Signal(name=f"sent_{p}")
        with m.If(fresh):
            m.d.sync += [
                pending.eq(1),
                address.eq(self.job.p.address + (before << bytes_bits)),
                beats.eq(
                    tensor.beats
                    if p == 0
                    else Mux(tensor.opcode.matches(*self._of_first_port), 0, tensor.beats)
                ),
            ]
        with m.Elif(sent):
            m.d.sync += pending.eq(0)
        m.d.comb += [
            command.valid.eq(pending & queue.i.ready),
            command.p.address.eq(address),
            command.p.beats.eq(beats),
            sent.eq(command.valid & command.ready),
            queue.i.valid.eq(sent),
            *(queue.i.p[name].eq(beats if name == "beats" else tensor[name]) for name, _ in layout),
            receiver.job.valid.eq(queue.o.valid),
            *(receiver.job.p[name].eq(queue.o.p[name]) for name, _ in layout),
            queue.o.ready.eq(receiver.job.ready),
        ]
