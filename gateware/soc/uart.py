# SPDX-License-Identifier: Apache-2.0
"""Bytes over a serial line: 8 data bits, no parity, one stop bit."""

from amaranth import *
from amaranth.lib import cdc, stream, wiring
from amaranth.lib.wiring import In, Out

DATA_BITS = 8


def _check(divisor: int) -> None:
    if not isinstance(divisor, int) or divisor < 4:
        raise ValueError(f"divisor must be an integer of at least 4, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Receiver of bytes from a line.

    Each bit is sampled in its middle. A byte whose stop bit is missing is dropped. There is no
    flow control: a byte that is not taken before the next one is complete is lost.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    rx : In(1)
        The line, asynchronous; idle is high.
    o : Out(stream of unsigned(8))

    Latency: a byte is offered about the middle of its stop bit.

    Throughput: a byte in ten bits.

    Raises
    ------
    ValueError
        For a divisor below 4.
    """

    def __init__(self, divisor: int) -> None:
        _check(divisor)
        self._divisor = divisor
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(DATA_BITS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rx = Signal(init=1)
        m.submodules.sync = cdc.FFSynchronizer(self.rx, rx, init=1)
        timer = Signal(range(self._divisor))
        bit = Signal(range(DATA_BITS))
        shift = Signal(DATA_BITS)

        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.FSM():
            with m.State("Idle"):
                with m.If(~rx):
                    m.d.sync += timer.eq(self._divisor // 2 - 1)
                    m.next = "Start"
            with m.State("Start"):
                with m.If(timer == 0):
                    m.d.sync += [timer.eq(self._divisor - 1), bit.eq(0)]
                    m.next = "Data"
                    with m.If(rx):  # a glitch
                        m.next = "Idle"
            with m.State("Data"):
                with m.If(timer == 0):
                    m.d.sync += [
                        timer.eq(self._divisor - 1),
                        bit.eq(bit + 1),
                        shift.eq(Cat(shift[1:], rx)),
                    ]
                    with m.If(bit == DATA_BITS - 1):
                        m.next = "Stop"
            with m.State("Stop"):
                with m.If(timer == 0):
                    with m.If(rx):
                        m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(shift)]
                    m.next = "Idle"
        return m


class UartTransmitter(wiring.Component):
    """Transmitter of bytes to a line, one after the other without a gap.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    i : In(stream of unsigned(8))
    tx : Out(1)
        The line; idle is high.

    Throughput: a byte in ten bits and a cycle.

    Raises
    ------
    ValueError
        For a divisor below 4.
    """

    def __init__(self, divisor: int) -> None:
        _check(divisor)
        self._divisor = divisor
        super().__init__({"i": In(stream.Signature(DATA_BITS)), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(range(self._divisor))
        count = Signal(range(DATA_BITS + 3))
        shift = Signal(DATA_BITS + 1, init=~0)
        m.d.comb += [self.i.ready.eq(count == 0), self.tx.eq(shift[0])]
        with m.If(count == 0):
            with m.If(self.i.valid):
                m.d.sync += [
                    shift.eq(Cat(C(0, 1), self.i.payload)),
                    count.eq(DATA_BITS + 2),
                    timer.eq(self._divisor - 1),
                ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [
                timer.eq(self._divisor - 1),
                shift.eq(Cat(shift[1:], 1)),
                count.eq(count - 1),
            ]
        return m
