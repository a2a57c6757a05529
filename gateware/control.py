# SPDX-License-Identifier: Apache-2.0
"""The sequencer: fetches descriptors, starts the unit that each one names, ends the run."""

import contextlib
from collections.abc import Iterator

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out

from gateware import isa
from gateware.config import AccelConfig
from gateware.dma import command_layout
from gateware.isa import Base, Opcode
from gateware.regs import DESCRIPTOR_INDEX_BITS, ErrorCode

_LOADS = (Opcode.LOAD_WEIGHTS, Opcode.LOAD_SLOTS, Opcode.LOAD_TENSOR)
_STORES = (Opcode.STORE_TENSOR, Opcode.STORE_WIDE)


class Sequencer(Component):
    """Runs a program, one descriptor after the other.

    A bus error, an unknown opcode, the watchdog or the host's abort ends the run: the bus is
    flushed (nothing is left in flight), the units are reset, and ``failed`` reports why. The
    accelerator can be started again at once.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    start, abort, watchdog : In(1)
        From the registers.
    program_base, input_base, output_base : In(32)
    busy : Out(1), finished : Out(1), failed : Out(1), error_code : Out(ErrorCode)
        ``finished`` and ``failed`` are pulses.
    descriptor_index : Out(16)
    descriptor : Out(512)
        The one in execution.
    executed : Out(1)
        Pulse for each descriptor completed.
    read_command, write_command : Out(stream of command_layout)
    fetched : In(stream of bus words)
        Descriptor beats; ``fetching`` says that the read data is for the sequencer.
    fetching : Out(1)
    read_error, write_error, bus_idle, write_idle : In(1)
    flush : Out(1)
        Abandon everything on the bus.
    reset_units : Out(1)
    load_start, store_start, execute_start : Out(1)
    load_done, store_done, execute_done : In(1)
        High when the unit is idle; low from the cycle after its start.
    transferring : Out(1)
        A load or store is in execution.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        command = stream.Signature(command_layout())
        super().__init__({
            "start": In(1), "abort": In(1), "watchdog": In(1),
            "program_base": In(32), "input_base": In(32), "output_base": In(32),
            "busy": Out(1), "finished": Out(1), "failed": Out(1), "error_code": Out(ErrorCode),
            "descriptor_index": Out(DESCRIPTOR_INDEX_BITS),
            "descriptor": Out(isa.DESCRIPTOR_BITS),
            "executed": Out(1),
            "read_command": Out(command), "write_command": Out(command),
            "fetched": In(stream.Signature(unsigned(config.bus_bits))),
            "fetching": Out(1),
            "read_error": In(1), "write_error": In(1), "bus_idle": In(1), "write_idle": In(1),
            "flush": Out(1), "reset_units": Out(1),
            "load_start": Out(1), "store_start": Out(1), "execute_start": Out(1),
            "load_done": In(1), "store_done": In(1), "execute_done": In(1),
            "transferring": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bus_bits = self._config.bus_bits
        beats = isa.DESCRIPTOR_BITS // bus_bits
        header = data.View(isa.TENSOR, self.descriptor[:isa.TENSOR.size])
        beat = Signal(range(beats))
        fetch_address = Signal(32)

        address = Signal(32)
        with m.Switch(header.base):
            with m.Case(Base.INPUT):
                m.d.comb += address.eq(self.input_base + header.offset)
            with m.Case(Base.OUTPUT):
                m.d.comb += address.eq(self.output_base + header.offset)
            with m.Default():
                m.d.comb += address.eq(self.program_base + header.offset)
        m.d.comb += [
            self.write_command.payload.address.eq(address),
            self.write_command.payload.beats.eq(header.beats),
        ]

        stop, reason = Signal(), Signal(ErrorCode)
        m.d.comb += stop.eq(self.abort | self.watchdog | self.read_error | self.write_error)

        @contextlib.contextmanager
        def running(name: str) -> Iterator[None]:
            """A state that any reason to stop ends; the last assignment to the next state wins."""
            with m.State(name):
                yield
                with m.If(stop):
                    m.d.sync += reason.eq(Mux(self.abort, ErrorCode.ABORTED,
                                              Mux(self.watchdog, ErrorCode.WATCHDOG,
                                                  Mux(self.read_error, ErrorCode.READ_ERROR,
                                                      ErrorCode.WRITE_ERROR))))
                    m.next = "Flush"

        def complete() -> None:
            m.d.comb += self.executed.eq(1)
            m.d.sync += self.descriptor_index.eq(self.descriptor_index + 1)
            m.next = "Fetch-Command"

        m.d.comb += self.busy.eq(1)
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += self.busy.eq(0)
                m.d.sync += [fetch_address.eq(self.program_base), beat.eq(0)]
                with m.If(self.start):
                    m.d.sync += self.descriptor_index.eq(0)
                    m.next = "Fetch-Command"

            with running("Fetch-Command"):
                m.d.comb += [
                    self.read_command.valid.eq(1),
                    self.read_command.payload.address.eq(fetch_address),
                    self.read_command.payload.beats.eq(beats),
                ]
                with m.If(self.read_command.ready):
                    m.d.sync += fetch_address.eq(fetch_address + isa.DESCRIPTOR_BYTES)
                    m.next = "Fetch"

            with running("Fetch"):
                m.d.comb += [self.fetching.eq(1), self.fetched.ready.eq(1)]
                with m.If(self.fetched.valid):
                    m.d.sync += [
                        self.descriptor.eq(Cat(self.descriptor[bus_bits:], self.fetched.payload)),
                        beat.eq(beat + 1),
                    ]
                    with m.If(beat == beats - 1):
                        m.d.sync += beat.eq(0)
                        m.next = "Dispatch"

            with running("Dispatch"):
                with m.Switch(header.opcode):
                    with m.Case(*_LOADS):
                        m.next = "Load-Command"
                    with m.Case(*_STORES):
                        m.next = "Store-Command"
                    with m.Case(Opcode.EXECUTE):
                        m.d.comb += self.execute_start.eq(1)
                        m.next = "Execute"
                    with m.Case(Opcode.END):
                        m.d.comb += [self.executed.eq(~stop), self.finished.eq(~stop)]
                        m.next = "Idle"
                    with m.Default():
                        m.d.sync += reason.eq(ErrorCode.BAD_DESCRIPTOR)
                        m.next = "Flush"

            with running("Load-Command"):
                m.d.comb += [
                    self.transferring.eq(1),
                    self.read_command.valid.eq(1),
                    self.read_command.payload.address.eq(address),
                    self.read_command.payload.beats.eq(header.beats),
                    self.load_start.eq(self.read_command.ready),
                ]
                with m.If(self.read_command.ready):
                    m.next = "Load"

            with running("Load"):
                m.d.comb += self.transferring.eq(1)
                with m.If(self.load_done):
                    complete()

            with running("Store-Command"):
                m.d.comb += [
                    self.transferring.eq(1),
                    self.write_command.valid.eq(1),
                    self.store_start.eq(self.write_command.ready),
                ]
                with m.If(self.write_command.ready):
                    m.next = "Store"

            with running("Store"):
                m.d.comb += self.transferring.eq(1)
                with m.If(self.store_done & self.write_idle):
                    complete()

            with running("Execute"):
                with m.If(self.execute_done):
                    complete()

            with m.State("Flush"):
                m.d.comb += [self.flush.eq(1), self.reset_units.eq(1)]
                with m.If(self.bus_idle):
                    m.d.comb += [self.failed.eq(1), self.error_code.eq(reason)]
                    m.next = "Idle"
        return m
