# SPDX-License-Identifier: Apache-2.0
"""Register map: one table, from which the RTL, the documentation and the driver's view follow.

The host sees 4 KiB of 32-bit registers over AXI4-Lite. Every access that the map does not allow
(no register there, a write to a read-only register) is answered SLVERR and changes nothing; a
write-only register reads as zero. Writes respect ``wstrb`` byte by byte.
"""

import dataclasses
import enum
import hashlib
from typing import Literal

from gateware.arch import isa
from gateware.arch.config import AccelConfig

ID_VALUE = 0x524D5350  #: "RMSP", what the ID register reads
VERSION_MAJOR = 3  #: changes when a driver must change
VERSION_MINOR = 0  #: changes when something was added
WINDOW_BITS = 12  #: address bits of the register window
DESCRIPTOR_INDEX_BITS = 16  #: width of a descriptor's number
SILENCE_CYCLES = 1 << 14  #: cycles without a word, a beat or a descriptor after which a run fails

Access = Literal["RO", "RW", "WO", "RW1C"]


class ErrorCode(enum.IntEnum):
    """Reason of a failed run: STATUS.error_code."""

    NONE = 0
    BAD_DESCRIPTOR = 1  #: a descriptor that cannot be executed, or the program has no END
    READ_ERROR = 2  #: the memory refused a read
    WRITE_ERROR = 3  #: the memory refused a write
    WATCHDOG = 4  #: the run took more cycles than WATCHDOG allows
    ABORTED = 5  #: the host asked for it
    OUT_OF_BOUNDS = 6  #: a transfer beyond the end of a buffer of the host
    DEADLOCK = 7  #: nothing moved for SILENCE_CYCLES: descriptors wait for what never comes


@dataclasses.dataclass(frozen=True)
class Field:
    """Field of a register: some of its bits.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Register:
    """Register of 32 bits.

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

REGISTERS: tuple[Register, ...] = (
    Register(
        name="ID", offset=0x00, access="RO", doc=f"{ID_VALUE:#010x}, to recognise the accelerator."
    ),
    Register(
        name="VERSION",
        offset=0x04,
        access="RO",
        doc="Version of this register map.",
        fields=(
            Field("minor", 0, 16, "Grows when something is added."),
            Field("major", 16, 16, "Grows when a driver must change."),
        ),
    ),
    Register(
        name="CONTROL",
        offset=0x08,
        access="WO",
        doc="Commands.",
        fields=(
            Field("start", 0, 1, "Run the program; ignored while busy or together with abort."),
            Field("abort", 1, 1, "Stop the run; it ends with the error ABORTED."),
        ),
    ),
    Register(
        name="STATUS",
        offset=0x0C,
        access="RO",
        doc="State of the last run; start clears it.",
        fields=(
            Field("busy", 0, 1, "A run is going on."),
            Field("done", 1, 1, "The run ended well."),
            Field(
                "error",
                2,
                1,
                "The run failed; while still busy, because the memory does not answer.",
            ),
            Field("error_code", 8, 8, "Why it failed, an ErrorCode."),
        ),
    ),
    Register(name="PROGRAM_BASE", offset=0x10, access="RW", doc="Address of the first descriptor."),
    Register(name="INPUT_BASE", offset=0x14, access="RW", doc="Address of the input tensor."),
    Register(name="OUTPUT_BASE", offset=0x18, access="RW", doc="Address of the output tensor."),
    Register(
        name="WATCHDOG",
        offset=0x1C,
        access="RW",
        doc="Cycles that a run may take, 0 for any number.",
    ),
    Register(
        name="IRQ_ENABLE",
        offset=0x20,
        access="RW",
        doc="Which bits of IRQ_STATUS raise the interrupt.",
        fields=(Field("finished", 0, 1, "As in IRQ_STATUS."),),
    ),
    Register(
        name="IRQ_STATUS",
        offset=0x24,
        access="RW1C",
        doc="Reasons for an interrupt; start does not clear them.",
        fields=(Field("finished", 0, 1, "A run ended, well or not."),),
    ),
    Register(
        name="ERROR_DESCRIPTOR",
        offset=0x28,
        access="RO",
        doc="Oldest EXECUTE that is not complete, else the oldest "
        "load or store; after an error the one that failed.",
        fields=(Field("index", 0, DESCRIPTOR_INDEX_BITS, "Its number in the program, from 0."),),
    ),
    Register(
        name="SHAPE",
        offset=0x2C,
        access="RO",
        doc="Size of the array.",
        fields=(
            Field("rows", 0, 16, "Row lanes of a tile."),
            Field("k", 16, 8, "Input channels per cycle."),
            Field("pixels", 24, 8, "Output pixels per cycle."),
        ),
    ),
    Register(
        name="CONFIG_DIGEST",
        offset=0x30,
        access="RO",
        doc="Digest of the configuration that was built.",
    ),
    Register(
        name="PROGRAM_SIZE",
        offset=0x34,
        access="RW",
        doc="Bytes of the program, 0 after a reset; descriptors are fetched by whole fours.",
    ),
    Register(
        name="INPUT_SIZE",
        offset=0x38,
        access="RW",
        doc="Bytes of the input tensors, 0 after a reset.",
    ),
    Register(
        name="OUTPUT_SIZE",
        offset=0x3C,
        access="RW",
        doc="Bytes of the outputs and of what is kept there meanwhile, 0 after a reset.",
    ),
    Register(
        name="CYCLES",
        offset=0x40,
        access="RO",
        doc="Cycles of the run; start clears it and every counter below.",
    ),
    *(
        Register(name=name.upper(), offset=0x44 + 4 * index, access="RO", doc=doc)
        for index, (name, doc) in enumerate(COUNTERS.items())
    ),
)


def config_digest(config: AccelConfig) -> int:
    """Value of CONFIG_DIGEST: the first four bytes of the BLAKE2s of the configuration's JSON and
    the version of the instructions. Programs for another accelerator are told from it."""
    content = f"{config.to_json()}\n{isa.VERSION}"
    return int.from_bytes(hashlib.blake2s(content.encode()).digest()[:4], "big")


def register_table_markdown() -> str:
    """Register map as a Markdown table, a line per register and per field."""
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
    """Register map and the error codes as plain lists, dicts, strings and integers."""
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
