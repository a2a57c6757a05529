# SPDX-License-Identifier: Apache-2.0
"""The sequencer: hands descriptors to three queues, releases them in time, ends the run."""

import dataclasses

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import QUEUES, Base, Opcode
from gateware.arch.registers import DESCRIPTOR_INDEX_BITS, ErrorCode
from gateware.rtl.transfer import TransferJob

QUEUE_DEPTH = 32  #: descriptors that wait in each queue; what one column of LUT RAM holds


class Cause(data.StructLayout):
    """Why no word entered the array in this cycle; at most one bit is set.

    load, execute, store : the next EXECUTE waits for descriptors of that queue; once END was met,
        the run waits for them
    fetch : there is no EXECUTE at hand
    """

    def __init__(self) -> None:
        super().__init__({"load": 1, "execute": 1, "store": 1, "fetch": 1})


@dataclasses.dataclass(frozen=True)
class _Queue:
    """One queue: what leaves it, and its counts."""

    payload: data.View
    valid: Signal  # there is a descriptor
    released: Signal  # and it may begin
    waits: dict[str, Value]
    index: Value  # of the oldest that is not complete
    room: Value
    idle: Value


class Sequencer(Component):
    """Runs a program: loads, executes and stores go to a queue each and leave it in order, each
    when what it waits for is complete.

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

    def elaborate(self, platform) -> Module:
        m = Module()
        header = data.View(isa.TENSOR, self.descriptor.payload[: isa.TENSOR.size])
        index = Signal(DESCRIPTOR_INDEX_BITS)  # of the descriptor that comes next
        stop, reason, failing = Signal(), Signal(ErrorCode), Signal(DESCRIPTOR_INDEX_BITS)
        m.d.comb += stop.eq(self.abort | self.watchdog | self.read_error | self.write_error)

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

        reset = ResetInserter(self.reset_units)
        dispatch = {name: Signal(name=f"dispatch_{name}") for name in QUEUES}
        ports = {
            "loads": (self.load, self.load_completed, job),
            "executes": (
                self.execute,
                self.execute_completed,
                self.descriptor.payload[: isa.EXECUTE.size],
            ),
            "stores": (self.store, self.store_completed, job),
        }
        done = {name: Signal(isa.COUNT_BITS, name=f"{name}_done") for name in QUEUES}
        queues = {
            name: self._queue(m, reset, name, *ports[name], dispatch[name], index, done)
            for name in QUEUES
        }
        idle = Cat(queue.idle for queue in queues.values()).all()

        oldest = Mux(
            queues["executes"].idle,
            Mux(
                queues["loads"].idle,
                Mux(queues["stores"].idle, index, queues["stores"].index),
                queues["loads"].index,
            ),
            queues["executes"].index,
        )
        m.d.comb += self.descriptor_index.eq(oldest)

        ending = Signal()
        self._classify(m, queues, ending)
        m.d.comb += self.busy.eq(1)
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += [self.busy.eq(0), self.cause.eq(0)]
                m.d.sync += ending.eq(0)
                with m.If(self.start):
                    m.d.comb += self.fetch_start.eq(1)
                    m.d.sync += [index.eq(0), *(count.eq(0) for count in done.values())]
                    m.next = "Run"

            with m.State("Run"):
                with m.If(ending):
                    m.d.comb += self.fetch_halt.eq(1)
                    with m.If(idle):
                        m.d.sync += reason.eq(ErrorCode.NONE)
                        m.next = "Flush"
                with m.Elif(self.descriptor.valid):
                    with m.Switch(header.opcode):
                        for name, opcodes in QUEUES.items():
                            with m.Case(*opcodes):
                                m.d.comb += dispatch[name].eq(queues[name].room)
                        with m.Case(Opcode.END):
                            m.d.comb += self.dispatched.eq(1)
                            m.d.sync += ending.eq(1)
                        with m.Default():
                            m.d.sync += [reason.eq(ErrorCode.BAD_DESCRIPTOR), failing.eq(index)]
                            m.next = "Flush"
                with m.If(Cat(dispatch.values()).any()):
                    m.d.comb += [self.descriptor.ready.eq(1), self.dispatched.eq(1)]
                    m.d.sync += index.eq(index + 1)
                # The last assignment to the next state wins.
                with m.If(stop):
                    self._blame(m, reason, failing, queues, index)
                    m.next = "Flush"

            with m.State("Flush"):
                # Also after a good end: what was fetched beyond it is still on its way.
                m.d.comb += [self.flush.eq(1), self.reset_units.eq(1), self.fetch_halt.eq(1)]
                with m.If(self.bus_idle):
                    m.d.comb += [
                        self.finished.eq(reason == ErrorCode.NONE),
                        self.failed.eq(reason != ErrorCode.NONE),
                        self.error_code.eq(reason),
                    ]
                    m.next = "Idle"
                with m.If(reason != ErrorCode.NONE):
                    m.d.comb += self.descriptor_index.eq(failing)
        return m

    def _queue(
        self,
        m: Module,
        reset: ResetInserter,
        name: str,
        out: stream.Interface,
        completed: Signal,
        given: Value,
        dispatch: Signal,
        index: Signal,
        done: dict[str, Signal],
    ) -> _Queue:
        """A queue before ``out``, which leaves when its waits are over."""
        payload = Value.cast(given)
        header = data.View(isa.HEADER, self.descriptor.payload[: isa.HEADER.size])
        wanted = Cat(header[f"wait_{other}"] for other in QUEUES)
        m.submodules[f"{name}_queue"] = fifo = reset(
            SyncFIFO(width=len(payload) + len(wanted), depth=QUEUE_DEPTH)
        )
        m.submodules[f"{name}_indices"] = indices = reset(
            SyncFIFO(width=DESCRIPTOR_INDEX_BITS, depth=2 * QUEUE_DEPTH)
        )
        m.d.comb += [
            fifo.w_data.eq(Cat(payload, wanted)),
            fifo.w_en.eq(dispatch),
            indices.w_data.eq(index),
            indices.w_en.eq(dispatch),
            indices.r_en.eq(completed),
        ]
        with m.If(completed):
            m.d.sync += done[name].eq(done[name] + 1)
        unfinished = Signal(range(2 * QUEUE_DEPTH + 1), name=f"{name}_unfinished")
        m.d.sync += unfinished.eq(unfinished + dispatch - completed)
        with m.If(self.reset_units):
            m.d.sync += unfinished.eq(0)

        waits = {}
        for at, other in enumerate(QUEUES):
            want = fifo.r_data[len(payload) + at * isa.COUNT_BITS :][: isa.COUNT_BITS]
            missing = Signal(signed(isa.COUNT_BITS), name=f"{name}_miss_{other}")
            waiting = Signal(name=f"{name}_wait_{other}")
            m.d.comb += [missing.eq(done[other] - want), waiting.eq(missing < 0)]
            waits[other] = waiting
        released = Signal(name=f"{name}_released")
        m.d.comb += [
            released.eq(fifo.r_rdy & ~Cat(waits.values()).any()),
            out.valid.eq(released),
            Value.cast(out.payload).eq(fifo.r_data[: len(payload)]),
            fifo.r_en.eq(released & out.ready),
        ]
        return _Queue(
            out.payload,
            fifo.r_rdy,
            released,
            waits,
            indices.r_data,
            fifo.w_rdy & indices.w_rdy,
            unfinished == 0,
        )

    def _classify(self, m: Module, queues: dict[str, _Queue], ending: Signal) -> None:
        executes, cause = queues["executes"], self.cause
        with m.If(self.array_idle):
            with m.If(executes.valid):
                with m.If(executes.waits["loads"]):
                    m.d.comb += cause.load.eq(1)
                with m.Elif(executes.waits["stores"]):
                    m.d.comb += cause.store.eq(1)
                with m.Else():  # for results of an earlier one, or it is just beginning
                    m.d.comb += cause.execute.eq(1)
            with m.Elif(~ending):
                m.d.comb += cause.fetch.eq(1)
            with m.Elif(~executes.idle):
                m.d.comb += cause.execute.eq(1)
            with m.Elif(~queues["loads"].idle):
                m.d.comb += cause.load.eq(1)
            with m.Else():
                m.d.comb += cause.store.eq(1)

    def _blame(
        self, m: Module, reason: Signal, failing: Signal, queues: dict[str, _Queue], index: Signal
    ) -> None:
        """Why a run stops, and which descriptor it is about."""
        m.d.sync += failing.eq(self.descriptor_index)
        with m.If(self.abort):
            m.d.sync += reason.eq(ErrorCode.ABORTED)
        with m.Elif(self.watchdog):
            m.d.sync += reason.eq(ErrorCode.WATCHDOG)
        with m.Elif(self.read_error):
            m.d.sync += [
                reason.eq(ErrorCode.READ_ERROR),
                failing.eq(
                    Mux(self.fetch_owns | queues["loads"].idle, index, queues["loads"].index)
                ),
            ]
        with m.Else():
            m.d.sync += [reason.eq(ErrorCode.WRITE_ERROR), failing.eq(queues["stores"].index)]
