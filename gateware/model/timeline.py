# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Timeline of a program: when each descriptor begins and ends, queues as arithmetic.

A model of :mod:`gateware.rtl.control`, :mod:`gateware.rtl.fetch`, :mod:`gateware.rtl.loader`,
:mod:`gateware.rtl.storer` and :mod:`gateware.rtl.sequence` descriptor by descriptor, not cycle by
cycle, with a memory of constant latency. ``sim/test_accelerator.py`` holds it against RTL
simulation.
"""

import dataclasses
import math

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import DESCRIPTOR_BITS, FETCH_AHEAD, FETCH_GROUP, QUEUES, Opcode
from gateware.rtl.array import GemmArray
from gateware.rtl.drain import Drain
from gateware.rtl.loader import LOADS_IN_FLIGHT
from gateware.rtl.release import QUEUE_DEPTH
from gateware.rtl.sequence import TileLoop
from gateware.rtl.window import Window

READ_LATENCY = 40  #: cycles from a read address to its first beat, as the DDR model has it
WRITE_LATENCY = 20  #: cycles from the last beat written to the response, likewise
_COMMAND_CYCLES = 6  #: from a DMA command to its address on the bus, and from data to use
_ORDER_CYCLES = 3  #: from a load's begin to its DMA command
_LOAD_CYCLES = 5  #: between two loads' begins
_DECODE_CYCLES = 2  #: from a descriptor's last beat to its dispatch
_RELEASE_CYCLES = 3  #: from a descriptor's dispatch to its begin, and from a completion to it
_DISPATCH_CYCLES = 4  #: from an execute's last word to the setup of the next
_STORE_CYCLES = 14  #: from a store's begin to its first beat, and from the answer to its end
_END_CYCLES = 6  #: from the last completion to the end of the run


@dataclasses.dataclass(frozen=True)
class Span:
    """Span of a descriptor from its begin to its completion, in cycles from the start of the run.

    reason : for an EXECUTE what it waited for last: a queue's name, or ``""``
    words : likewise, cycles in which words enter the array, from ``begin`` on
    drain : likewise, cycles between them in which sums wait for the drain
    """

    begin: int
    end: int
    reason: str = ""
    words: int = dataclasses.field(default=0, kw_only=True)
    drain: int = dataclasses.field(default=0, kw_only=True)


class Timeline:
    """Spans of the descriptors of a program, in its order.

    Parameters
    ----------
    config : AccelConfig
    image : bytes
        Of the program.
    beats_per_cycle : float
        What the memory gives to all ports together; by default a beat to each.
    read_latency : int
        Cycles from a read address to its first beat.
    """

    def __init__(
        self,
        config: AccelConfig,
        image: bytes,
        beats_per_cycle: float | None = None,
        read_latency: int = READ_LATENCY,
    ) -> None:
        self._config = config
        self._rate = min(config.ports, beats_per_cycle or config.ports)
        self._latency = read_latency + _COMMAND_CYCLES
        array = GemmArray.latency_for(config)
        drain = Drain.latency_for(config) - Drain.sums_after + 6
        self._pipeline = TileLoop.latency + Window.latency + array + drain
        #: From an EXECUTE's last word to the first one of the next, at least.
        self.dispatch = _DISPATCH_CYCLES + TileLoop.setup_for(config)
        self._ends: dict[str, list[int]] = {queue: [0] for queue in QUEUES}
        self._begins: dict[str, list[int]] = {queue: [] for queue in QUEUES}
        self._dispatched: list[int] = []
        self._groups: list[float] = []  # when the data of each group of descriptors begins
        # When all data ordered so far has come: on the first port, and on the others.
        self._first_port = self._other_ports = 0.0
        self._last_word = self._last_drain = 0
        self._words = self._drain = 0  # of the last EXECUTE
        self.spans: list[Span] = []
        for index, descriptor in enumerate(isa.descriptors(image)):
            if descriptor.opcode is not Opcode.END:
                self.spans.append(self._descriptor(index, descriptor))

    @property
    def cycles(self) -> int:
        """Cycles of the whole run, estimated."""
        return max(span.end for span in self.spans) + _END_CYCLES

    @property
    def last_result(self) -> int:
        """When the last result of the array is written."""
        return self._ends["executes"][-1]

    def _order_fetches(self) -> None:
        """Order the groups of descriptors that there is room for, in front of loads to come."""
        beats = DESCRIPTOR_BITS // self._config.bus_bits
        while True:
            # A group is ordered when there is room for it: some descriptors before have left.
            opener = (len(self._groups) + 1) * FETCH_GROUP - (FETCH_AHEAD - 2) - 1
            if opener >= len(self._dispatched):
                return
            ordered = self._dispatched[opener] if opener >= 0 else 0
            first = max(ordered + self._latency, self._first_port)
            self._groups.append(first)
            self._first_port = first + beats * FETCH_GROUP

    def _fetch(self, index: int) -> float:
        """When descriptor ``index`` can be dispatched."""
        beats = DESCRIPTOR_BITS // self._config.bus_bits
        return (
            self._groups[index // FETCH_GROUP] + beats * (index % FETCH_GROUP + 1) + _DECODE_CYCLES
        )

    def _descriptor(self, index: int, descriptor: isa.Descriptor) -> Span:
        self._order_fetches()
        queue = descriptor.queue
        begins, ends = self._begins[queue], self._ends[queue]
        room = begins[-QUEUE_DEPTH] if len(begins) >= QUEUE_DEPTH else 0
        apart = DESCRIPTOR_BITS // self._config.bus_bits + _DECODE_CYCLES
        at = math.ceil(
            max(self._fetch(index), room, self._dispatched[-1] + apart if self._dispatched else 0)
        )
        self._dispatched.append(at)
        ready = {other: self._completion(other, count) for other, count in descriptor.waits.items()}
        reason = max(ready, key=lambda other: ready[other])
        if ready[reason] <= at:
            reason = ""
        released = max(at, *ready.values()) + _RELEASE_CYCLES
        model = {"loads": self._load, "executes": self._execute, "stores": self._store}[queue]
        begin, end = model(released, descriptor.fields, descriptor.opcode)
        begins.append(begin)
        ends.append(max(end, ends[-1]))
        span = Span(begin, ends[-1], reason if begin == released else "")
        if queue != "executes":
            return span
        return dataclasses.replace(span, words=self._words, drain=self._drain)

    def _completion(self, queue: str, count: int) -> int:
        ends = self._ends[queue]
        behind = (len(ends) - 1 - count) % (1 << isa.COUNT_BITS)
        return ends[len(ends) - 1 - behind]

    def _load(self, released: int, fields: dict[str, int], opcode: Opcode) -> tuple[int, int]:
        begins, ends = self._begins["loads"], self._ends["loads"]
        begin = max(released, begins[-1] + _LOAD_CYCLES if begins else 0)
        if len(ends) > LOADS_IN_FLIGHT + 1:
            begin = max(begin, ends[-LOADS_IN_FLIGHT - 1])
        whole = opcode not in (Opcode.LOAD_TENSOR, Opcode.LOAD_TABLE)
        # Ports that share less than a beat each take longer for theirs.
        share = min(1.0, self._rate / (self._config.ports if whole else 1))
        cycles, arrival = fields["beats"] / share, begin + _ORDER_CYCLES + self._latency
        self._first_port = end = max(arrival, self._first_port + 2) + cycles
        if whole:
            self._other_ports = max(arrival, self._other_ports + 2) + cycles
            end = max(end, self._other_ports)
        return begin, math.ceil(end) + 3

    def _execute(self, released: int, f: dict[str, int], opcode: Opcode) -> tuple[int, int]:
        config = self._config
        row_groups = math.ceil(f["out_width"] / config.pixels)
        words = f["kernel_y"] * f["kernel_x"] * f["groups"] * (f["planes"] + 1)
        phases = (
            config.requant_lanes
            if f["wide"]
            else 2
            if f["out_planes"] or (f["residual"] and f["residual_planes"])
            else 1
        )
        raw = bool(f["wide"])
        # For the turn of the first pixel.
        waits = config.drain_interleave == 2 and not raw and f.get("broadcast", 0)
        last = f["out_width"] - (row_groups - 1) * config.pixels
        full = f["slots"] * phases * config.drain_turns(config.pixels, raw=raw) + waits
        partial = f["slots"] * phases * config.drain_turns(last, raw=raw) + waits
        row = (row_groups - 1) * max(words, full)  # from a row's first last word to its last
        begin = max(released, self._last_word + self.dispatch)
        first = max(begin + words, self._last_word + self._last_drain)
        self._last_word = first + row + (f["out_height"] - 1) * (row + max(words, partial))
        self._last_drain = partial
        self._words = words * row_groups * f["out_height"]
        self._drain = self._last_word - begin - self._words
        return begin, self._last_word + partial + self._pipeline

    def _store(self, released: int, fields: dict[str, int], opcode: Opcode) -> tuple[int, int]:
        begin = max(released, self._ends["stores"][-1])
        return begin, begin + fields["beats"] + WRITE_LATENCY + _STORE_CYCLES
