# SPDX-License-Identifier: Apache-2.0
"""Top level for an ECP5: an accelerator, block RAM as its memory, a serial line as its host."""

from amaranth import *
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.vendor import LatticeECP5Platform

from boards.board import Board
from gateware.arch.results import DoesNotFit
from gateware.soc.pll import Pll
from gateware.soc.serial import REGISTER_BASE
from gateware.soc.serial_system import SILENCE_CYCLES, SerialSystem

BAUD = 1_000_000


def connection(memory_bytes: int, clock_hz: int) -> dict[str, object]:
    """Connection entry of the manifest: how a driver reaches an accelerator in :class:`Ecp5Top`."""
    return {
        "kind": "serial",
        "register_base": REGISTER_BASE,
        "memory_bytes": memory_bytes,
        "baud": BAUD,
        "silence_seconds": 2 * SILENCE_CYCLES / clock_hz,
    }


def baud_divisor(clock_hz: int) -> int:
    """Clock cycles per bit. Raises ValueError where none comes within 2 % of BAUD."""
    divisor = round(clock_hz / BAUD)
    if divisor < 4 or abs(clock_hz / divisor / BAUD - 1) > 0.02:
        raise ValueError(
            f"a clock of {clock_hz / 1e6:g} MHz gives no serial line of {BAUD} baud; ask for "
            f"another clock"
        )
    return divisor


def check_clock(board: Board, clock_hz: int) -> None:
    """Check of a clock: ValueError where the serial line or the PLL of ``board`` cannot have it."""
    baud_divisor(clock_hz)
    Pll.solve(round(board.platform().default_clk_frequency), clock_hz)


class Ecp5Top(Elaboratable):
    """Top level, a :class:`SerialSystem` on the pins of a board: clock, line, lights if any.

    Owns the ``sync`` domain, which runs on a PLL and is in reset until that has locked.

    Parameters
    ----------
    accelerator : Component
        As for :class:`SerialSystem`.
    clock_hz : int
    memory_bytes : int

    Raises
    ------
    ValueError
        For a clock that the serial line's speed does not divide well enough (2 %); on elaboration
        for one that the PLL cannot make, and what SerialSystem refuses.
    TypeError
        On elaboration for another platform than an ECP5's.
    """

    def __init__(self, accelerator: wiring.Component, *, clock_hz: int, memory_bytes: int) -> None:
        self._divisor = baud_divisor(clock_hz)
        self._accelerator, self._memory_bytes = accelerator, memory_bytes
        self._clock_hz = clock_hz

    def elaborate(self, platform: object) -> Module:
        if not isinstance(platform, LatticeECP5Platform):
            raise TypeError(f"Ecp5Top needs the platform of an ECP5 board, not {platform!r}")
        m = Module()
        m.submodules.system = system = SerialSystem(
            self._accelerator, memory_bytes=self._memory_bytes, divisor=self._divisor
        )
        self._elaborate_clock(m, platform)

        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.d.comb += [system.rx.eq(rx.i), tx.o.eq(system.tx)]

        light = Signal(24)  # makes a burst long enough to see
        with m.If(system.activity):
            m.d.sync += light.eq(~0)
        with m.Elif(light != 0):
            m.d.sync += light.eq(light - 1)
        for index, (name, value) in enumerate((("activity", light != 0), ("irq", system.irq))):
            pin = _light(platform, index)
            if pin is not None:
                m.submodules[name] = buffer = io.Buffer("o", pin)
                m.d.comb += buffer.o.eq(value)
        return m

    def _elaborate_clock(self, m: Module, platform: LatticeECP5Platform) -> None:
        m.domains.sync = sync = ClockDomain()
        pll = Pll.solve(round(platform.default_clk_frequency), self._clock_hz)
        m.submodules.clock = pin = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        locked = Signal()
        m.submodules.pll = pll.instance(pin.i, sync.clk, locked)
        m.submodules.reset = ResetSynchronizer(~locked, domain="sync")
        platform.add_clock_constraint(sync.clk, self._clock_hz)


def _light(platform: LatticeECP5Platform, index: int) -> io.PortLike | None:
    """Light ``index`` of the board: a LED, or the green one of a coloured LED."""
    if ("led", index) in platform.resources:
        return platform.request("led", index, dir="-")
    if ("rgb_led", index) in platform.resources:
        return platform.request("rgb_led", index, dir="-").g
    return None


def memory_bytes(board: Board, used_ebr: int, needed: int) -> int:
    """Bytes of block RAM for ``needed`` ones: the smallest power of two, at least 4096.

    Raises DoesNotFit when it takes more block RAM than the accelerator's ``used_ebr`` leave.
    """
    size = max(4096, 1 << (needed - 1).bit_length())
    free = (board.device.limits["ebr"] - used_ebr) * 2048
    if size > free:
        raise DoesNotFit(
            f"program, image and result need {size} bytes of block RAM, {board.title} has {free} "
            f"beside the accelerator; take a smaller network or array"
        )
    return size
