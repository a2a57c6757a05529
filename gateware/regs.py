# SPDX-License-Identifier: Apache-2.0
"""The register map: one table, from which the RTL, the documentation and the driver's view follow.

The host sees 4 KiB of 32-bit registers over AXI4-Lite. Every access that the map does not allow
(no register there, a write to a read-only register) is answered SLVERR and changes nothing; a
write-only register reads as zero. Writes respect ``wstrb`` byte by byte.
"""

import dataclasses
import enum
import hashlib
from typing import Literal

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware import isa
from gateware.axi import AxiLiteSignature, Resp
from gateware.config import AccelConfig

ID_VALUE = 0x524D5350  #: "RMSP", what the ID register reads
VERSION_MAJOR = 2  #: changes when a driver must change
VERSION_MINOR = 0  #: changes when something was added
WINDOW_BITS = 12  #: address bits of the register window
DESCRIPTOR_INDEX_BITS = 16  #: width of a descriptor's number

Access = Literal["RO", "RW", "WO", "RW1C"]


class ErrorCode(enum.IntEnum):
    """Why a run failed: STATUS.error_code."""

    NONE = 0
    BAD_DESCRIPTOR = 1  #: a descriptor that the accelerator cannot execute
    READ_ERROR = 2  #: the memory refused a read
    WRITE_ERROR = 3  #: the memory refused a write
    WATCHDOG = 4  #: the run took more cycles than WATCHDOG allows
    ABORTED = 5  #: the host asked for it


@dataclasses.dataclass(frozen=True)
class Field:
    """Some bits of a register.

    Parameters
    ----------
    name : str
    lsb, width : int
        Where the bits are.
    doc : str
        One sentence.
    """

    name: str
    lsb: int
    width: int
    doc: str

    @property
    def bits(self) -> str:
        """Bit range as documentation prints it."""
        return f"{self.lsb}" if self.width == 1 else f"{self.lsb + self.width - 1}:{self.lsb}"


@dataclasses.dataclass(frozen=True)
class Register:
    """One 32-bit register.

    Parameters
    ----------
    name : str
    offset : int
        Byte offset in the window, a multiple of four.
    access : str
        ``RO``, ``RW``, ``WO`` (reads as zero) or ``RW1C`` (writing a one clears the bit).
    doc : str
        One sentence.
    fields : tuple of Field
        Ascending; empty when the whole word is one number.
    """

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[Field, ...] = ()


#: Counters that the accelerator advances, in the order of their registers from 0x44.
COUNTERS = {
    "array_cycles": "Cycles in which a word was issued to the array.",
    "stall_drain": "Cycles in which the array waited for the drain of finished results.",
    "stall_load": "Cycles in which the array waited for weights, drain slots or a tensor.",
    "stall_execute": "Cycles in which the array waited for results of an earlier EXECUTE.",
    "stall_store": "Cycles in which the array, or the end of the run, waited for a store.",
    "stall_fetch": "Cycles in which the array waited for its next descriptor.",
    "read_beats": "Bus beats read, by all ports.",
    "write_beats": "Bus beats written.",
    "descriptors": "Descriptors dispatched.",
}

#: What each entry of COUNTERS grows by in a cycle.
COUNT_LAYOUT = data.StructLayout(dict.fromkeys(COUNTERS, 1) | {"read_beats": 3})

REGISTERS: tuple[Register, ...] = (
    Register("ID", 0x00, "RO", f"{ID_VALUE:#010x}, to recognise the accelerator."),
    Register(
        "VERSION",
        0x04,
        "RO",
        "Version of this register map.",
        (
            Field("minor", 0, 16, "Grows when something is added."),
            Field("major", 16, 16, "Grows when a driver must change."),
        ),
    ),
    Register(
        "CONTROL",
        0x08,
        "WO",
        "Commands.",
        (
            Field("start", 0, 1, "Run the program; ignored while busy or together with abort."),
            Field("abort", 1, 1, "Stop the run; it ends with the error ABORTED."),
        ),
    ),
    Register(
        "STATUS",
        0x0C,
        "RO",
        "State of the last run; start clears it.",
        (
            Field("busy", 0, 1, "A run is going on."),
            Field("done", 1, 1, "The run ended well."),
            Field("error", 2, 1, "The run failed."),
            Field("error_code", 8, 8, "Why it failed, an ErrorCode."),
        ),
    ),
    Register("PROGRAM_BASE", 0x10, "RW", "Address of the first descriptor."),
    Register("INPUT_BASE", 0x14, "RW", "Address of the input tensor."),
    Register("OUTPUT_BASE", 0x18, "RW", "Address of the output tensor."),
    Register("WATCHDOG", 0x1C, "RW", "Cycles that a run may take, 0 for any number."),
    Register(
        "IRQ_ENABLE",
        0x20,
        "RW",
        "Which bits of IRQ_STATUS raise the interrupt.",
        (Field("finished", 0, 1, "As in IRQ_STATUS."),),
    ),
    Register(
        "IRQ_STATUS",
        0x24,
        "RW1C",
        "Reasons for an interrupt; start does not clear them.",
        (Field("finished", 0, 1, "A run ended, well or not."),),
    ),
    Register(
        "ERROR_DESCRIPTOR",
        0x28,
        "RO",
        "Oldest EXECUTE that is not complete, else the oldest "
        "load or store; after an error the one that failed.",
        (Field("index", 0, DESCRIPTOR_INDEX_BITS, "Its number in the program, from 0."),),
    ),
    Register(
        "SHAPE",
        0x2C,
        "RO",
        "Size of the array.",
        (
            Field("rows", 0, 16, "Row lanes of a tile."),
            Field("k", 16, 8, "Input channels per cycle."),
            Field("pixels", 24, 8, "Output pixels per cycle."),
        ),
    ),
    Register("CONFIG_DIGEST", 0x30, "RO", "Digest of the configuration that was built."),
    Register("CYCLES", 0x40, "RO", "Cycles of the run; start clears it and every counter below."),
    *(
        Register(name.upper(), 0x44 + 4 * index, "RO", doc)
        for index, (name, doc) in enumerate(COUNTERS.items())
    ),
)


def config_digest(config: AccelConfig) -> int:
    """What CONFIG_DIGEST reads: the first four bytes of the BLAKE2s of the configuration's JSON and
    the version of the instructions. Programs for another accelerator are told from it."""
    content = f"{config.to_json()}\n{isa.VERSION}"
    return int.from_bytes(hashlib.blake2s(content.encode()).digest()[:4], "big")


def register_table_markdown() -> str:
    """The register map as a Markdown table, a line per register and per field."""
    lines = ["| offset | register | bits | access | meaning |", "|---|---|---|---|---|"]
    for register in REGISTERS:
        whole = "" if register.fields else "31:0"
        lines.append(
            f"| 0x{register.offset:02X} | {register.name} | {whole} | {register.access} "
            f"| {register.doc} |"
        )
        lines += [
            f"| | {register.name}.{field.name} | {field.bits} | | {field.doc} |"
            for field in register.fields
        ]
    return "\n".join(lines) + "\n"


def register_manifest() -> dict:
    """The register map and the error codes as plain lists, dicts, strings and integers."""
    return {
        "id": ID_VALUE,
        "version": [VERSION_MAJOR, VERSION_MINOR],
        "window_bytes": 1 << WINDOW_BITS,
        "registers": [
            dataclasses.asdict(register)
            | {
                "fields": [dataclasses.asdict(field) for field in register.fields],
            }
            for register in REGISTERS
        ],
        "error_codes": {code.name: code.value for code in ErrorCode},
    }


class RegisterFile(wiring.Component):
    """The registers, the counters, the watchdog and the interrupt of an accelerator.

    A write takes effect in the cycle after its address and data were accepted together; pulses that
    follow from it come in that cycle. A read answers in the cycle after its address.

    Parameters
    ----------
    config : AccelConfig
        What SHAPE and CONFIG_DIGEST describe.

    Members
    -------
    axil : In(AxiLiteSignature(12, 32))
        From the host.
    start, abort : Out(1)
        Pulses. ``start`` comes only while not busy; ``abort`` always, with or without a run.
    program_base, input_base, output_base : Out(32)
        What the host wrote, live.
    watchdog_limit : Out(32)
        What the host wrote, live.
    watchdog : Out(1)
        High from the cycle after CYCLES reached the limit, until the run ends.
    irq : Out(1)
        Level: an enabled bit of IRQ_STATUS is set.
    busy : In(1)
        A run is going on; high from the cycle after ``start`` at the latest. CYCLES counts this.
    done, failed : In(1)
        Pulses at the end of a run, one of them.
    error_code : In(8)
        An ErrorCode, sampled with ``failed``.
    descriptor_index : In(16)
        The descriptor in execution, followed while busy and no error.
    count : In(COUNT_LAYOUT)
        Advance these counters.

    Raises
    ------
    ValueError
        When the array's shape does not fit the SHAPE register.
    """

    def __init__(self, config: AccelConfig) -> None:
        if config.rows >= 1 << 16 or config.pixels >= 1 << 8:
            raise ValueError(f"{config.rows} rows and {config.pixels} pixels do not fit SHAPE")
        self._config = config
        super().__init__(
            {
                "axil": In(AxiLiteSignature(WINDOW_BITS, 32)),
                "start": Out(1),
                "abort": Out(1),
                "program_base": Out(32),
                "input_base": Out(32),
                "output_base": Out(32),
                "watchdog_limit": Out(32),
                "watchdog": Out(1),
                "irq": Out(1),
                "busy": In(1),
                "done": In(1),
                "failed": In(1),
                "error_code": In(8),
                "descriptor_index": In(DESCRIPTOR_INDEX_BITS),
                "count": In(COUNT_LAYOUT),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        status = {"done": Signal(), "error": Signal(), "error_code": Signal(8)}
        irq_enable = Signal()
        irq_status = Signal()
        failing_index = Signal(DESCRIPTOR_INDEX_BITS)
        counters = {name: Signal(32, name=f"count_{name}") for name in ("cycles", *COUNTERS)}

        # What each register reads: the word, or its fields. Those that the host writes are signals.
        contents = {
            "ID": ID_VALUE,
            "VERSION": {"minor": VERSION_MINOR, "major": VERSION_MAJOR},
            "CONTROL": {"start": 0, "abort": 0},
            "STATUS": {"busy": self.busy | self.start} | status,
            "PROGRAM_BASE": self.program_base,
            "INPUT_BASE": self.input_base,
            "OUTPUT_BASE": self.output_base,
            "WATCHDOG": self.watchdog_limit,
            "IRQ_ENABLE": {"finished": irq_enable},
            "IRQ_STATUS": {"finished": irq_status},
            "ERROR_DESCRIPTOR": {"index": failing_index},
            "SHAPE": {"rows": config.rows, "k": config.k, "pixels": config.pixels},
            "CONFIG_DIGEST": config_digest(config),
        } | {name.upper(): counter for name, counter in counters.items()}

        self._elaborate_read(m, contents)
        write = self._elaborate_write(m, contents)

        finished = self.done | self.failed
        control = write["CONTROL"]
        start = control[0] & ~control[1] & ~self.busy & ~self.start
        m.d.sync += [
            self.start.eq(start),
            self.abort.eq(control[1]),
            irq_status.eq((irq_status & ~write["IRQ_STATUS"][0]) | finished),
        ]
        m.d.comb += self.irq.eq(irq_status & irq_enable)

        with m.If(self.done):
            m.d.sync += status["done"].eq(1)
        with m.If(self.failed):
            m.d.sync += [status["error"].eq(1), status["error_code"].eq(self.error_code)]
        with m.If(self.busy & ~status["error"]):
            m.d.sync += failing_index.eq(self.descriptor_index)
        for name, counter in counters.items():
            m.d.sync += counter.eq(counter + (self.busy if name == "cycles" else self.count[name]))
        with m.If(start):
            m.d.sync += [signal.eq(0) for signal in [*status.values(), *counters.values()]]

        m.d.sync += self.watchdog.eq(
            self.busy & (self.watchdog_limit != 0) & (counters["cycles"] >= self.watchdog_limit)
        )
        return m

    def _elaborate_read(self, m: Module, contents: dict) -> None:
        axil = self.axil
        m.d.comb += axil.arready.eq(~axil.rvalid | axil.rready)
        with m.If(axil.rready):
            m.d.sync += axil.rvalid.eq(0)
        with m.If(axil.arvalid & axil.arready):
            m.d.sync += [axil.rvalid.eq(1), axil.rdata.eq(0), axil.rresp.eq(Resp.SLVERR)]
            with m.Switch(axil.araddr[2:]):
                for register in REGISTERS:
                    with m.Case(register.offset // 4):
                        m.d.sync += axil.rresp.eq(Resp.OKAY)
                        content = contents[register.name]
                        if not register.fields:
                            m.d.sync += axil.rdata.eq(content)
                        for field in register.fields:
                            m.d.sync += axil.rdata[field.lsb :][: field.width].eq(
                                content[field.name]
                            )

    def _elaborate_write(self, m: Module, contents: dict) -> dict[str, Signal]:
        """Stores what is writable. Returns the ones written to registers that act on ones."""
        axil = self.axil
        accept = Signal()
        m.d.comb += [
            accept.eq(axil.awvalid & axil.wvalid & (~axil.bvalid | axil.bready)),
            axil.awready.eq(accept),
            axil.wready.eq(accept),
        ]
        mask = Cat(bit.replicate(8) for bit in axil.wstrb)
        ones = {
            register.name: Signal(32, name=f"write_{register.name.lower()}")
            for register in REGISTERS
            if register.access in ("WO", "RW1C")
        }
        with m.If(axil.bready):
            m.d.sync += axil.bvalid.eq(0)
        with m.If(accept):
            m.d.sync += [axil.bvalid.eq(1), axil.bresp.eq(Resp.SLVERR)]
            with m.Switch(axil.awaddr[2:]):
                for register in REGISTERS:
                    if register.access == "RO":
                        continue
                    with m.Case(register.offset // 4):
                        m.d.sync += axil.bresp.eq(Resp.OKAY)
                        if register.name in ones:
                            m.d.comb += ones[register.name].eq(axil.wdata & mask)
                            continue
                        content = contents[register.name]
                        parts = (
                            [(content, 0)]
                            if not register.fields
                            else [(content[field.name], field.lsb) for field in register.fields]
                        )
                        for stored, lsb in parts:
                            m.d.sync += stored.eq(
                                ((axil.wdata & mask) >> lsb) | (stored & ~(mask >> lsb))
                            )
        return ones
