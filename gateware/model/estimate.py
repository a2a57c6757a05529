# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Estimates without a tool: cycles of a program, resources of a configuration.

Both are held against measurements: cycles against RTL simulation in ``sim/test_accelerator.py``,
resources against the synthesis of whole accelerators in ``tests/test_bench.py``. What the row
engines take is beside them, in :mod:`gateware.pe`.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig, Fixed4Style
from gateware.compiler.hybrid import Compiled
from gateware.compiler.program import Program
from gateware.model.timeline import Timeline
from gateware.pe.base import SUM_BITS
from gateware.rtl.array import GemmArray
from gateware.rtl.lookup import LANES_PER_COPY, LookupLane
from gateware.rtl.requant import RequantLane
from ir.numerics import ACT_BITS, BIAS_BITS, MULTIPLIER_BITS, SHIFT_MAX

PRODUCT_LUTS = 23  #: of a requantiser that can multiply two codes
TABLE_PORT_FF = 18  #: copies of what is written to some tables


@dataclasses.dataclass(frozen=True)
class Usage:
    """Estimated cells of a 7-series device; a RAMB18E1 is half a ``bram36``."""

    lut: int = 0
    ff: int = 0
    dsp48e1: int = 0
    bram36: float = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.lut + other.lut,
            self.ff + other.ff,
            self.dsp48e1 + other.dsp48e1,
            self.bram36 + other.bram36,
        )

    def __mul__(self, count: int) -> "Usage":
        return Usage(self.lut * count, self.ff * count, self.dsp48e1 * count, self.bram36 * count)


def cycles(program: Program, beats_per_cycle: float | None = None) -> dict[str, int]:
    """Cycles per segment (layer) of one image, its share of a run, with a memory that never stalls.

    ``beats_per_cycle`` is what it gives to all ports together, by default a beat to each. A layer's
    cycles begin when the layers before it are complete: what is loaded for it meanwhile costs
    nothing.
    """
    timeline = Timeline(program.config, program.image, beats_per_cycle)
    result, before = {}, 0
    for segment in program.segments:
        end = max(span.end for span in timeline.spans[segment.first : segment.last])
        result[segment.layer] = result.get(segment.layer, 0) + max(0, end - before)
        before = max(before, end)
    result[program.segments[-1].layer] += timeline.cycles - before
    return {layer: round(count / program.batch) for layer, count in result.items()}


def layer_cycles(
    compiled: Sequence[Compiled], beats_per_cycle: float | None = None
) -> dict[str, int]:
    """Cycles per layer of one image of a network; of a layer that has a program of its own, all of
    that program."""
    if not compiled[0].folder.parts:
        return cycles(compiled[0].program, beats_per_cycle)
    return {one.name: sum(cycles(one.program, beats_per_cycle).values()) for one in compiled}


def resources(config: AccelConfig) -> Usage:
    """Estimated cells of an accelerator: the sum of :func:`parts`."""
    return sum(parts(config).values(), Usage())


def parts(config: AccelConfig) -> dict[str, Usage]:
    """Estimated cells by part, named as :func:`gateware.flow.yosys.Netlist.units` names them, but
    for the array, whose engines are not told apart.

    DSPs, block RAMs and memories of LUTs follow from the structure, and so do flip-flops; LUTs of
    logic are fitted to ``bench/results/synthesis.json``.
    """
    return {
        "engine.array": _array(config.lanes, config.pixels, config.bus_bits, config.fixed4_style),
        "engine.drain": _drain(config),
        "engine.window": _window(config),
        # A word of weights, an EXECUTE; a job on its way in shift registers.
        "engine": Usage(lut=160, ff=config.weight_bits + 417),
        "engine.loop": Usage(lut=466, ff=480),
        "act": _act_buffer(config),
        "weights": _beat_buffer(config, config.weight_beats, config.weight_depth),
        "slots": _slot_buffer(config),
        "wide": _wide_buffer(config),
        "loader": _loader(config),
        "storer": Usage(lut=251, ff=260),
        "dma": Usage(lut=230, ff=310) + Usage(lut=105, ff=120) * (config.ports - 1),
        "fetcher": Usage(lut=73, ff=600, bram36=1) + Usage(lut=135, ff=100),
        "sequencer": Usage(lut=1296, ff=300),
        "regs": Usage(lut=483, ff=510),
    }


@functools.cache
def _array(
    lanes: tuple[int, int, int], pixels: int, bus_bits: int, fixed4_style: Fixed4Style
) -> Usage:
    """Cached, because a search asks for the same array with many buffers."""
    depth = 1 << (sum(lanes) - 1).bit_length()
    found = GemmArray.resources(
        AccelConfig(
            **dict(zip(("pot4_rows", "fixed4_rows", "fixed8_rows"), lanes, strict=True)),
            pixels=pixels,
            bus_bits=bus_bits,
            fixed4_style=fixed4_style,
            requant_lanes=1,
            slot_depth=depth,
            wide_depth=depth,
        )
    )
    return Usage(found.lut, found.ff, found.dsp48e1)


def _choice(ways: int) -> float:
    """LUTs of one bit that is chosen from ``ways``: four ways a LUT, and a few to steer them."""
    return ways / 2


def _drain(config: AccelConfig) -> Usage:
    """Requantisers, the choice of a sum for each, and of results for each nibble column."""
    lanes, k, pixels = config.requant_lanes, config.k, config.drain_pixels
    requant = RequantLane.resources()
    ways = (config.rows + k) // lanes * config.pixels
    slot_bits = isa.slot_layout(config).size
    waiting = 3 * (MULTIPLIER_BITS + BIAS_BITS + SHIFT_MAX.bit_length())  # for the lane's sum
    table = LookupLane.resources()
    tables = Usage(
        lut=pixels * lanes * (table.lut + PRODUCT_LUTS),
        ff=pixels * lanes * (table.ff + 1)
        + TABLE_PORT_FF * math.ceil(pixels * lanes / LANES_PER_COPY),
    )
    # Of each pixel beside the first: requantisers, with sums, operands and results of their own.
    more = Usage(
        lut=lanes * (requant.lut + 20) + k * lanes * 3 + 5 * BIAS_BITS,
        ff=lanes * (requant.ff + 3 * SUM_BITS + 10) + BIAS_BITS + 12 * k,
        dsp48e1=lanes * requant.dsp48e1,
    )
    return (
        (tables if config.tables else Usage())
        + more * (pixels - 1)
        + Usage(
            lut=round(
                lanes * (requant.lut + SUM_BITS * _choice(ways)) + k * (lanes * 3 + 40) + slot_bits
            ),
            ff=lanes * (requant.ff + waiting) + 2 * slot_bits + 1000,
            dsp48e1=lanes * requant.dsp48e1,
        )
    )


def _window(config: AccelConfig) -> Usage:
    """Every bit of a word is chosen from all banks; the addresses of the banks."""
    bits = config.pixels * config.k * ACT_BITS
    return Usage(
        lut=round(bits * _choice(config.banks)) + 40 * config.pixels, ff=bits + 24 * config.banks
    )


def _act_buffer(config: AccelConfig) -> Usage:
    """Loads and results share the write port of each nibble column, and with one port of the words
    what is read for the drain and for stores, too."""
    columns, address = config.banks * config.k, ceil_log2(config.act_depth)
    return Usage(
        lut=columns * (address + ACT_BITS + 1) + config.banks * (config.k * ACT_BITS // 4 + 10),
        ff=540 + 8 * config.banks,
        # A RAMB18E1 of four bits has 4096 words.
        bram36=columns * config.act_copies * math.ceil(config.act_depth / 4096) / 2,
    )


def _beat_buffer(config: AccelConfig, beats: int, depth: int) -> Usage:
    """A RAMB36E1 of 64 bits has 512 words, narrower ones more. Depths that are no power of two are
    made of memories that are, and of these is chosen bit by bit."""
    blocks = math.ceil(depth / 512)
    choice = (blocks.bit_count() - 1) * config.weight_bits
    return Usage(
        lut=36 * config.ports + round(choice),
        ff=15 * config.ports + _copies(config, beats, depth),
        bram36=beats * blocks * config.bus_bits / 64,
    )


def _copies(config: AccelConfig, beats: int, depth: int) -> int:
    """Flip-flops of the copies of what is written, of the address that is read, and enables."""
    written = config.ports * math.ceil(beats / config.ports / 8)
    return written * (config.bus_bits + ceil_log2(depth)) + beats * ceil_log2(depth) // 2 + beats


def _slot_buffer(config: AccelConfig) -> Usage:
    """In LUTs: a RAM64M holds three bits of 64 words and takes four."""
    beats, deep = isa.slot_beats(config), math.ceil(config.slot_depth / 64)
    memories = beats * math.ceil(config.bus_bits / 3) * deep
    choice = beats * config.bus_bits * math.ceil(deep / 4) if deep > 1 else 0
    return Usage(
        lut=4 * memories + choice + 26 * config.ports,
        ff=beats * config.bus_bits + 9 * config.ports + _copies(config, beats, config.slot_depth),
    )


def _wide_buffer(config: AccelConfig) -> Usage:
    """And who addresses the activation buffer: drain or stores."""
    choice = Usage(lut=config.k * ceil_log2(config.act_depth))
    if config.wide_depth <= 64:
        return choice + Usage(lut=4 * math.ceil(BIAS_BITS / 3), ff=BIAS_BITS)
    # A RAMB18E1 of 18 bits has 1024 words.
    memories = math.ceil(BIAS_BITS / 18) * math.ceil(config.wide_depth / 1024)
    return choice + Usage(bram36=memories / 2)


def _loader(config: AccelConfig) -> Usage:
    """Its queues are of LUTs; the first port also walks tensors."""
    return Usage(lut=509, ff=430) + Usage(lut=134, ff=150) * (config.ports - 1)
