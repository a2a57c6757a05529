# SPDX-License-Identifier: Apache-2.0
"""Boards with a Lattice ECP5, which open tools take from Verilog to bitstream.

No processor, and no controller here for their memory chips: an accelerator on them has the block
RAM of the FPGA and a serial port to a computer.
"""

from amaranth_boards.ecpix5 import ECPIX585Platform
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from boards.board import Board, Device, MemorySystem

__all__ = ["ECPIX5_85", "ULX3S_85F"]

DS02012 = "ECP5 and ECP5-5G Family Data Sheet (FPGA-DS-02012), table 1.1; LUTs as nextpnr has them"


def _ecp5_85(part: str) -> Device:
    """An ECP5 of 84 k LUTs."""
    return Device(
        part=part,
        family="ecp5",
        limits={"lut4": 83_640, "ff": 83_640, "mult18": 156, "ebr": 208},
        source=DS02012,
    )


ULX3S_85F = Board(
    name="ulx3s_85f",
    title="Radiona ULX3S-85F",
    device=_ecp5_85("LFE5U-85F-6BG381C"),
    memory=MemorySystem(
        kind="SDR SDRAM at 166 MHz",
        size_bytes=32 << 20,
        clock_hz=166_000_000,
        width_bits=16,
        transfers_per_cycle=1,
        hp_ports=0,
        hp_bits=0,
        source="ULX3S manual: 32 MB SDRAM, 166 MHz, 16 bits",
    ),
    clock_hz=50_000_000,
    platform=ULX3S_85F_Platform,
    toolchain="Trellis",
)

ECPIX5_85 = Board(
    name="ecpix5_85",
    title="LambdaConcept ECPIX-5 85F",
    device=_ecp5_85("LFE5UM5G-85F-8BG554C"),
    memory=MemorySystem(
        kind="DDR3-800",
        size_bytes=512 << 20,
        clock_hz=400_000_000,
        width_bits=16,
        hp_ports=0,
        hp_bits=0,
        source="ECPIX-5 documentation: 512 MB DDR3, 16 bits; 400 MHz is what an ECP5 drives",
    ),
    clock_hz=50_000_000,
    platform=ECPIX585Platform,
    toolchain="Trellis",
)
