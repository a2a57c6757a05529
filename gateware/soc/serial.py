# SPDX-License-Identifier: Apache-2.0
"""Bridge for a host at the end of a serial line: memory and registers, word by word.

A command is one byte, then for ``R`` and ``W`` an address (4 bytes) and a number of words (2
bytes), least significant byte first; then for ``W`` the words. The answer to ``R`` is the words
and a status byte, to ``W`` and ``X`` (reset) a status byte: 0, or the first AXI response that was
not OKAY. Addresses below REGISTER_BASE are memory. Other bytes are no command and are ignored; a
command that stays incomplete for a while is forgotten.

``boards/driver/serial.py`` is the other end.
"""

import dataclasses

from amaranth import *
from amaranth.hdl import ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import AxiLiteSignature, Resp
from gateware.soc.memory import access_layout

REGISTER_BASE = 0x4000_0000
WORD_BYTES = 4
RESET_CYCLES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Command:
    """The command in hand, and its current word."""

    header: Signal
    address: Value
    words: Value  # that are still to come
    is_write: Signal
    word: Signal
    byte: Signal  # of header or word
    status: Signal
    address_done: Signal  # taken by the registers
    data_done: Signal
    resetting: Signal  # cycles that the reset still lasts
    is_register: Signal
    in_memory: Signal


class SerialBridge(wiring.Component):
    """Bridge from the bytes of a serial line to accesses of memory and registers.

    One word after the other; a word is accessed when it has come, and sent before the next.

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

    Throughput: that of the line; an access takes some cycles beside the bytes of its word, and as
    many as the accelerator has the memory.

    Raises
    ------
    ValueError
        For a size that is not a power of two of at least 16.
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

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command = self._command(m)
        self._drive_ports(m, command)
        self._count_reset(m, command)
        forgotten = self._watch_silence(m)
        with m.FSM():
            with m.State("Idle"):
                self._take_code(m, command)
            self._receive_states(m, command, forgotten)
            self._access_states(m, command)
            self._answer_states(m, command)
        return m

    def _command(self, m: Module) -> _Command:
        header = Signal(48)
        address, words = header[:32], header[32:]
        is_write = Signal()
        word = Signal(32)
        byte = Signal(range(6))
        status = Signal(2)
        address_done, data_done = Signal(), Signal()
        resetting = Signal(range(RESET_CYCLES))
        window_bytes = 1 << len(self.axil.awaddr)
        # A cycle before state Begin the address is there.
        is_register, in_memory = Signal(), Signal()
        m.d.sync += [
            is_register.eq((address >= REGISTER_BASE) & (address < REGISTER_BASE + window_bytes)),
            in_memory.eq(address < self._memory_bytes),
        ]
        return _Command(
            header=header,
            address=address,
            words=words,
            is_write=is_write,
            word=word,
            byte=byte,
            status=status,
            address_done=address_done,
            data_done=data_done,
            resetting=resetting,
            is_register=is_register,
            in_memory=in_memory,
        )

    def _drive_ports(self, m: Module, command: _Command) -> None:
        """Everything but valid and ready, combinational."""
        axil = self.axil
        m.d.comb += [
            self.reset.eq(command.resetting != 0),
            self.access.p.write.eq(command.is_write),
            self.access.p.index.eq(command.address[2:]),
            self.access.p.data.eq(command.word),
            axil.awaddr.eq(command.address),
            axil.araddr.eq(command.address),
            axil.wdata.eq(command.word),
            axil.wstrb.eq(~0),
        ]

    def _count_reset(self, m: Module, command: _Command) -> None:
        with m.If(command.resetting != 0):
            m.d.sync += command.resetting.eq(command.resetting - 1)

    def _watch_silence(self, m: Module) -> Value:
        """Whether no byte has come for ``silence_cycles``."""
        silence = Signal(range(self._silence_cycles))
        m.d.sync += silence.eq(Mux(self.i.valid, 0, silence + 1))
        return silence == self._silence_cycles - 1

    def _take_code(self, m: Module, command: _Command) -> None:
        """State Idle: the byte that says which command it is."""
        m.d.comb += self.i.ready.eq(1)
        m.d.sync += [command.byte.eq(0), command.status.eq(Resp.OKAY)]
        with m.If(self.i.valid):
            m.d.sync += command.is_write.eq(self.i.payload == ord("W"))
            with m.Switch(self.i.payload):
                with m.Case(ord("R"), ord("W")):
                    m.next = "Header"
                with m.Case(ord("X")):
                    m.d.sync += command.resetting.eq(RESET_CYCLES - 1)
                    m.next = "Status"

    def _receive_states(self, m: Module, command: _Command, forgotten: Value) -> None:
        """Header, and before each access the word to write."""
        with m.State("Header"):
            self._shift_in(m, command, command.header, forgotten, then="Next")
        with m.State("Next"):
            with m.If(command.words == 0):
                m.next = "Status"
            with m.Elif(command.is_write):
                m.next = "Receive"
            with m.Else():
                m.next = "Begin"
        with m.State("Receive"):
            self._shift_in(m, command, command.word, forgotten, then="Begin")

    def _shift_in(
        self, m: Module, command: _Command, register: Signal, forgotten: Value, *, then: str
    ) -> None:
        """Fill ``register`` byte by byte, the lowest first."""
        byte = command.byte
        m.d.comb += self.i.ready.eq(1)
        with m.If(self.i.valid):
            m.d.sync += [register.eq(Cat(register[8:], self.i.payload)), byte.eq(byte + 1)]
            with m.If(byte == len(register) // 8 - 1):
                m.d.sync += byte.eq(0)
                m.next = then
        with m.Elif(forgotten):
            m.next = "Idle"

    def _access_states(self, m: Module, command: _Command) -> None:
        """One word from or to memory or a register."""
        with m.State("Begin"):
            self._choose_access(m, command)
        with m.State("Memory"):
            m.d.comb += self.answer.ready.eq(1)
            with m.If(self.answer.valid):
                m.d.sync += command.word.eq(self.answer.payload)
                m.next = "Done"
        with m.State("Register-Write"):
            self._write_register(m, command)
        with m.State("Register-Read"):
            self._read_register(m, command)

    def _choose_access(self, m: Module, command: _Command) -> None:
        """State Begin: where the address lies."""
        m.d.sync += [command.address_done.eq(0), command.data_done.eq(0)]
        with m.If(command.in_memory):
            m.d.comb += self.access.valid.eq(1)
            with m.If(self.access.ready):
                m.next = "Memory"
        with m.Elif(~command.is_register):
            m.d.sync += command.word.eq(0)
            self._note(m, command, Resp.DECERR)
            m.next = "Done"
        with m.Elif(command.is_write):
            m.next = "Register-Write"
        with m.Else():
            m.next = "Register-Read"

    def _write_register(self, m: Module, command: _Command) -> None:
        axil, address_done, data_done = self.axil, command.address_done, command.data_done
        m.d.comb += [axil.awvalid.eq(~address_done), axil.wvalid.eq(~data_done)]
        with m.If(axil.awready):
            m.d.sync += address_done.eq(1)
        with m.If(axil.wready):
            m.d.sync += data_done.eq(1)
        m.d.comb += axil.bready.eq(1)
        with m.If(axil.bvalid):
            self._note(m, command, axil.bresp)
            m.next = "Done"

    def _read_register(self, m: Module, command: _Command) -> None:
        axil, address_done = self.axil, command.address_done
        m.d.comb += [axil.arvalid.eq(~address_done), axil.rready.eq(1)]
        with m.If(axil.arready):
            m.d.sync += address_done.eq(1)
        with m.If(axil.rvalid):
            m.d.sync += command.word.eq(axil.rdata)
            self._note(m, command, axil.rresp)
            m.next = "Done"

    @staticmethod
    def _note(m: Module, command: _Command, response: ValueLike) -> None:
        """Keep the first response that is not OKAY."""
        with m.If(command.status == Resp.OKAY):
            m.d.sync += command.status.eq(response)

    def _answer_states(self, m: Module, command: _Command) -> None:
        """The word that was read; after the last word the status."""
        byte, word = command.byte, command.word
        with m.State("Done"):
            m.d.sync += [
                command.address.eq(command.address + WORD_BYTES),
                command.words.eq(command.words - 1),
            ]
            m.next = "Next"
            with m.If(~command.is_write):
                m.next = "Send"
        with m.State("Send"):
            m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(word[:8])]
            with m.If(self.o.ready):
                m.d.sync += [word.eq(word[8:]), byte.eq(byte + 1)]
                with m.If(byte == WORD_BYTES - 1):
                    m.d.sync += byte.eq(0)
                    m.next = "Next"
        with m.State("Status"):
            m.d.comb += [self.o.valid.eq(~self.reset), self.o.payload.eq(command.status)]
            with m.If(self.o.valid & self.o.ready):
                m.next = "Idle"
