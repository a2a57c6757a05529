# SPDX-License-Identifier: Apache-2.0
"""cocotbext-axi, which speaks AXI4, on the AXI3 ports of this project. For cocotb benches."""

import itertools
import random
import warnings
from collections.abc import Iterator
from typing import Any

with warnings.catch_warnings():
    # cocotbext-axi 0.1.28 works with cocotb 2 through names that cocotb deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from cocotbext.axi import (
        AxiBus,
        AxiLiteBus,
        AxiLiteMaster,
        AxiMaster,
        AxiRam,
        AxiResp,
        AxiSlave,
    )
    from cocotbext.axi.axi_channels import AxiARSink, AxiARSource, AxiAWSink, AxiAWSource
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotbext\.")
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotb_bus\.")

__all__ = [
    "PAUSES",
    "AxiLiteBus",
    "AxiLiteMaster",
    "AxiMaster",
    "AxiRam",
    "AxiResp",
    "AxiSlave",
    "axi3_bus",
    "axi3_ram",
    "pause_channels",
    "pause_generator",
]

PAUSES = ("none", "regular", "random")


def pause_generator(kind: str, seed: int) -> Iterator[int] | None:
    """Pattern for ``set_pause_generator``: 1 is a cycle of pause. Raises ValueError."""
    if kind == "none":
        return None
    if kind == "regular":
        return itertools.cycle([1, 1, 1, 0])
    if kind != "random":
        raise ValueError(f"pauses must be one of {', '.join(PAUSES)}, not {kind!r}")
    rng = random.Random(seed)
    return iter(lambda: rng.randrange(2), None)


def axi3_bus(dut, prefix: str) -> AxiBus:
    """Bus at the port called ``prefix``, once cocotbext-axi is told that its lengths have four
    bits."""
    for side in (AxiAWSink, AxiARSink, AxiAWSource, AxiARSource):
        channel = side._signals[0][:2]
        side._signal_widths = side._signal_widths | {f"{channel}len": 4, f"{channel}lock": 2}
    return AxiBus.from_prefix(dut, f"{prefix}_")


def axi3_ram(dut, prefix: str, size: int) -> AxiRam:
    """Memory of ``size`` bytes on port ``prefix``; it fails the test at a burst across 4 KiB."""
    return AxiRam(axi3_bus(dut, prefix), dut.clk, dut.rst, size=size)


def pause_channels(slave: Any, kind: str, seed: int) -> None:
    """Pauses on all five channels of an :class:`AxiRam` or :class:`AxiSlave`.

    ``kind`` is one of :data:`PAUSES`.
    """
    channels = (
        slave.write_if.aw_channel,
        slave.write_if.w_channel,
        slave.write_if.b_channel,
        slave.read_if.ar_channel,
        slave.read_if.r_channel,
    )
    for index, channel in enumerate(channels):
        channel.set_pause_generator(pause_generator(kind, seed + index))
