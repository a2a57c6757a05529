# SPDX-License-Identifier: Apache-2.0
"""Description of a board: device limits, memory system, clock and platform; no accelerator."""

import dataclasses
from collections.abc import Callable, Mapping

from amaranth.build import Platform

#: Resources of each family, in the order of reports.
RESOURCES = {
    "xc7": ("lut", "ff", "dsp48e1", "bram36"),
    "ecp5": ("lut4", "ff", "mult18", "ebr"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """Limits of one FPGA.

    Parameters
    ----------
    part : str
        Full part name: device, package and speed grade, such as ``xc7z045ffg900-2``.
    family : str
        ``xc7`` or ``ecp5``; decides which resources there are and which tools make a bitstream.
    limits : mapping of str to int
        How many there are of each resource. Of ``xc7``: ``lut`` (6 inputs), ``ff``, ``dsp48e1``,
        ``bram36`` (36 Kbit). Of ``ecp5``: ``lut4``, ``ff``, ``mult18`` (18x18), ``ebr`` (18 Kbit).
    source : str
        Document that states these numbers.
    """

    part: str
    family: str
    limits: Mapping[str, int]
    source: str

    def __post_init__(self) -> None:
        if self.family not in RESOURCES:
            raise ValueError(
                f"family of {self.part} must be one of {', '.join(RESOURCES)}, not {self.family!r}"
            )
        if set(self.limits) != set(RESOURCES[self.family]):
            raise ValueError(
                f"limits of {self.part} must be those of {', '.join(RESOURCES[self.family])}"
            )
        for name, limit in self.limits.items():
            if limit <= 0:
                raise ValueError(f"{name} of {self.part} must be positive, not {limit}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorySystem:
    """Memory chips of a board and the ports that lead to them from the programmable logic.

    Parameters
    ----------
    kind : str
        Memory type and speed, such as ``DDR3-1066``.
    size_bytes : int
        Capacity, in bytes.
    clock_hz : int
        Memory clock, in Hz.
    transfers_per_cycle : int
        2 for DDR, 1 for SDR.
    width_bits : int
        Width of the memory data bus, in bits.
    hp_ports : int
        High-performance AXI3 slave ports of the processing system; 0 where there is none, and so
        no way to this memory without a controller in the logic.
    hp_bits : int
        Data width of each of them, in bits, in each direction.
    source : str
        Document that states these numbers.
    """

    kind: str
    size_bytes: int
    clock_hz: int
    width_bits: int
    hp_ports: int
    hp_bits: int
    source: str
    transfers_per_cycle: int = 2

    def __post_init__(self) -> None:
        for field in ("size_bytes", "clock_hz", "width_bits", "transfers_per_cycle"):
            if getattr(self, field) <= 0:
                raise ValueError(
                    f"{field} of {self.kind} must be positive, not {getattr(self, field)}"
                )
        if self.hp_ports < 0 or (self.hp_bits > 0) != (self.hp_ports > 0):
            raise ValueError(
                f"hp_ports and hp_bits of {self.kind} must both be positive or both 0, not "
                f"{self.hp_ports} and {self.hp_bits}"
            )

    @property
    def peak_bytes_per_second(self) -> int:
        """Peak rate of the memory, reads and writes together, without refresh and row misses."""
        return self.clock_hz * self.transfers_per_cycle * self.width_bits // 8

    def port_bytes_per_second(self, clock_hz: int) -> int:
        """Peak rate of one HP port in one direction with its AXI clock at ``clock_hz``."""
        return clock_hz * self.hp_bits // 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """Supported board.

    Parameters
    ----------
    name : str
        Name on the command line, such as ``zc706``.
    title : str
        Name that its maker gave it.
    device : Device
        Limits of its FPGA.
    memory : MemorySystem
        Its memory chips.
    clock_hz : int
        Default clock of the programmable logic, in Hz.
    ps_clock_hz : int, optional
        Crystal of the processing system, from which its PLLs make the logic's clock; None where
        there is no processor.
    platform : callable
        ``platform()`` makes a fresh Amaranth platform; a platform object builds only once.
    toolchain : str
        Toolchain that makes a bitstream for it, as Amaranth names it.
    """

    name: str
    title: str
    device: Device
    memory: MemorySystem
    clock_hz: int
    platform: Callable[[], Platform]
    ps_clock_hz: int | None = None
    toolchain: str = "Vivado"

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            # It becomes part of file and design names, where Vivado refuses most characters.
            raise ValueError(f"board name must be an identifier, not {self.name!r}")
        if self.clock_hz <= 0:
            raise ValueError(f"clock_hz of {self.name} must be positive, not {self.clock_hz}")
