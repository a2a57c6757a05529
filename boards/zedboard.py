# SPDX-License-Identifier: Apache-2.0
"""Avnet/Digilent ZedBoard, XC7Z020-CLG484-1.

Pins as in the public board file ``migen/build/platforms/zedboard.py`` of m-labs/migen.
"""

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import XilinxPlatform
from amaranth_boards.resources import ButtonResources, LEDResources, SwitchResources

from boards.board import Board
from boards.clocks import default_hz
from boards.xilinx import xc7z020, zynq7_memory

__all__ = ["ZEDBOARD", "ZedBoardPlatform"]

LVCMOS33 = Attrs(IOSTANDARD="LVCMOS33")
# Banks 34 and 35 follow jumper J18, which the maker sets to 1.8 V.
LVCMOS18 = Attrs(IOSTANDARD="LVCMOS18")


class ZedBoardPlatform(XilinxPlatform):
    """Amaranth platform of the ZedBoard; buttons are centre, down, left, right, up."""

    device = "xc7z020"
    package = "clg484"
    speed = "1"
    default_clk = "clk100"
    resources = (
        Resource("clk100", 0, Pins("Y9", dir="i"), Clock(100e6), LVCMOS33),
        *LEDResources(pins="T22 T21 U22 U21 V22 W22 U19 U14", attrs=LVCMOS33),
        *ButtonResources(pins="P16 R16 N15 R18 T18", attrs=LVCMOS18),
        *SwitchResources(pins="F22 G22 H22 F21 H19 H18 H17 M15", attrs=LVCMOS18),
    )
    connectors = ()


ZEDBOARD = Board(
    name="zedboard",
    title="Avnet ZedBoard",
    device=xc7z020("clg484", 1),
    memory=zynq7_memory(
        kind="DDR3-1066",
        size_bytes=512 << 20,
        clock_hz=533_333_333,
        width_bits=32,
        source="ZedBoard hardware user's guide: two 16-bit DDR3 devices, 512 MB",
    ),
    clock_hz=default_hz("zedboard"),
    ps_clock_hz=33_333_333,
    platform=ZedBoardPlatform,
)
