# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Components whose streams are proved, each with what its neighbours promise."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring

from gateware.arch import isa
from gateware.rtl.axi_bridge import Axi3ToLite
from gateware.rtl.bursts import BurstSplitter
from gateware.rtl.dma import ReadDma, WriteDma
from gateware.rtl.fetch import Fetcher
from gateware.rtl.loader import Loader, Receiver
from gateware.rtl.queue import Queue
from gateware.rtl.read_share import ReadShare
from gateware.rtl.register_file import RegisterFile
from gateware.rtl.release import ReleaseQueue
from gateware.rtl.storer import Storer, WordReader
from gateware.soc.serial import SerialBridge
from sim.formal.contracts import Known, prove_sources, reach_sources
from sim.formal.designs import CONFIG


def anything(m: Module, dut: Any) -> Value:
    """No promise."""
    return Const(1)


def _starts_once(m: Module, dut: Any) -> Value:
    """The sequencer resets its units between two starts."""
    started = Signal()
    m.d.sync += started.eq(started | dut.start)
    return ~(dut.start & started)


def _answers_what_was_asked(m: Module, dut: Any) -> Value:
    """Registers answer after address and data were taken."""
    axil = dut.axil
    address, data, read = Signal(), Signal(), Signal()
    for taken, valid, ready, answer in (
        (address, axil.awvalid, axil.awready, axil.bvalid & axil.bready),
        (data, axil.wvalid, axil.wready, axil.bvalid & axil.bready),
        (read, axil.arvalid, axil.arready, axil.rvalid & axil.rready),
    ):
        m.d.sync += taken.eq((taken | (valid & ready)) & ~answer)
    return (~axil.bvalid | (address & data)) & (~axil.rvalid | read)


def counts_only_grow(m: Module, dut: Any) -> Value:
    """Promise that what a descriptor at the head no longer waits for it never waits for again."""
    known = Const(1)
    stays = Signal()
    m.d.sync += stays.eq(dut.present & ~(dut.o.valid & dut.o.ready))
    header = data.View(isa.HEADER, Value.cast(dut.o.payload)[: isa.HEADER.size])
    for name in isa.QUEUES:
        missing = Signal(signed(isa.COUNT_BITS), name=f"missing_{name}")
        complete = Signal(name=f"complete_{name}")
        m.d.comb += missing.eq(dut.done[name] - header[f"wait_{name}"])
        m.d.sync += complete.eq(missing >= 0)
        known &= ~(stays & complete & (missing < 0))
    return known


def _tensor_is_stable(m: Module, dut: Any) -> Value:
    """A store begins when the one before is over, and says the same until then.

    When it is over, no word of it waits: that is known of the queues that are left out here.
    """
    at_rest, job = Signal(init=1), Signal(len(dut.tensor.as_value()) + 1)
    given = Cat(dut.tensor, dut.wide)
    over = dut.over & ~dut.gather.valid & ~dut.beats.valid
    m.d.sync += [at_rest.eq(over & ~dut.start), job.eq(given)]
    return at_rest | (~dut.start & (job == given))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Component of a proof.

    make : without arguments
    excused : its member that is high while it may take back what it offers
    known : what its neighbours promise beside their streams' contract
    fair : they keep that contract
    idle : streams on which it never offers anything
    """

    make: Callable[[], wiring.Component]
    excused: str = ""
    known: Known = anything
    fair: bool = True
    idle: tuple[str, ...] = ()

    def prove(self, folder: Path) -> None:
        """Proof of the contract, and that it is not an empty one. Raises ProofFailed."""
        about = {"excused": self.excused, "known": self.known, "fair": self.fair}
        reach_sources(self.make(), folder=folder, idle=self.idle, **about)
        prove_sources(self.make(), folder=folder, **about)


CASES = {
    "Queue": Case(make=lambda: Queue(4, depth=3), fair=False),
    "ReleaseQueue": Case(make=lambda: ReleaseQueue(isa.HEADER), known=counts_only_grow, fair=False),
    "BurstSplitter": Case(make=lambda: BurstSplitter(addr_bits=32, data_bits=64), excused="flush"),
    "ReadDma": Case(make=ReadDma, excused="flush", idle=("axi.aw", "axi.w")),
    "WriteDma": Case(make=WriteDma, excused="flush", idle=("axi.ar",)),
    "ReadShare": Case(make=lambda: ReadShare(32, depth=2)),
    "Fetcher": Case(make=lambda: Fetcher(CONFIG), known=_starts_once),
    "Receiver": Case(make=lambda: Receiver(CONFIG)),
    "Loader": Case(make=lambda: Loader(CONFIG)),
    "WordReader": Case(make=lambda: WordReader(CONFIG), known=_tensor_is_stable),
    "Storer": Case(make=lambda: Storer(CONFIG)),
    "RegisterFile": Case(make=lambda: RegisterFile(CONFIG)),
    "Axi3ToLite": Case(make=Axi3ToLite),
    "SerialBridge": Case(
        make=lambda: SerialBridge(addr_bits=12, memory_bytes=4096, silence_cycles=16),
        known=_answers_what_was_asked,
    ),
}
#: Units that offer streams and are simulated with their monitors instead.
SIMULATED = {
    "BlockMemory": "its 4096 bytes and more are too many registers",
    "UartReceiver": "a line cannot wait: a byte that nobody takes is overwritten by the next",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueueCase:
    """Register slice or queue of a proof.

    make : without arguments
    depth : words that it may hold
    latency : cycles that it may be late to offer a word, or to take one
    """

    make: Callable[[], wiring.Component]
    depth: int
    latency: int = 0


QUEUES = {
    f"Queue of {depth}": QueueCase(make=lambda depth=depth: Queue(2, depth=depth), depth=depth)
    for depth in (2, 3, 4, 8)
}
