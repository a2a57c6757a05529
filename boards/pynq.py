# SPDX-License-Identifier: Apache-2.0
"""Common part of PYNQ-Z1 and PYNQ-Z2: an XC7Z020-CLG400-1 with the same clock, lights and keys.

Pins as in the makers' constraint files ``PYNQ-Z1_C.xdc`` and ``PYNQ-Z2 v1.0.xdc``.
"""

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import XilinxPlatform
from amaranth_boards.resources import (
    ButtonResources,
    LEDResources,
    RGBLEDResource,
    SwitchResources,
)

from boards.board import Board
from boards.clocks import default_hz
from boards.xilinx import xc7z020, zynq7_memory

LVCMOS33 = Attrs(IOSTANDARD="LVCMOS33")


class PynqPlatform(XilinxPlatform):
    """Amaranth platform of both boards."""

    device = "xc7z020"
    package = "clg400"
    speed = "1"
    default_clk = "clk125"
    resources = (
        Resource("clk125", 0, Pins("H16", dir="i"), Clock(125e6), LVCMOS33),
        *LEDResources(pins="R14 P14 N16 M14", attrs=LVCMOS33),
        RGBLEDResource(0, r="N15", g="G17", b="L15", attrs=LVCMOS33),
        RGBLEDResource(1, r="M15", g="L14", b="G14", attrs=LVCMOS33),
        *ButtonResources(pins="D19 D20 L20 L19", attrs=LVCMOS33),
        *SwitchResources(pins="M20 M19", attrs=LVCMOS33),
    )
    connectors = ()


def pynq(name: str, title: str, manual: str) -> Board:
    """Board called ``name``; ``manual`` is the document that states its memory."""
    return Board(
        name=name,
        title=title,
        device=xc7z020("clg400", 1),
        memory=zynq7_memory(
            kind="DDR3-1050",
            size_bytes=512 << 20,
            clock_hz=525_000_000,
            width_bits=16,
            source=f"{manual}: 512 MB, 16-bit bus at 1050 Mbit/s per pin",
        ),
        clock_hz=default_hz(name),
        ps_clock_hz=50_000_000,
        platform=PynqPlatform,
    )
