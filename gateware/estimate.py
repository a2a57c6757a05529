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
from gateware.drain import Drain
from gateware.isa import DESCRIPTOR_BITS, Opcode
from gateware.requant import RequantLane
from gateware.window import Window

READ_LATENCY = 40          #: cycles from a read address to its first beat, as the DDR model has it
WRITE_LATENCY = 20         #: cycles from the last beat written to the response, likewise
_COMMAND_CYCLES = 5        #: from a DMA command to its address on the bus, and to dispatch
_STORE_CYCLES_PER_BEAT = 3


@dataclasses.dataclass(frozen=True)
class Usage:
    """Estimated cells of a 7-series device."""

    lut: int
    ff: int
    dsp48e1: int
    bram36: int


def cycles(program: Program) -> dict[str, int]:
    """Cycles per segment (layer) of one image, with a memory of full bandwidth and no stalls."""
    latency = GemmArray(program.config).latency
    costs = []
    for index in range(program.segments[-1].last):
        start = index * isa.DESCRIPTOR_BYTES
        word = int.from_bytes(program.image[start:start + isa.DESCRIPTOR_BYTES], "little")
        costs.append(_fetch(program.config) + _descriptor(word, latency, program.config))
    return {s.layer: sum(costs[s.first:s.last]) for s in program.segments}


def _fetch(config: AccelConfig) -> int:
    return READ_LATENCY + DESCRIPTOR_BITS // config.bus_bits + _COMMAND_CYCLES


def _descriptor(word: int, array_latency: int, config: AccelConfig) -> int:
    opcode = Opcode(word & 0xFF)
    if opcode is not Opcode.EXECUTE:
        beats = isa.unpack(isa.TRANSFER, word)["beats"]
        if opcode in (Opcode.STORE_TENSOR, Opcode.STORE_WIDE):
            return WRITE_LATENCY + _STORE_CYCLES_PER_BEAT * beats + _COMMAND_CYCLES
        return READ_LATENCY + beats + _COMMAND_CYCLES
    f = isa.unpack(isa.EXECUTE, word)
    groups = f["out_height"] * math.ceil(f["out_width"] / config.pixels)
    words = f["kernel_y"] * f["kernel_x"] * f["groups"] * (f["planes"] + 1)
    phases = 2 if f["out_planes"] or (f["residual"] and f["residual_planes"]) else 1
    drain = f["slots"] * phases * config.pixels
    settle = Window.latency + array_latency + Drain.latency + 2
    return words + max(words, drain) * (groups - 1) + drain + settle


def resources(config: AccelConfig) -> Usage:
    """Cells of an accelerator.

    DSPs and block RAMs follow from the structure; LUTs and flip-flops are the array's formulas plus
    terms for the drain, the buffers' multiplexers and the control. ``python -m bench.synthesis``
    measures them.
    """
    array, lanes, k = GemmArray(config).resources(), config.requant_lanes, config.k
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
