# SPDX-License-Identifier: Apache-2.0
"""Digilent Arty Z7-20, XC7Z020-CLG400-1, with the platform of amaranth-boards."""

from amaranth_boards.arty_z7 import ArtyZ720Platform

from boards.board import Board
from boards.clocks import default_hz
from boards.xilinx import xc7z020, zynq7_memory

__all__ = ["ARTY_Z7"]

ARTY_Z7 = Board(
    name="arty_z7",
    title="Digilent Arty Z7-20",
    device=xc7z020("clg400", 1),
    memory=zynq7_memory(
        kind="DDR3-1050",
        size_bytes=512 << 20,
        clock_hz=525_000_000,
        width_bits=16,
        source="Arty Z7 reference manual: 512 MB, 16-bit bus at 1050 Mbit/s per pin",
    ),
    clock_hz=default_hz("arty_z7"),
    ps_clock_hz=50_000_000,
    platform=ArtyZ720Platform,
)
