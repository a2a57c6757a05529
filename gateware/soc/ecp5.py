# SPDX-License-Identifier: Apache-2.0
"""Top level for an ECP5: an accelerator, block RAM as its memory, a serial line as its host."""

import dataclasses
import math

from amaranth import *
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In, Out, connect
from amaranth.vendor import LatticeECP5Platform

from boards.board import Board
from gateware.arch.results import DoesNotFit
from gateware.soc.memory import BlockMemory
from gateware.soc.serial import REGISTER_BASE, SerialBridge
from gateware.soc.uart import UartReceiver, UartTransmitter

BUS_BITS = 32  #: a word of the serial protocol is a beat of the bus
BAUD = 1_000_000
SILENCE_CYCLES = 1 << 20


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
    """Raises ValueError for a clock that serial line or PLL of ``board`` cannot have."""
    baud_divisor(clock_hz)
    Pll.solve(round(board.platform().default_clk_frequency), clock_hz)


class SerialSystem(wiring.Component):
    """System of accelerator, memory and serial bridge: everything but pins and clock.

    Parameters
    ----------
    accelerator : Component
        With members ``axil : In(AxiLiteSignature(n, 32))``, ``hp0 : Out(Axi3Signature(32, 32,
        n))`` and ``irq : Out(1)``.
    memory_bytes : int
        Size of the block RAM, a power of two.
    divisor : int
        Clock cycles per bit of the serial line.
    silence_cycles : int
        See :class:`~gateware.soc.serial.SerialBridge`.

    Members
    -------
    rx : In(1), tx : Out(1)
        The line.
    activity : Out(1)
        The accelerator reads or writes memory.
    irq : Out(1)
        A run has ended and its interrupt was not cleared.

    Raises
    ------
    ValueError
        For a memory port of other than 32 bits.
    """

    def __init__(
        self,
        accelerator: wiring.Component,
        *,
        memory_bytes: int,
        divisor: int,
        silence_cycles: int = SILENCE_CYCLES,
    ) -> None:
        if len(accelerator.hp0.rdata) != BUS_BITS:
            raise ValueError(f"hp0 must be {BUS_BITS} bits wide, not {len(accelerator.hp0.rdata)}")
        self._accelerator, self._divisor = accelerator, divisor
        self._memory_bytes, self._silence_cycles = memory_bytes, silence_cycles
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1, init=1), "activity": Out(1), "irq": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        accelerator = self._accelerator
        memory = BlockMemory(self._memory_bytes, accelerator.hp0.signature)
        m.submodules.bridge = bridge = SerialBridge(
            addr_bits=len(accelerator.axil.araddr),
            memory_bytes=self._memory_bytes,
            silence_cycles=self._silence_cycles,
        )
        # Bridge and line outlive the reset that the host asks for.
        reset = ResetInserter(bridge.reset)
        m.submodules.accelerator = reset(accelerator)
        m.submodules.memory = reset(memory)
        m.submodules.receiver = receiver = UartReceiver(self._divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self._divisor)
        connect(m, receiver.o, bridge.i)
        connect(m, bridge.o, transmitter.i)
        connect(m, bridge.access, memory.access)
        connect(m, memory.answer, bridge.answer)
        connect(m, bridge.axil, accelerator.axil)
        connect(m, accelerator.hp0, memory.axi)
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            self.irq.eq(accelerator.irq),
            self.activity.eq(accelerator.hp0.arvalid | accelerator.hp0.awvalid),
        ]
        return m


@dataclasses.dataclass(frozen=True)
class Pll:
    """Dividers of an EHXPLLL: ``output = input / refclk * feedback``, the VCO ``post`` times that.

    Limits of the ECP5 (FPGA-DS-02012, table 3.25): VCO 400 to 800 MHz, phase detector 3.125 to
    400 MHz.
    """

    refclk: int
    feedback: int
    post: int

    @classmethod
    def solve(cls, source_hz: int, target_hz: int) -> "Pll":
        """Dividers for exactly ``target_hz``. Raises ValueError when there are none."""
        ratio = math.gcd(source_hz, target_hz)
        refclk, feedback = source_hz // ratio, target_hz // ratio
        if refclk <= 128 and feedback <= 80 and 3_125_000 <= source_hz / refclk <= 400_000_000:
            # The VCO in the middle of its range.
            post = min(range(1, 129), key=lambda post: abs(target_hz * post - 600_000_000))
            if 400_000_000 <= target_hz * post <= 800_000_000:
                return cls(refclk, feedback, post)
        raise ValueError(
            f"the PLL cannot make {target_hz / 1e6:g} MHz from {source_hz / 1e6:g} MHz; ask for "
            f"another clock"
        )

    def instance(self, source: Value, output: Signal, locked: Signal) -> Instance:
        """Instance of the PLL, with its output as feedback."""
        return Instance(
            "EHXPLLL",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_OUTDIVIDER_MUXC="DIVC",
            p_OUTDIVIDER_MUXD="DIVD",
            p_CLKI_DIV=self.refclk,
            p_CLKFB_DIV=self.feedback,
            p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=self.post,
            p_CLKOP_CPHASE=self.post // 2,
            p_CLKOP_FPHASE=0,
            i_CLKI=source,
            i_CLKFB=output,
            o_CLKOP=output,
            o_LOCK=locked,
            i_RST=C(0, 1),
            i_STDBY=C(0, 1),
            i_PHASESEL0=C(0, 1),
            i_PHASESEL1=C(0, 1),
            i_PHASEDIR=C(0, 1),
            i_PHASESTEP=C(0, 1),
            i_PHASELOADREG=C(0, 1),
            i_PLLWAKESYNC=C(0, 1),
            i_ENCLKOP=C(0, 1),
        )


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
    """Smallest power of two that holds ``needed`` bytes.

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
