# SPDX-License-Identifier: Apache-2.0
"""System of an accelerator whose host is at the end of a serial line, without pins and clock."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from gateware.soc.memory import BlockMemory
from gateware.soc.serial import SerialBridge
from gateware.soc.uart import UartReceiver, UartTransmitter

BUS_BITS = 32  #: a word of the serial protocol is a beat of the bus
SILENCE_CYCLES = 1 << 20


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
