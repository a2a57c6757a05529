# SPDX-License-Identifier: Apache-2.0
"""Sequencer of a run: three queues of descriptors, their release in time, the end of the run."""

import dataclasses

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import QUEUES, Base, Opcode
from gateware.arch.registers import DESCRIPTOR_INDEX_BITS, ErrorCode
from gateware.rtl.payloads import TransferJob

QUEUE_DEPTH = 32  #: descriptors that wait in each queue; what one column of LUT RAM holds


class Cause(data.StructLayout):
    """Cause for which no word entered the array in this cycle; at most one bit is set.

    Members
    -------
    load, execute, store : unsigned(1)
        The next EXECUTE waits for descriptors of that queue; once END was met, the run waits for
        them.
    fetch : unsigned(1)
        No EXECUTE is at hand.
    """

    def __init__(self) -> None:
        super().__init__({"load": 1, "execute": 1, "store": 1, "fetch": 1})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    """What goes into one queue, and where it leaves."""

    name: str
    out: stream.Interface
    completed: Signal
    payload: Value
    dispatch: Signal  # the descriptor at hand enters


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Queue:
    """One queue: what leaves it, and its counts."""

    dispatch: Signal
    valid: Signal  # there is a descriptor
    waits: dict[str, Value]  # it waits for descriptors of that queue
    index: Value  # of the oldest that is not complete
    room: Value
    idle: Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """State of a run."""

    header: data.View  # of the descriptor that comes next
    index: Signal  # its number
    ending: Signal  # END was met
    stop: Signal  # the run cannot go on
    reason: Signal  # why it ends
    failing: Signal  # the descriptor that it is about
    done: dict[str, Signal]  # complete descriptors of each queue, modulo 2^16
    queues: dict[str, _Queue]


class Sequencer(Component):
    """Sequencer of a program: loads, executes and stores go to a queue each and leave it in order,
    each when what it waits for is complete.

    A bus error, an unknown opcode, the watchdog or the host's abort ends the run: the bus is
    flushed (nothing is left in flight), the queues and units are reset, and ``failed`` reports why.
    The accelerator can be started again at once.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    start, abort, watchdog : In(1)
        From the registers.
    program_base, input_base, output_base : In(32)
    busy : Out(1), finished : Out(1), failed : Out(1), error_code : Out(ErrorCode)
        ``finished`` and ``failed`` are pulses.
    descriptor_index : Out(16)
        The oldest EXECUTE that is not complete, else the oldest load, store, or the next one; with
        ``failed`` the one that caused it.
    dispatched : Out(1)
        Pulse for each descriptor that enters a queue, and for END.
    cause : Out(Cause)
        While busy, with ``array_idle``.
    array_idle : In(1)
        The array neither takes a word nor waits for the drain.
    fetch_start, fetch_halt : Out(1), descriptor : In(stream of unsigned(512))
        To and from the :class:`~gateware.rtl.fetch.Fetcher`.
    fetch_owns : In(1)
        The read data on the bus belongs to the fetcher.
    read_error, write_error, bus_idle : In(1)
    flush : Out(1)
        Abandon everything on the bus.
    reset_units : Out(1)
    load, store : Out(stream of TransferJob), execute : Out(stream of isa.EXECUTE)
    load_completed, store_completed, execute_completed : In(1)
        Pulse for each, in order.

    Latency: a descriptor leaves its queue in the cycle after it was dispatched, at the earliest.

    Throughput: one descriptor per cycle.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        transfer = stream.Signature(TransferJob())
        super().__init__(
            {
                "start": In(1),
                "abort": In(1),
                "watchdog": In(1),
                "program_base": In(32),
                "input_base": In(32),
                "output_base": In(32),
                "busy": Out(1),
                "finished": Out(1),
                "failed": Out(1),
                "error_code": Out(ErrorCode),
                "descriptor_index": Out(DESCRIPTOR_INDEX_BITS),
                "dispatched": Out(1),
                "cause": Out(Cause()),
                "array_idle": In(1),
                "fetch_start": Out(1),
                "fetch_halt": Out(1),
                "descriptor": In(stream.Signature(unsigned(isa.DESCRIPTOR_BITS))),
                "fetch_owns": In(1),
                "read_error": In(1),
                "write_error": In(1),
                "bus_idle": In(1),
                "flush": Out(1),
                "reset_units": Out(1),
                "load": Out(transfer),
                "store": Out(transfer),
                "execute": Out(stream.Signature(isa.EXECUTE)),
                "load_completed": In(1),
                "store_completed": In(1),
                "execute_completed": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        run = self._set_up_run(m)
        m.d.comb += self.descriptor_index.eq(self._oldest(run))
        self._classify(m, run)
        m.d.comb += self.busy.eq(1)
        with m.FSM():
            with m.State("Idle"):
                self._await_start(m, run)
            with m.State("Run"):
                self._dispatch(m, run)
            with m.State("Flush"):
                self._flush(m, run)
        return m

    def _set_up_run(self, m: Module) -> _Run:
        """Registers of a run and its queues."""
        header = data.View(isa.TENSOR, self.descriptor.payload[: isa.TENSOR.size])
        index = Signal(DESCRIPTOR_INDEX_BITS)
        stop, reason, failing = Signal(), Signal(ErrorCode), Signal(DESCRIPTOR_INDEX_BITS)
        m.d.comb += stop.eq(self.abort | self.watchdog | self.read_error | self.write_error)
        job = self._transfer_job(m, header)
        dispatch = {name: Signal(name=f"dispatch_{name}") for name in QUEUES}
        done = {name: Signal(isa.COUNT_BITS, name=f"{name}_done") for name in QUEUES}
        execute = self.descriptor.payload[: isa.EXECUTE.size]
        ports = {
            "loads": (self.load, self.load_completed, job),
            "executes": (self.execute, self.execute_completed, execute),
            "stores": (self.store, self.store_completed, job),
        }
        sources = [
            _Source(
                name=name,
                out=out,
                completed=completed,
                payload=payload,
                dispatch=dispatch[name],
            )
            for name, (out, completed, payload) in ports.items()
        ]
        queues = {source.name: self._queue(m, source, index, done) for source in sources}
        ending = Signal()
        return _Run(
            header=header,
            index=index,
            ending=ending,
            stop=stop,
            reason=reason,
            failing=failing,
            done=done,
            queues=queues,
        )

    def _transfer_job(self, m: Module, header: data.View) -> Value:
        """The descriptor as a TransferJob, combinational."""
        address = Signal(32)
        with m.Switch(header.base):
            with m.Case(Base.INPUT):
                m.d.comb += address.eq(self.input_base + header.offset)
            with m.Case(Base.OUTPUT):
                m.d.comb += address.eq(self.output_base + header.offset)
            with m.Default():
                m.d.comb += address.eq(self.program_base + header.offset)
        job = Signal(TransferJob())
        m.d.comb += [job.tensor.eq(header), job.address.eq(address)]
        return Value.cast(job)

    def _queue(self, m: Module, source: _Source, index: Signal, done: dict[str, Signal]) -> _Queue:
        """A queue before ``source.out``, which leaves when its waits are over: at the earliest in
        the cycle after it was dispatched."""
        name, payload = source.name, source.payload
        header = data.View(isa.HEADER, self.descriptor.payload[: isa.HEADER.size])
        wanted = Cat(header[f"wait_{other}"] for other in QUEUES)
        reset = ResetInserter(self.reset_units)
        m.submodules[f"{name}_queue"] = fifo = reset(
            SyncFIFO(width=len(payload) + len(wanted), depth=QUEUE_DEPTH)
        )
        m.submodules[f"{name}_indices"] = indices = reset(
            SyncFIFO(width=DESCRIPTOR_INDEX_BITS, depth=2 * QUEUE_DEPTH)
        )
        m.d.comb += [
            fifo.w_data.eq(Cat(payload, wanted)),
            fifo.w_en.eq(source.dispatch),
            indices.w_data.eq(index),
            indices.w_en.eq(source.dispatch),
            indices.r_en.eq(source.completed),
        ]
        unfinished = self._count(m, source, done[name])
        waits = self._waits(m, name, fifo.r_data[len(payload) :], done)
        released = Signal(name=f"{name}_released")
        m.d.comb += [
            released.eq(fifo.r_rdy & ~Cat(waits.values()).any()),
            source.out.valid.eq(released),
            Value.cast(source.out.payload).eq(fifo.r_data[: len(payload)]),
            fifo.r_en.eq(released & source.out.ready),
        ]
        return _Queue(
            dispatch=source.dispatch,
            valid=fifo.r_rdy,
            waits=waits,
            index=indices.r_data,
            room=fifo.w_rdy & indices.w_rdy,
            idle=unfinished == 0,
        )

    def _count(self, m: Module, source: _Source, done: Signal) -> Signal:
        """Descriptors dispatched and not complete; ``done`` counts those that are."""
        with m.If(source.completed):
            m.d.sync += done.eq(done + 1)
        unfinished = Signal(range(2 * QUEUE_DEPTH + 1), name=f"{source.name}_unfinished")
        m.d.sync += unfinished.eq(unfinished + source.dispatch - source.completed)
        with m.If(self.reset_units):
            m.d.sync += unfinished.eq(0)
        return unfinished

    @staticmethod
    def _waits(m: Module, name: str, wanted: Value, done: dict[str, Signal]) -> dict[str, Value]:
        """For each queue whether fewer of its descriptors are complete than ``wanted`` says."""
        waits = {}
        for at, other in enumerate(QUEUES):
            want = wanted[at * isa.COUNT_BITS :][: isa.COUNT_BITS]
            missing = Signal(signed(isa.COUNT_BITS), name=f"{name}_miss_{other}")
            waiting = Signal(name=f"{name}_wait_{other}")
            m.d.comb += [missing.eq(done[other] - want), waiting.eq(missing < 0)]
            waits[other] = waiting
        return waits

    @staticmethod
    def _oldest(run: _Run) -> Value:
        """Number of the oldest EXECUTE that is not complete, else load, store, or the next one."""
        loads, executes, stores = (run.queues[name] for name in ("loads", "executes", "stores"))
        return Mux(
            executes.idle,
            Mux(loads.idle, Mux(stores.idle, run.index, stores.index), loads.index),
            executes.index,
        )

    def _classify(self, m: Module, run: _Run) -> None:
        """Why no word enters the array, combinational."""
        executes, cause = run.queues["executes"], self.cause
        with m.If(self.array_idle):
            with m.If(executes.valid):
                with m.If(executes.waits["loads"]):
                    m.d.comb += cause.load.eq(1)
                with m.Elif(executes.waits["stores"]):
                    m.d.comb += cause.store.eq(1)
                with m.Else():  # for results of an earlier one, or it is just beginning
                    m.d.comb += cause.execute.eq(1)
            with m.Elif(~run.ending):
                m.d.comb += cause.fetch.eq(1)
            with m.Elif(~executes.idle):
                m.d.comb += cause.execute.eq(1)
            with m.Elif(~run.queues["loads"].idle):
                m.d.comb += cause.load.eq(1)
            with m.Else():
                m.d.comb += cause.store.eq(1)

    def _await_start(self, m: Module, run: _Run) -> None:
        """State Idle."""
        m.d.comb += [self.busy.eq(0), self.cause.eq(0)]
        m.d.sync += run.ending.eq(0)
        with m.If(self.start):
            m.d.comb += self.fetch_start.eq(1)
            m.d.sync += [run.index.eq(0), *(count.eq(0) for count in run.done.values())]
            m.next = "Run"

    def _dispatch(self, m: Module, run: _Run) -> None:
        """State Run: a descriptor per cycle to its queue, until END, an error or the host."""
        queues = run.queues
        with m.If(run.ending):
            m.d.comb += self.fetch_halt.eq(1)
            with m.If(Cat(queue.idle for queue in queues.values()).all()):
                m.d.sync += run.reason.eq(ErrorCode.NONE)
                m.next = "Flush"
        with m.Elif(self.descriptor.valid):
            with m.Switch(run.header.opcode):
                for name, opcodes in QUEUES.items():
                    with m.Case(*opcodes):
                        m.d.comb += queues[name].dispatch.eq(queues[name].room)
                with m.Case(Opcode.END):
                    m.d.comb += self.dispatched.eq(1)
                    m.d.sync += run.ending.eq(1)
                with m.Default():
                    m.d.sync += [
                        run.reason.eq(ErrorCode.BAD_DESCRIPTOR),
                        run.failing.eq(run.index),
                    ]
                    m.next = "Flush"
        with m.If(Cat(queue.dispatch for queue in queues.values()).any()):
            m.d.comb += [self.descriptor.ready.eq(1), self.dispatched.eq(1)]
            m.d.sync += run.index.eq(run.index + 1)
        # The last assignment to the next state wins.
        with m.If(run.stop):
            self._blame(m, run)
            m.next = "Flush"

    def _blame(self, m: Module, run: _Run) -> None:
        """Why a run stops, and which descriptor it is about."""
        loads, stores = run.queues["loads"], run.queues["stores"]
        m.d.sync += run.failing.eq(self.descriptor_index)
        with m.If(self.abort):
            m.d.sync += run.reason.eq(ErrorCode.ABORTED)
        with m.Elif(self.watchdog):
            m.d.sync += run.reason.eq(ErrorCode.WATCHDOG)
        with m.Elif(self.read_error):
            m.d.sync += [
                run.reason.eq(ErrorCode.READ_ERROR),
                run.failing.eq(Mux(self.fetch_owns | loads.idle, run.index, loads.index)),
            ]
        with m.Else():
            m.d.sync += [run.reason.eq(ErrorCode.WRITE_ERROR), run.failing.eq(stores.index)]

    def _flush(self, m: Module, run: _Run) -> None:
        """State Flush, until nothing is in flight.

        Also after a good end: what was fetched beyond it is still on its way.
        """
        m.d.comb += [self.flush.eq(1), self.reset_units.eq(1), self.fetch_halt.eq(1)]
        with m.If(self.bus_idle):
            m.d.comb += [
                self.finished.eq(run.reason == ErrorCode.NONE),
                self.failed.eq(run.reason != ErrorCode.NONE),
                self.error_code.eq(run.reason),
            ]
            m.next = "Idle"
        with m.If(run.reason != ErrorCode.NONE):
            m.d.comb += self.descriptor_index.eq(run.failing)
