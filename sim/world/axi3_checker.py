# SPDX-License-Identifier: Apache-2.0
"""Protocol checker of an AXI3 port: beside every port of the accelerator in every simulation of it.

It watches master and slave, in Verilog and in Amaranth's simulator alike, and may say in which
windows of the memory the master has any business.
"""

import dataclasses
import enum
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.arch.config import AccelConfig
from gateware.rtl.axi import BOUNDARY, Axi3Signature, Burst
from gateware.rtl.top import accelerator_signature, hp_ports


class Rule(enum.IntEnum):
    """Rules; the first three channels are the master's, R and B the slave's."""

    NONE = 0
    UNSTABLE = 1  #: valid falls, or the payload changes, before ready; of any channel
    BOUNDARY = 2  #: a burst crosses a multiple of 4 KiB
    KIND = 3  #: a burst that is not INCR, or a locked or exclusive access
    SIZE = 4  #: beats that are not as wide as the bus
    ALIGNMENT = 5  #: an address that is not a multiple of the bus width
    LAST = 6  #: wlast or rlast with a beat that is not the last, or missing
    ID = 7  #: an id other than 0, of which bursts are answered in order
    OUTSTANDING = 8  #: more unanswered bursts of a direction than the slave takes
    UNASKED = 9  #: a beat or a response of a burst that there is not
    GUARD = 10  #: a burst outside the windows, or a write where only reads are due


#: Window of the memory: bytes ``first`` to ``bound`` (exclusive), and whether writes may go there.
Window = data.StructLayout({"first": 32, "bound": 33, "writable": 1})
MASTER, SLAVE = ("ar", "aw", "w"), ("r", "b")
PAYLOADS = {
    "ar": ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos"),
    "aw": ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos"),
    "w": ("id", "data", "strb", "last"),
    "r": ("id", "data", "resp", "last"),
    "b": ("id", "resp"),
}
DEPTH = 16  #: bursts that are kept in mind, more than any limit


def window_bits(*windows: tuple[int, int, bool]) -> int:
    """Value of :class:`Axi3Checker`'s ``windows`` from first byte, size and whether it is written,
    one after the other."""
    return sum(
        Window.const({"first": first, "bound": first + size, "writable": written}).as_value().value
        << index * Window.size
        for index, (first, size, written) in enumerate(windows)
    )


@dataclasses.dataclass(frozen=True)
class _Lengths:
    """Lengths of the bursts whose beats are due, in order."""

    oldest: Value
    known: Value  # there is one


class Axi3Checker(wiring.Component):
    """Checker of a port, whose members are all inputs.

    Parameters
    ----------
    axi : Axi3Signature
    outstanding : int
        Bursts of each direction that may be unanswered, at most 16; a Zynq-7000 takes 8.
    windows : int
        Windows of the memory that the port may use; 0 for all of it.

    Members
    -------
    axi : In of every member of the port
    windows : In(array of Window)
        Only with ``windows``.
    violation : Out(Rule)
        The first rule that was broken, a cycle later; it stays.
    """

    axi: Any
    windows: Any
    violation: Signal

    def __init__(self, axi: Axi3Signature, *, outstanding: int = 8, windows: int = 0) -> None:
        if not 1 <= outstanding <= DEPTH:
            raise ValueError(f"outstanding must be in 1..{DEPTH}, not {outstanding}")
        self._axi, self._outstanding, self._windows = axi, outstanding, windows
        watched = wiring.Signature({name: In(member.shape) for name, member in axi.members.items()})
        super().__init__(
            {
                "axi": Out(watched.flip()),
                "violation": Out(Rule),
                **({"windows": In(data.ArrayLayout(Window, windows))} if windows else {}),
            }
        )

    def watch(self, m: Module, axi: Any) -> None:
        """Connections to every member of the port ``axi``."""
        m.d.comb += [getattr(self.axi, name).eq(getattr(axi, name)) for name in self._axi.members]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        go = {c: self._port(c, "valid") & self._port(c, "ready") for c in (*MASTER, *SLAVE)}
        broken = {rule: [] for rule in Rule}
        for channel in PAYLOADS:
            broken[Rule.UNSTABLE].append(self._unstable(m, channel))
            if channel in MASTER or channel in SLAVE:
                broken[Rule.ID].append(go[channel] & (self._port(channel, "id") != 0))
        for channel in ("ar", "aw"):
            self._check_address(channel, go[channel], broken)
        self._check_reads(m, go, broken)
        self._check_writes(m, go, broken)
        with m.If(self.violation == Rule.NONE):
            for rule in reversed(Rule):
                if broken[rule]:
                    with m.If(Cat(broken[rule]).any()):
                        m.d.sync += self.violation.eq(rule)
        return m

    def _port(self, channel: str, name: str) -> Signal:
        return getattr(self.axi, channel + name)

    def _unstable(self, m: Module, channel: str) -> Value:
        word = Cat(self._port(channel, name) for name in PAYLOADS[channel])
        valid, ready = self._port(channel, "valid"), self._port(channel, "ready")
        before = Signal(len(word), name=f"{channel}_before")
        waits = Signal(name=f"{channel}_waits")
        m.d.sync += [before.eq(word), waits.eq(valid & ~ready)]
        return waits & (~valid | (word != before))

    def _check_address(self, channel: str, go: Value, broken: dict[Rule, list[Value]]) -> None:
        """Rules of one burst."""
        address, length = self._port(channel, "addr"), self._port(channel, "len")
        offset = (self._axi.data_bits // 8).bit_length() - 1
        size = (length + 1) << offset
        first = address[: BOUNDARY.bit_length() - 1]
        broken[Rule.BOUNDARY].append(go & (first + size > BOUNDARY))
        wrong = (self._port(channel, "burst") != Burst.INCR) | (self._port(channel, "lock") != 0)
        broken[Rule.KIND].append(go & wrong)
        broken[Rule.SIZE].append(go & (self._port(channel, "size") != offset))
        broken[Rule.ALIGNMENT].append(go & (address[:offset] != 0))
        if self._windows:
            inside = (
                (address >= window.first)
                & (address + size <= window.bound)
                & (window.writable if channel == "aw" else 1)
                for window in (self.windows[n] for n in range(self._windows))
            )
            broken[Rule.GUARD].append(go & ~Cat(inside).any())

    @staticmethod
    def _lengths(m: Module, name: str, enter: Value, length: Value, leave: Value) -> _Lengths:
        kept = Array(Signal(4, name=f"{name}_length_{n}") for n in range(DEPTH))
        first, last = (Signal(range(DEPTH), name=f"{name}_{end}") for end in ("first", "last"))
        count = Signal(range(DEPTH + 1), name=f"{name}_count")
        m.d.sync += count.eq(count + enter - leave)
        with m.If(enter):
            m.d.sync += [kept[last].eq(length), last.eq(last + 1)]
        with m.If(leave):
            m.d.sync += first.eq(first + 1)
        # The address may come with the first beat.
        return _Lengths(Mux(count == 0, length, kept[first]), (count != 0) | enter)

    def _check_reads(
        self, m: Module, go: dict[str, Value], broken: dict[Rule, list[Value]]
    ) -> None:
        """Beats of read bursts, and how many of these are due."""
        position, ends, beat = Signal(4), Signal(), Signal()
        m.d.comb += beat.eq(go["r"])
        due = self._lengths(m, "read", go["ar"], self.axi.arlen, ends)
        # An answer cannot come in the cycle of its question.
        m.d.comb += ends.eq(beat & due.known & (position == due.oldest))
        with m.If(beat):
            m.d.sync += position.eq(Mux(ends, 0, position + 1))
        broken[Rule.UNASKED].append(beat & ~due.known)
        broken[Rule.LAST].append(beat & due.known & (self.axi.rlast != ends))
        broken[Rule.OUTSTANDING].append(self._too_many(m, "reads", go["ar"], ends))

    def _check_writes(
        self, m: Module, go: dict[str, Value], broken: dict[Rule, list[Value]]
    ) -> None:
        """Beats of write bursts, which may go before their address is accepted, and responses."""
        position, ends, waits = Signal(4), Signal(), Signal()
        m.d.sync += waits.eq(self.axi.awvalid & ~self.axi.awready)
        offered = self.axi.awvalid & ~waits
        due = self._lengths(m, "write", offered, self.axi.awlen, ends)
        m.d.comb += ends.eq(go["w"] & due.known & (position == due.oldest))
        with m.If(go["w"]):
            m.d.sync += position.eq(Mux(ends, 0, position + 1))
        broken[Rule.LAST].append(go["w"] & due.known & (self.axi.wlast != ends))
        broken[Rule.OUTSTANDING].append(self._too_many(m, "writes", go["aw"], go["b"]))
        # A response is due when address and data are there.
        addresses, finished = Signal(range(2 * DEPTH)), Signal(range(2 * DEPTH))
        m.d.sync += [
            addresses.eq(addresses + go["aw"] - go["b"]),
            finished.eq(finished + ends - go["b"]),
        ]
        broken[Rule.UNASKED] += [
            go["w"] & ~due.known,
            go["b"] & ((addresses == 0) | (finished == 0)),
        ]

    def _too_many(self, m: Module, name: str, asks: Value, answers: Value) -> Value:
        open_ = Signal(range(2 * DEPTH), name=f"open_{name}")
        m.d.sync += open_.eq(open_ + asks - answers)
        return asks & (open_ >= self._outstanding)


class CheckedAccelerator(wiring.Component):
    """Accelerator with a checker at each of its memory ports.

    Parameters
    ----------
    accelerator : Component
        With the members of :func:`gateware.rtl.top.accelerator_signature` of its ``config``.
    windows : int
        See :class:`Axi3Checker`.

    Members
    -------
    those of ``accelerator``
    windows : In(array of Window)
        Only with ``windows``.
    violation : Out(Rule)
        The first rule that was broken at any port.
    """

    axil: Any
    irq: Signal
    windows: Any
    violation: Signal

    def __init__(self, accelerator: Any, config: AccelConfig, *, windows: int = 0) -> None:
        self.config, self._accelerator, self._windows = config, accelerator, windows
        super().__init__(
            {
                **accelerator_signature(config).members,
                "violation": Out(Rule),
                **({"windows": In(data.ArrayLayout(Window, windows))} if windows else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.accelerator = accelerator = self._accelerator
        wiring.connect(m, wiring.flipped(self.axil), accelerator.axil)
        m.d.comb += self.irq.eq(accelerator.irq)
        for name in hp_ports(self.config):
            port = getattr(accelerator, name)
            wiring.connect(m, port, wiring.flipped(getattr(self, name)))
            checker = Axi3Checker(port.signature, windows=self._windows)
            m.submodules[f"checker_{name}"] = checker
            checker.watch(m, port)
            if self._windows:
                m.d.comb += checker.windows.eq(self.windows)
            with m.If(checker.violation != Rule.NONE):
                m.d.comb += self.violation.eq(checker.violation)
        return m
