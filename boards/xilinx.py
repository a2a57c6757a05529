# SPDX-License-Identifier: Apache-2.0
"""Facts shared by boards with a Zynq-7000: part limits and the memory ports of the silicon."""

from boards.board import Device, MemorySystem

DS190 = "Zynq-7000 SoC Data Sheet: Overview (DS190), table of the programmable logic"

HP_PORTS = 4  #: AXI_HP0..3 of the Zynq-7000 (UG585, chapter 5)
HP_BITS = 64  #: their native width


def xc7z020(package: str, speed: int) -> Device:
    """Limits of an XC7Z020 in ``package`` (such as ``clg484``), speed grade ``speed`` (1 to 3)."""
    return Device(
        part=f"xc7z020{package}-{speed}",
        family="xc7",
        limits={"lut": 53_200, "ff": 106_400, "dsp48e1": 220, "bram36": 140},
        source=DS190,
    )


def xc7z045(package: str, speed: int) -> Device:
    """Limits of an XC7Z045 in ``package`` (such as ``ffg900``), speed grade ``speed`` (1 to 3)."""
    return Device(
        part=f"xc7z045{package}-{speed}",
        family="xc7",
        limits={"lut": 218_600, "ff": 437_200, "dsp48e1": 900, "bram36": 545},
        source=DS190,
    )


def zynq7_memory(
    *, kind: str, size_bytes: int, clock_hz: int, width_bits: int, source: str
) -> MemorySystem:
    """Memory of a board behind the four 64-bit HP ports that every Zynq-7000 of this size has."""
    return MemorySystem(
        kind=kind,
        size_bytes=size_bytes,
        clock_hz=clock_hz,
        width_bits=width_bits,
        hp_ports=HP_PORTS,
        hp_bits=HP_BITS,
        source=source,
    )
