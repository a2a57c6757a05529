# SPDX-License-Identifier: Apache-2.0
"""A host at the end of a serial line: it reads and writes memory and registers word by word.

A command is one byte, then for ``R`` and ``W`` an address (4 bytes) and a number of words (2
bytes), least significant byte first; then for ``W`` the words. The answer to ``R`` is the words
and a status byte, to ``W`` and ``X`` (reset) a status byte: 0, or the first AXI response that was
not OKAY. Addresses below REGISTER_BASE are memory. Other bytes are no command and are ignored; a
command that stays incomplete for a while is forgotten.

``boards/driver/serial.py`` is the other end.
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import AxiLiteSignature, Resp
from gateware.soc.memory import access_layout

REGISTER_BASE = 0x4000_0000
WORD_BYTES = 4
RESET_CYCLES = 16


class SerialBridge(wiring.Component):
    """Carries out what the host asks for.

    Parameters
    ----------
    addr_bits : int
        Address bits of the registers.
    memory_bytes : int
        Size of the memory, a power of two.
    silence_cycles : int
        An incomplete command is forgotten after so many cycles without a byte, a power of two.

    Members
    -------
    i : In(stream of unsigned(8)), o : Out(stream of unsigned(8))
        The line.
    access : Out(stream of access_layout(32)), answer : In(stream of unsigned(32))
        The memory; one answer per access.
    axil : Out(AxiLiteSignature(addr_bits, 32))
        The registers.
    reset : Out(1)
        High for RESET_CYCLES when the host asks for a reset.
    """

    def __init__(self, *, addr_bits: int, memory_bytes: int, silence_cycles: int = 1 << 20) -> None:
        for name, value in (("memory_bytes", memory_bytes), ("silence_cycles", silence_cycles)):
            if value < 16 or value & value - 1:
                raise ValueError(f"{name} must be a power of two of at least 16, not {value!r}")
        self._memory_bytes, self._silence_cycles = memory_bytes, silence_cycles
        byte, word = stream.Signature(8), stream.Signature(32)
        super().__init__(
            {
                "i": In(byte),
                "o": Out(byte),
                "access": Out(stream.Signature(access_layout(32))),
                "answer": In(word),
                "axil": Out(AxiLiteSignature(addr_bits, 32)),
                "reset": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        axil = self.axil
        header = Signal(48)
        address, words = header[:32], header[32:]
        is_write = Signal()
        word = Signal(32)
        byte = Signal(range(6))
        status = Signal(2)
        address_done, data_done = Signal(), Signal()
        resetting = Signal(range(RESET_CYCLES))
        silence = Signal(range(self._silence_cycles))
        is_register = (address >= REGISTER_BASE) & (
            address < REGISTER_BASE + (1 << len(axil.awaddr))
        )
        in_memory = address < self._memory_bytes

        m.d.comb += [
            self.reset.eq(resetting != 0),
            self.access.p.write.eq(is_write),
            self.access.p.index.eq(address[2:]),
            self.access.p.data.eq(word),
            axil.awaddr.eq(address),
            axil.araddr.eq(address),
            axil.wdata.eq(word),
            axil.wstrb.eq(~0),
        ]
        with m.If(resetting != 0):
            m.d.sync += resetting.eq(resetting - 1)
        m.d.sync += silence.eq(Mux(self.i.valid, 0, silence + 1))
        forgotten = silence == self._silence_cycles - 1

        def failed(response: Value) -> None:
            with m.If(status == Resp.OKAY):
                m.d.sync += status.eq(response)

        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [byte.eq(0), status.eq(Resp.OKAY)]
                with m.If(self.i.valid):
                    m.d.sync += is_write.eq(self.i.payload == ord("W"))
                    with m.Switch(self.i.payload):
                        with m.Case(ord("R"), ord("W")):
                            m.next = "Header"
                        with m.Case(ord("X")):
                            m.d.sync += resetting.eq(RESET_CYCLES - 1)
                            m.next = "Status"

            with m.State("Header"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [header.eq(Cat(header[8:], self.i.payload)), byte.eq(byte + 1)]
                    with m.If(byte == 5):
                        m.d.sync += byte.eq(0)
                        m.next = "Next"
                with m.Elif(forgotten):
                    m.next = "Idle"
            with m.State("Next"):
                with m.If(words == 0):
                    m.next = "Status"
                with m.Elif(is_write):
                    m.next = "Receive"
                with m.Else():
                    m.next = "Begin"
            with m.State("Receive"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [word.eq(Cat(word[8:], self.i.payload)), byte.eq(byte + 1)]
                    with m.If(byte == WORD_BYTES - 1):
                        m.d.sync += byte.eq(0)
                        m.next = "Begin"
                with m.Elif(forgotten):
                    m.next = "Idle"

            with m.State("Begin"):
                m.d.sync += [address_done.eq(0), data_done.eq(0)]
                with m.If(in_memory):
                    m.d.comb += self.access.valid.eq(1)
                    with m.If(self.access.ready):
                        m.next = "Memory"
                with m.Elif(~is_register):
                    m.d.sync += word.eq(0)
                    failed(Resp.DECERR)
                    m.next = "Done"
                with m.Elif(is_write):
                    m.next = "Register-Write"
                with m.Else():
                    m.next = "Register-Read"
            with m.State("Memory"):
                m.d.comb += self.answer.ready.eq(1)
                with m.If(self.answer.valid):
                    m.d.sync += word.eq(self.answer.payload)
                    m.next = "Done"
            with m.State("Register-Write"):
                m.d.comb += [axil.awvalid.eq(~address_done), axil.wvalid.eq(~data_done)]
                with m.If(axil.awready):
                    m.d.sync += address_done.eq(1)
                with m.If(axil.wready):
                    m.d.sync += data_done.eq(1)
                m.d.comb += axil.bready.eq(1)
                with m.If(axil.bvalid):
                    failed(axil.bresp)
                    m.next = "Done"
            with m.State("Register-Read"):
                m.d.comb += [axil.arvalid.eq(~address_done), axil.rready.eq(1)]
                with m.If(axil.arready):
                    m.d.sync += address_done.eq(1)
                with m.If(axil.rvalid):
                    m.d.sync += word.eq(axil.rdata)
                    failed(axil.rresp)
                    m.next = "Done"

            with m.State("Done"):
                m.d.sync += [address.eq(address + WORD_BYTES), words.eq(words - 1)]
                m.next = "Next"
                with m.If(~is_write):
                    m.next = "Send"
            with m.State("Send"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(word[:8])]
                with m.If(self.o.ready):
                    m.d.sync += [word.eq(word[8:]), byte.eq(byte + 1)]
                    with m.If(byte == WORD_BYTES - 1):
                        m.d.sync += byte.eq(0)
                        m.next = "Next"
            with m.State("Status"):
                m.d.comb += [self.o.valid.eq(~self.reset), self.o.payload.eq(status)]
                with m.If(self.o.valid & self.o.ready):
                    m.next = "Idle"
        return m
