# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Elaboration of every unit twice, here in one place: no method leaves anything in the object.

Mirrors no module: one rule for all units.
"""

import dataclasses

import pytest
from amaranth.back import rtlil

from gateware.pe.series7 import Series7
from gateware.rtl.array import GemmArray
from gateware.rtl.axi import Axi3Signature
from gateware.rtl.axi_bridge import Axi3ToLite
from gateware.rtl.buffers import ActBuffer, BeatBuffer
from gateware.rtl.control import Sequencer
from gateware.rtl.dma_port import DmaPort
from gateware.rtl.drain import Drain
from gateware.rtl.engine import TileEngine
from gateware.rtl.fetch import Fetcher
from gateware.rtl.loader import Loader
from gateware.rtl.read_share import ReadShare
from gateware.rtl.register_file import RegisterFile
from gateware.rtl.requant import RequantLane
from gateware.rtl.sequence import TileLoop
from gateware.rtl.storer import Storer
from gateware.rtl.window import Window
from gateware.soc.memory import BlockMemory
from gateware.soc.serial import SerialBridge
from tests.helpers.units import TINY

#: What takes an AccelConfig; the first three depend on the copies of the activations.
OF_CONFIG = (
    (ActBuffer, 1),
    (Drain, 1),
    (TileLoop, 1),
    *(
        (make, 2)
        for make in (
            ActBuffer,
            Drain,
            TileLoop,
            Fetcher,
            GemmArray,
            Loader,
            RegisterFile,
            Sequencer,
            Storer,
            TileEngine,
            Window,
        )
    ),
)
OTHERS = {
    "Axi3ToLite": Axi3ToLite,
    "BeatBuffer": lambda: BeatBuffer(beats=4, bus_bits=32, depth=8, ports=2),
    "BlockMemory": lambda: BlockMemory(4096, Axi3Signature(32, 32, 6)),
    "DmaPort": DmaPort,
    "ReadShare": lambda: ReadShare(32),
    "RequantLane": RequantLane,
    "SerialBridge": lambda: SerialBridge(addr_bits=12, memory_bytes=4096),
}


def text(unit) -> str:
    return rtlil.convert(unit, platform=Series7(), emit_src=False)


@pytest.mark.slow
@pytest.mark.parametrize("make,act_copies", OF_CONFIG)
def test_units_of_an_array_elaborate_twice(make, act_copies: int) -> None:
    unit = make(dataclasses.replace(TINY, act_copies=act_copies))
    assert text(unit) == text(unit)


@pytest.mark.parametrize("name", OTHERS)
def test_other_units_elaborate_twice(name: str) -> None:
    unit = OTHERS[name]()
    assert text(unit) == text(unit)
