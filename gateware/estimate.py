# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Estimates without a tool: cycles of a program, resources of a configuration.

Both are held against measurements: cycles against RTL simulation in ``sim/test_accelerator.py``,
resources against synthesis by ``python -m bench.synthesis``.
"""

import dataclasses
import math

from gateware import isa
from gateware.array import GemmArray
from gateware.compiler.program import Program
from gateware.config import AccelConfig
from gateware.requant import RequantLane
from gateware.timeline import Timeline


@dataclasses.dataclass(frozen=True)
class Usage:
    """Estimated cells of a 7-series device."""

    lut: int
    ff: int
    dsp48e1: int
    bram36: int


def cycles(program: Program, beats_per_cycle: float | None = None) -> dict[str, int]:
    """Cycles per segment (layer) of one image, with a memory that never stalls.

    ``beats_per_cycle`` is what it gives to all ports together, by default a beat to each. A layer's
    cycles begin when the layers before it are complete: what is loaded for it meanwhile costs
    nothing.
    """
    timeline = Timeline(program.config, program.image, beats_per_cycle)
    result, before = {}, 0
    for segment in program.segments:
        end = max(span.end for span in timeline.spans[segment.first:segment.last])
        result[segment.layer] = result.get(segment.layer, 0) + max(0, end - before)
        before = max(before, end)
    result[program.segments[-1].layer] += timeline.cycles - before
    return result


def resources(config: AccelConfig) -> Usage:
    """Cells of an accelerator.

    DSPs and block RAMs follow from the structure; LUTs and flip-flops are the array's formulas plus
    terms for the drain, the buffers' multiplexers and the control. ``python -m bench.synthesis``
    measures them.
    """
    array, lanes, k = GemmArray.resources(config), config.requant_lanes, config.k
    requant = RequantLane.resources()
    slot_bits = isa.slot_layout(config).size
    choices = (config.rows + k) // lanes * config.pixels
    drain_lut = lanes * (requant.lut + 25 * max(1, choices // 3)) + k * (lanes * 3 + 80) + slot_bits
    window_lut = config.pixels * k * 4 * max(1, config.banks // 3)
    gather_lut = k * 4 * max(1, config.banks // 3)
    control_lut, control_ff = 2500, 3500
    # A 4-bit column takes a RAMB18 per 4096 words, twice because it is read at two places at once.
    act_bram18 = config.banks * k * 2 * math.ceil(config.act_depth / 4096)
    beat_bram18 = 2 * config.weight_beats * math.ceil(config.weight_depth / 512)
    slot_words = math.ceil(config.slot_depth / 64)
    slot_lutram = isa.slot_beats(config) * config.bus_bits * slot_words * 4 // 3
    return Usage(
        lut=array.lut + drain_lut + window_lut + gather_lut + control_lut + slot_lutram,
        ff=array.ff + lanes * requant.ff + slot_bits * 3 + control_ff,
        dsp48e1=array.dsp48e1 + lanes * requant.dsp48e1,
        bram36=math.ceil((act_bram18 + beat_bram18) / 2))
