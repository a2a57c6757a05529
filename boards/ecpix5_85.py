# SPDX-License-Identifier: Apache-2.0
"""LambdaConcept ECPIX-5 with the ECP5 of 84 k LUTs."""

from amaranth_boards.ecpix5 import ECPIX585Platform

from boards.board import Board, MemorySystem
from boards.clocks import default_hz
from boards.lattice import ecp5_85

__all__ = ["ECPIX5_85"]

ECPIX5_85 = Board(
    name="ecpix5_85",
    title="LambdaConcept ECPIX-5 85F",
    device=ecp5_85("LFE5UM5G-85F-8BG554C"),
    memory=MemorySystem(
        kind="DDR3-800",
        size_bytes=512 << 20,
        clock_hz=400_000_000,
        width_bits=16,
        hp_ports=0,
        hp_bits=0,
        source="ECPIX-5 documentation: 512 MB DDR3, 16 bits; 400 MHz is what an ECP5 drives",
    ),
    clock_hz=default_hz("ecpix5_85"),
    platform=ECPIX585Platform,
    toolchain="Trellis",
)
