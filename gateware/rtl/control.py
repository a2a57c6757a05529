# SPDX-License-Identifier: Apache-2.0
"""Sequencer of a run: three queues of descriptors, their release in time, the end of the run."""

import dataclasses

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import QUEUES
from gateware.arch.registers import DESCRIPTOR_INDEX_BITS, SILENCE_CYCLES, ErrorCode
from gateware.rtl.decode import BUFFERS, Decoder
from gateware.rtl.payloads import TransferJob
from gateware.rtl.release import COUNTS, ReleaseQueue

_STOPS = ("abort", "watchdog", "read_error", "write_error")


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


class Event(data.StructLayout):
    """Events in the other units, as the sequencer hears them a cycle later.

    Members
    -------
    abort, watchdog, read_error, write_error : unsigned(1)
        Reasons to stop.
    fetch_owns, array_idle : unsigned(1)
        State in that cycle.
    loads, executes, stores : unsigned(1)
        A descriptor of that queue is complete.
    """

    def __init__(self) -> None:
        super().__init__(dict.fromkeys((*_STOPS, "fetch_owns", "array_idle", *QUEUES), 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Decoded:
    """The descriptor at hand, a cycle after it came."""

    at_hand: Signal
    queue: data.View  # it goes there
    end: Signal
    job: data.View  # it, for the loader or the storer
    entered: Signal  # one entered a queue in the last cycle
    outside: Value  # it goes beyond its buffer


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """State of a run."""

    event: data.View
    descriptor: _Decoded
    index: Signal  # its number
    last: Signal  # number in the last cycle
    ending: Signal  # END was met
    over: Signal  # this is the last cycle before flushing
    flushing: Signal  # nothing begins any more; the bus comes to rest
    flushed: Signal  # flushing went on in the last cycle
    bus_idle: Signal  # the bus was at rest in the last cycle
    silent: Signal  # nothing has moved, or flushing has gone on, for so long
    told: Signal  # the run has been reported as failed, its flush goes on
    reason: Signal  # why the run ends
    failing: Signal  # the descriptor that it is about
    done: data.View  # complete descriptors of each queue
    queues: dict[str, ReleaseQueue]

    @property
    def stop(self) -> Value:
        """The run cannot go on."""
        return Cat(self.event[name] for name in _STOPS).any()


class Sequencer(Component):
    """Sequencer of a program: loads, executes and stores go to a queue each and leave it in order,
    each when what it waits for is complete.

    A bus error, a descriptor that is refused, the watchdog or the host's abort ends the run: the
    bus is flushed (nothing is left in flight), the queues and units are reset, and ``failed``
    reports why. The accelerator can be started again at once.

    A run in which nothing moves for ``silence_cycles`` fails, too: its descriptors wait for what
    never comes. Where the memory does not answer, ``failed`` comes as long after the reason, and
    ``busy`` stays until the memory answers or the logic is reset.

    Parameters
    ----------
    config : AccelConfig
    silence_cycles : int

    Members
    -------
    start, abort, watchdog : In(1)
        From the registers.
    bases, sizes : In(BUFFERS)
        Where the host's buffers are, and their bytes; no transfer goes beyond.
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

    Everything that the sequencer hears it registers first. What it says follows from registers,
    but for ``descriptor.ready``, ``fetch_start`` and the pulses at the end.

    Latency: three cycles from ``descriptor`` to ``load``, ``execute`` or ``store`` at the earliest;
    three from ``load_completed`` and the like to what waited for it.

    Throughput: one descriptor in two cycles.
    """

    def __init__(self, config: AccelConfig, *, silence_cycles: int = SILENCE_CYCLES) -> None:
        self._config, self._silence_cycles = config, silence_cycles
        transfer = stream.Signature(TransferJob())
        super().__init__(
            {
                "start": In(1),
                "abort": In(1),
                "watchdog": In(1),
                "bases": In(BUFFERS),
                "sizes": In(BUFFERS),
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
                "execute": Out(stream.Signature(isa.execute_layout(config))),
                "load_completed": In(1),
                "store_completed": In(1),
                "execute_completed": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        run = self._set_up_run(m)
        oldest = self._oldest(run)
        m.d.comb += [
            self.descriptor_index.eq(
                Mux(run.flushing & (run.reason != ErrorCode.NONE), run.failing, oldest)
            ),
            self.flush.eq(run.flushing),
            self.reset_units.eq(run.flushing),
            self.fetch_halt.eq(run.ending | run.flushing),
        ]
        self._classify(m, run)
        self._dispatch(m, run)
        self._count_silence(m, run)
        with m.If(~self.busy):
            self._await_start(m, run)
        with m.Elif(~run.flushing):
            self._end(m, run, oldest)
        with m.Else():
            self._flush(m, run)
        return m

    def _set_up_run(self, m: Module) -> _Run:
        """Registers of a run and its queues."""
        event, flushing, flushed, bus_idle = Signal(Event()), Signal(), Signal(), Signal()
        done, silent = Signal(COUNTS, reset_less=True), Signal()
        m.d.sync += [
            *(event[name].eq(getattr(self, name) & self.busy) for name in _STOPS),
            event.fetch_owns.eq(self.fetch_owns),
            event.array_idle.eq(self.array_idle),
            event.loads.eq(self.load_completed),
            event.executes.eq(self.execute_completed),
            event.stores.eq(self.store_completed),
            flushed.eq(flushing),
            bus_idle.eq(self.bus_idle),
            *(done[name].eq(done[name] + event[name]) for name in QUEUES),
        ]
        index = Signal(DESCRIPTOR_INDEX_BITS, reset_less=True)
        last = Signal(DESCRIPTOR_INDEX_BITS, reset_less=True)
        m.d.sync += last.eq(index)
        return _Run(
            event=event,
            descriptor=self._decode(m),
            index=index,
            last=last,
            ending=Signal(),
            over=Signal(),
            flushing=flushing,
            flushed=flushed,
            bus_idle=bus_idle,
            silent=silent,
            told=Signal(),
            reason=Signal(ErrorCode),
            failing=Signal(DESCRIPTOR_INDEX_BITS, reset_less=True),
            done=done,
            queues=self._queues(m, event, done, flushing),
        )

    def _decode(self, m: Module) -> _Decoded:
        """The descriptor on offer, where it goes and its address in memory."""
        m.submodules.decoder = decoder = Decoder(self._config)
        m.d.comb += [
            decoder.descriptor.eq(self.descriptor.payload),
            decoder.bases.eq(self.bases),
            decoder.sizes.eq(self.sizes),
        ]
        job, entered, transfer = Signal(TransferJob()), Signal(), Signal(reset_less=True)
        m.d.comb += [
            job.tensor.eq(self.descriptor.payload[: isa.TENSOR.size]),
            job.address.eq(decoder.address),
        ]
        # Before what is outside leaves its queue, the run is over.
        m.d.sync += [
            entered.eq(self.descriptor.ready),
            transfer.eq(~decoder.queue.executes),
        ]
        return _Decoded(
            at_hand=Signal(),
            queue=decoder.queue,
            end=decoder.end,
            job=job,
            entered=entered,
            outside=entered & transfer & decoder.outside,
        )

    def _queues(
        self, m: Module, event: data.View, done: data.View, reset: Signal
    ) -> dict[str, ReleaseQueue]:
        """The queues before the units, without what enters them."""
        queues = {}
        ports = {"loads": self.load, "executes": self.execute, "stores": self.store}
        for name, out in ports.items():
            queue = queues[name] = ReleaseQueue(out.payload.shape())
            m.submodules[name] = ResetInserter(reset)(queue)
            m.d.comb += [queue.done.eq(done), queue.completed.eq(event[name])]
            connect(m, queue.o, flipped(out))
        return queues

    @staticmethod
    def _oldest(run: _Run) -> Value:
        """Number of the oldest EXECUTE that is not complete, else load, store, or the next one."""
        loads, executes, stores = (run.queues[name] for name in ("loads", "executes", "stores"))
        return Mux(
            executes.idle,
            Mux(loads.idle, Mux(stores.idle, run.index, stores.oldest), loads.oldest),
            executes.oldest,
        )

    def _classify(self, m: Module, run: _Run) -> None:
        """Why no word enters the array, combinational."""
        executes, cause = run.queues["executes"], self.cause
        with m.If(self.busy & run.event.array_idle):
            with m.If(executes.present):
                with m.If(executes.waits.loads):
                    m.d.comb += cause.load.eq(1)
                with m.Elif(executes.waits.stores):
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
        """No run."""
        m.d.sync += run.ending.eq(0)
        with m.If(self.start):
            m.d.comb += self.fetch_start.eq(1)
            m.d.sync += [self.busy.eq(1), run.index.eq(0), run.done.eq(0)]

    def _dispatch(self, m: Module, run: _Run) -> None:
        """The descriptor at hand to its queue, when there is room."""
        descriptor = run.descriptor
        for name, queue in run.queues.items():
            job = self.descriptor.payload if name == "executes" else descriptor.job
            m.d.comb += [
                queue.i.valid.eq(descriptor.at_hand & descriptor.queue[name]),
                Value.cast(queue.i.payload).eq(job),
                queue.index.eq(run.index),
            ]
        entering = Cat(queue.i.valid & queue.i.ready for queue in run.queues.values()).any()
        met = descriptor.at_hand & descriptor.end
        m.d.comb += [self.descriptor.ready.eq(entering), self.dispatched.eq(entering | met)]
        m.d.sync += descriptor.at_hand.eq(
            self.descriptor.valid
            & ~entering
            & ~met
            & self.busy
            & ~run.ending
            & ~run.over
            & ~run.flushing
        )
        with m.If(entering):
            m.d.sync += run.index.eq(run.index + 1)
        with m.If(met):
            m.d.sync += run.ending.eq(1)

    def _count_silence(self, m: Module, run: _Run) -> None:
        """Cycles of a run without a word, a beat or a descriptor, or those of its flush."""
        event, cycles = run.event, Signal(range(self._silence_cycles), reset_less=True)
        moves = Cat(event[name] for name in QUEUES).any() | run.descriptor.entered
        rests = event.array_idle & run.bus_idle & ~moves
        m.d.sync += [
            cycles.eq(Mux(self.busy & ~run.over & (run.flushing | rests), cycles + 1, 0)),
            run.silent.eq(self.busy & ~run.over & (cycles == self._silence_cycles - 2)),
        ]

    def _end(self, m: Module, run: _Run, oldest: Value) -> None:
        """A good end, or why a run stops and which descriptor it is about."""
        descriptor, event, queues = run.descriptor, run.event, run.queues
        bad = descriptor.at_hand & ~(descriptor.queue.as_value().any() | descriptor.end)
        loads = queues["loads"]
        with m.If(event.abort):
            m.d.sync += run.reason.eq(ErrorCode.ABORTED)
        with m.Elif(event.watchdog):
            m.d.sync += run.reason.eq(ErrorCode.WATCHDOG)
        with m.Elif(event.read_error):
            m.d.sync += run.reason.eq(ErrorCode.READ_ERROR)
        with m.Elif(event.write_error):
            m.d.sync += run.reason.eq(ErrorCode.WRITE_ERROR)
        with m.Elif(descriptor.outside):
            m.d.sync += run.reason.eq(ErrorCode.OUT_OF_BOUNDS)
        with m.Elif(bad):
            m.d.sync += run.reason.eq(ErrorCode.BAD_DESCRIPTOR)
        with m.Elif(run.silent):
            m.d.sync += run.reason.eq(ErrorCode.DEADLOCK)
        with m.Else():
            m.d.sync += run.reason.eq(ErrorCode.NONE)
        with m.If(event.abort | event.watchdog):
            m.d.sync += run.failing.eq(oldest)
        with m.Elif(event.read_error):
            m.d.sync += run.failing.eq(Mux(event.fetch_owns | loads.idle, run.index, loads.oldest))
        with m.Elif(event.write_error):
            m.d.sync += run.failing.eq(queues["stores"].oldest)
        with m.Elif(descriptor.outside):
            m.d.sync += run.failing.eq(run.last)
        with m.Elif(bad):
            m.d.sync += run.failing.eq(run.index)
        with m.Else():
            m.d.sync += run.failing.eq(oldest)
        idle = Cat(queue.idle for queue in queues.values()).all()
        refused = descriptor.outside | bad | run.silent
        m.d.comb += run.over.eq(run.stop | refused | (run.ending & idle))
        m.d.sync += run.flushing.eq(run.over)

    def _flush(self, m: Module, run: _Run) -> None:
        """Until nothing is in flight, at least two cycles.

        Also after a good end: what was fetched beyond it is still on its way.
        """
        failed = run.reason != ErrorCode.NONE
        m.d.comb += self.error_code.eq(run.reason)
        with m.If(run.flushed & run.bus_idle):
            m.d.comb += [self.finished.eq(~failed), self.failed.eq(failed & ~run.told)]
            m.d.sync += [self.busy.eq(0), run.flushing.eq(0), run.told.eq(0)]
        with m.Elif(run.silent & ~run.told):
            # The memory does not answer. Of a good end nobody has to know that.
            m.d.comb += self.failed.eq(failed)
            m.d.sync += run.told.eq(failed)
