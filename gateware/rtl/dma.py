# SPDX-License-Identifier: Apache-2.0
"""DMA engines: runs of beats between streams and memory over one AXI3 port of a Zynq-7000.

A command names an address and a number of beats. It is cut into INCR bursts that end at a multiple
of 16 beats or at the end of the command, so none is longer than AXI3 allows and none crosses a
4 KiB boundary. Several bursts are in flight at once; all carry id 0: they are answered in order.

A command with zero beats completes at once and leaves no trace. A command whose address is not a
multiple of the bus width is dropped with a pulse on ``error``: no access is made and no data moves.
"""

import dataclasses

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gateware.rtl.axi import Axi3Signature, Burst, Resp
from gateware.rtl.bursts import BurstSplitter, command_layout
from gateware.rtl.queue import Queue

# Normal memory, bufferable: what the memory controller behind an HP port expects.
_CACHE = 0b0011


def check_outstanding(max_outstanding: int) -> None:
    """Check of bursts in flight: raises ValueError unless there are 1 to 16."""
    if not isinstance(max_outstanding, int) or not 1 <= max_outstanding <= 16:
        raise ValueError(f"max_outstanding must be an integer in 1..16, not {max_outstanding!r}")


@dataclasses.dataclass(frozen=True)
class _Issue:
    """Bursts on their way to the bus."""

    splitter: BurstSplitter
    taken: Signal  # a burst enters the register of the address channel
    swallow: Signal  # a flush is going on


class _Dma(wiring.Component):
    """DMA engine of one direction: commands, splitter, count of bursts in flight, flushing."""

    def __init__(
        self,
        *,
        addr_bits: int,
        data_bits: int,
        id_bits: int,
        max_outstanding: int,
        data_member: wiring.Member,
    ) -> None:
        check_outstanding(max_outstanding)
        self._max_outstanding = max_outstanding
        self._addr_bits = addr_bits
        self._data_bits = data_bits
        super().__init__(
            {
                "command": In(stream.Signature(command_layout(addr_bits))),
                "data": data_member,
                "axi": Out(Axi3Signature(addr_bits, data_bits, id_bits)),
                "flush": In(1),
                "idle": Out(1),
                "error": Out(1),
                "beat": Out(1),
            }
        )

    def _address_channel(self, m: Module, channel: str, retire: Value) -> _Issue:
        """Address channel, ``ar`` or ``aw``, from the commands: a register that no flush retracts.

        Bursts count as outstanding from the moment they enter that register, one cycle before the
        bus sees them, until ``retire``.
        """

        def port(name: str) -> Signal:
            return getattr(self.axi, f"{channel}{name}")

        m.submodules.splitter = splitter = BurstSplitter(
            addr_bits=self._addr_bits, data_bits=self._data_bits
        )
        connect(m, flipped(self.command), splitter.command)
        outstanding = Signal(range(self._max_outstanding + 1))
        room = Signal(init=1)  # outstanding != max_outstanding, a response late
        swallow = Signal()
        taken = Signal()
        flushing = self._flush_until_quiet(m, swallow, ~splitter.active & (outstanding == 0))
        m.d.comb += [
            splitter.flush.eq(swallow),
            splitter.burst.ready.eq((~port("valid") | port("ready")) & ~flushing & room),
            taken.eq(splitter.burst.valid & splitter.burst.ready),
        ]
        m.d.comb += [
            port("size").eq((self._data_bits // 8).bit_length() - 1),
            port("burst").eq(Burst.INCR),
            port("cache").eq(_CACHE),
        ]
        most = self._max_outstanding
        m.d.sync += [
            outstanding.eq(outstanding + taken - retire),
            room.eq(Mux(taken, outstanding < most - 1, outstanding < most)),
        ]
        with m.If(port("ready")):
            m.d.sync += port("valid").eq(0)
        burst = Signal(splitter.burst.payload.shape(), reset_less=True)
        m.d.comb += [port("addr").eq(burst.address), port("len").eq(burst.length)]
        with m.If(taken):
            m.d.sync += [port("valid").eq(1), burst.eq(splitter.burst.payload)]
        return _Issue(splitter, taken, swallow)

    def _flush_until_quiet(self, m: Module, swallow: Signal, quiet: Value) -> Signal:
        """``swallow`` from ``flush`` on until nothing is in flight; returns its part after the
        first cycle."""
        flushing = Signal()
        m.d.comb += [
            swallow.eq(self.flush | flushing),
            self.idle.eq(quiet & ~flushing),
        ]
        m.d.sync += flushing.eq(swallow & ~quiet)
        return flushing


class ReadDma(_Dma):
    """DMA engine from memory to a stream.

    A beat is offered in the cycle after the bus brought it; the bus sees registers only.

    Parameters
    ----------
    addr_bits, data_bits, id_bits : int
        Widths of the bus.
    max_outstanding : int
        Bursts in flight, 1 to 16.

    Members
    -------
    command : In(stream of command_layout)
        What to read.
    data : Out(stream of unsigned(data_bits))
        The beats, those with an error response included.
    axi : Out(Axi3Signature)
        The bus; the write channels stay idle.
    flush : In(1)
        Abandon everything: commands and beats on offer are swallowed from this cycle until
        ``idle``; a beat may be offered to the client, and a burst to the bus, in this cycle for the
        last time. One cycle is enough; held, it keeps swallowing.
    idle : Out(1)
        No command in hand, nothing outstanding, no flush going on. Falls in the cycle after a
        command was accepted.
    error : Out(1)
        Pulse: a beat with a response other than OKAY is taken; a cycle later, a misaligned command.
    beat : Out(1)
        Pulse for each beat that came over the bus.

    Latency: three cycles from a command to its first burst on the bus.

    Throughput: long commands go at one beat per cycle when the memory takes at most
    ``16 * (max_outstanding - 1) - 3`` cycles from AR to R.

    Raises
    ------
    ValueError
        For a width or ``max_outstanding`` out of range.
    """

    def __init__(
        self,
        *,
        addr_bits: int = 32,
        data_bits: int = 64,
        id_bits: int = 6,
        max_outstanding: int = 8,
    ) -> None:
        super().__init__(
            addr_bits=addr_bits,
            data_bits=data_bits,
            id_bits=id_bits,
            max_outstanding=max_outstanding,
            data_member=Out(stream.Signature(unsigned(data_bits))),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        retire = Signal()
        issue = self._address_channel(m, "ar", retire)
        swallow = issue.swallow
        # A flush empties the queue, and keeps out what comes.
        answer = data.StructLayout({"data": self._data_bits, "error": 1})
        m.submodules.answers = answers = ResetInserter(swallow)(Queue(answer))
        m.d.comb += [
            answers.i.valid.eq(axi.rvalid),
            answers.i.p.data.eq(axi.rdata),
            answers.i.p.error.eq(axi.rresp != Resp.OKAY),
            axi.rready.eq(answers.i.ready | swallow),
            self.beat.eq(axi.rvalid & axi.rready),
            retire.eq(self.beat & axi.rlast),
            self.data.payload.eq(answers.o.p.data),
            self.data.valid.eq(answers.o.valid),
            answers.o.ready.eq(self.data.ready),
            self.error.eq(
                (answers.o.valid & self.data.ready & answers.o.p.error) | issue.splitter.rejected
            ),
        ]
        return m


class WriteDma(_Dma):
    """DMA engine from a stream to memory. Data never waits for the address to be accepted.

    Parameters
    ----------
    addr_bits, data_bits, id_bits : int
        Widths of the bus.
    max_outstanding : int
        Bursts in flight, 1 to 16.

    Members
    -------
    command : In(stream of command_layout)
        What to write.
    data : In(stream of unsigned(data_bits))
        The beats.
    axi : Out(Axi3Signature)
        The bus; the read channels stay idle.
    flush : In(1)
        Abandon everything: commands and beats on offer are swallowed from this cycle until
        ``idle``, and beats owed to announced bursts are sent with ``wstrb`` zero; a burst may be
        offered to the bus in this cycle for the last time. One cycle is enough; held, it keeps
        swallowing.
    idle : Out(1)
        No command in hand, the last response arrived, no flush going on. Falls in the cycle after a
        command was accepted.
    error : Out(1)
        Pulse, a cycle later: a response other than OKAY, or a misaligned command.
    beat : Out(1)
        Pulse for each beat that went over the bus.

    Latency: three cycles from a command to its first burst on the bus.

    Throughput: long commands go at one beat per cycle when the memory takes at most
    ``16 * (max_outstanding - 1) - 3`` cycles from the last W to B.

    Raises
    ------
    ValueError
        For a width or ``max_outstanding`` out of range.
    """

    def __init__(
        self,
        *,
        addr_bits: int = 32,
        data_bits: int = 64,
        id_bits: int = 6,
        max_outstanding: int = 8,
    ) -> None:
        super().__init__(
            addr_bits=addr_bits,
            data_bits=data_bits,
            id_bits=id_bits,
            max_outstanding=max_outstanding,
            data_member=In(stream.Signature(unsigned(data_bits))),
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        retire = Signal()
        issue = self._address_channel(m, "aw", retire)
        swallow = issue.swallow

        # Lengths of the bursts whose data is still owed; as deep as there can be bursts.
        m.submodules.owed = owed = Queue(4, depth=max(2, self._max_outstanding))
        position = Signal(4)
        refused = Signal()
        last = Signal()
        free = Signal()
        load = Signal()
        word, strobes = (Signal(len(s), reset_less=True) for s in (axi.wdata, axi.wstrb))
        ends = Signal(reset_less=True)
        m.d.comb += [axi.wdata.eq(word), axi.wstrb.eq(strobes), axi.wlast.eq(ends)]
        m.d.comb += [
            owed.i.payload.eq(issue.splitter.burst.p.length),
            owed.i.valid.eq(issue.taken),
            last.eq(position == owed.o.payload),
            free.eq((~axi.wvalid | axi.wready) & owed.o.valid),
            load.eq(free & (self.data.valid | swallow)),
            owed.o.ready.eq(load & last),
            self.data.ready.eq(free | swallow),
            axi.bready.eq(1),
            retire.eq(axi.bvalid),
            self.beat.eq(axi.wvalid & axi.wready),
            self.error.eq(refused | issue.splitter.rejected),
        ]
        m.d.sync += refused.eq(axi.bvalid & (axi.bresp != Resp.OKAY))
        with m.If(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        with m.If(load):
            m.d.sync += [
                axi.wvalid.eq(1),
                word.eq(self.data.payload),
                strobes.eq(Mux(swallow, 0, ~0)),
                ends.eq(last),
                position.eq(Mux(last, 0, position + 1)),
            ]
        return m
