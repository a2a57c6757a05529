# SPDX-License-Identifier: Apache-2.0
"""What a board is: device limits, memory system, clock and platform. Knows no accelerator."""

import dataclasses
from collections.abc import Callable

from amaranth.build import Platform


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """Limits of one FPGA.

    Parameters
    ----------
    part : str
        Full part name: device, package and speed grade, such as ``xc7z045ffg900-2``.
    luts, flip_flops, dsp48e1, bram36 : int
        6-input LUTs, flip-flops, DSP48E1 slices and 36 Kbit block RAMs.
    source : str
        Document that states these numbers.
    """

    part: str
    luts: int
    flip_flops: int
    dsp48e1: int
    bram36: int
    source: str

    def __post_init__(self) -> None:
        for field in ("luts", "flip_flops", "dsp48e1", "bram36"):
            if getattr(self, field) <= 0:
                raise ValueError(
                    f"{field} of {self.part} must be positive, not {getattr(self, field)}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorySystem:
    """DDR memory of the processing system and the ports that lead to it.

    Parameters
    ----------
    kind : str
        Memory type and speed, such as ``DDR3-1066``.
    size_bytes : int
        Capacity.
    clock_hz : int
        Memory clock; two transfers per cycle.
    width_bits : int
        Width of the memory data bus.
    hp_ports : int
        High-performance AXI3 slave ports of the processing system.
    hp_bits : int
        Data width of each of them, in each direction.
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

    def __post_init__(self) -> None:
        for field in ("size_bytes", "clock_hz", "width_bits", "hp_ports", "hp_bits"):
            if getattr(self, field) <= 0:
                raise ValueError(
                    f"{field} of {self.kind} must be positive, not {getattr(self, field)}"
                )

    @property
    def peak_bytes_per_second(self) -> int:
        """Peak of the memory itself, reads and writes together, no refresh or row misses."""
        return self.clock_hz * 2 * self.width_bits // 8

    def port_bytes_per_second(self, clock_hz: int) -> int:
        """Peak of one HP port in one direction with its AXI clock at ``clock_hz``."""
        return clock_hz * self.hp_bits // 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Board:
    """One supported board.

    Parameters
    ----------
    name : str
        Name on the command line, such as ``zc706``.
    title : str
        Name that its maker gave it.
    device : Device
        Limits of its FPGA.
    memory : MemorySystem
        Memory that an accelerator reaches.
    clock_hz : int
        Default clock of the programmable logic.
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
    toolchain: str = "Vivado"

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            # It becomes part of file and design names, where Vivado refuses most characters.
            raise ValueError(f"board name must be an identifier, not {self.name!r}")
        if self.clock_hz <= 0:
            raise ValueError(f"clock_hz of {self.name} must be positive, not {self.clock_hz}")
