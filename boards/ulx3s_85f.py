# SPDX-License-Identifier: Apache-2.0
"""Radiona ULX3S with the ECP5 of 84 k LUTs."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from boards.board import Board, MemorySystem
from boards.clocks import default_hz
from boards.lattice import ecp5_85

__all__ = ["ULX3S_85F"]

ULX3S_85F = Board(
    name="ulx3s_85f",
    title="Radiona ULX3S-85F",
    device=ecp5_85("LFE5U-85F-6BG381C"),
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
    clock_hz=default_hz("ulx3s_85f"),
    platform=ULX3S_85F_Platform,
    toolchain="Trellis",
)
