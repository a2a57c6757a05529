# SPDX-License-Identifier: Apache-2.0
"""AMD/Xilinx ZC706 evaluation kit, XC7Z045-FFG900-2.

Pins as in two public board files, ``projects/common/zc706/zc706_system_constr.xdc`` of
analogdevicesinc/hdl (LEDs, buttons, switches) and ``migen/build/platforms/zc706.py`` of
m-labs/migen (clock, and the same LEDs).
"""

from amaranth.build import Attrs, Clock, DiffPairs, Pins, Resource
from amaranth.vendor import XilinxPlatform

from boards.board import Board
from boards.clocks import default_hz
from boards.xilinx import xc7z045, zynq7_memory

__all__ = ["ZC706", "ZC706Platform"]

LVCMOS25 = Attrs(IOSTANDARD="LVCMOS25")
LVCMOS15 = Attrs(IOSTANDARD="LVCMOS15")


class ZC706Platform(XilinxPlatform):
    """Amaranth platform of the ZC706; LEDs, buttons and switches are in the order left to right."""

    device = "xc7z045"
    package = "ffg900"
    speed = "2"
    default_clk = "clk200"
    resources = (
        Resource(
            "clk200",
            0,
            DiffPairs("H9", "G9", dir="i"),
            Clock(200e6),
            Attrs(IOSTANDARD="DIFF_SSTL15"),
        ),
        # One by one, because the banks have different voltages.
        Resource("led", 0, Pins("Y21", dir="o"), LVCMOS25),
        Resource("led", 1, Pins("G2", dir="o"), LVCMOS15),
        Resource("led", 2, Pins("W21", dir="o"), LVCMOS25),
        Resource("led", 3, Pins("A17", dir="o"), LVCMOS15),
        Resource("button", 0, Pins("AK25", dir="i"), LVCMOS25),
        Resource("button", 1, Pins("K15", dir="i"), LVCMOS15),
        Resource("button", 2, Pins("R27", dir="i"), LVCMOS25),
        Resource("switch", 0, Pins("AB17", dir="i"), LVCMOS25),
        Resource("switch", 1, Pins("AC16", dir="i"), LVCMOS25),
        Resource("switch", 2, Pins("AC17", dir="i"), LVCMOS25),
        Resource("switch", 3, Pins("AJ13", dir="i"), LVCMOS25),
    )
    connectors = ()


ZC706 = Board(
    name="zc706",
    title="AMD Zynq-7000 SoC ZC706 Evaluation Kit",
    device=xc7z045("ffg900", 2),
    memory=zynq7_memory(
        kind="DDR3-1066",
        size_bytes=1 << 30,
        clock_hz=533_333_333,
        width_bits=32,
        source="ZC706 user guide (UG954): 1 GB of component memory on the processing system",
    ),
    clock_hz=default_hz("zc706"),
    ps_clock_hz=33_333_333,
    platform=ZC706Platform,
)
