# SPDX-License-Identifier: Apache-2.0
"""Waveform of the cycles in which a wrong value was made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gateware.arch import isa
from gateware.arch.isa import Opcode
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import Gemm, Pool
from gateware.compiler.program import Program, generate
from gateware.model.emulator import Emulator
from ir import cli
from ir.graph import IntGraph
from sim.verify.conditions import Conditions
from sim.verify.difference import Difference
from sim.verify.simulation import Simulation, trace

MARGIN = 300  #: cycles before and after


def record(
    program: Program,
    graph: IntGraph,
    images: np.ndarray,
    verilog: Path,
    difference: Difference,
    simulation: Simulation,
    conditions: Conditions,
    target: Path,
) -> None:
    """Waveform of the cycles around ``difference``, in ``target``, of the run of ``images`` that
    gave it, simulated again."""
    number = difference.image // program.batch
    descriptor = producer(program, graph, difference.layer, difference.channel, difference.y)
    first, last = cycles(
        simulation.samples[number], descriptor, simulation.counters[number]["CYCLES"]
    )
    cli.say(f"simulating again, for a waveform of cycles {first} to {last}")
    run = slice(number * program.batch, (number + 1) * program.batch)
    trace(
        program, images[run], verilog, (first, last), target, **conditions.options(program.config)
    )
    cli.say(f"wrote {target}: descriptor {descriptor} is at work")


def producer(program: Program, graph: IntGraph, layer: str, channel: int, y: int) -> int:
    """Number of the descriptor whose EXECUTE makes row ``y`` of a channel of the layer's output.

    Of a layer that is made in strips, the last that may have made it.
    """
    config = program.config
    plan = generate(graph, config, batch=program.batch)[0].plan
    output = next(
        operation.target
        for operation in plan.operations
        if isinstance(operation, Gemm | Pool) and operation.name == layer
    )
    place = plan.result_place(output)
    mine = {
        index
        for segment in program.segments
        if segment.layer == layer
        for index in range(segment.first, segment.last)
    }
    tiles = next((o.tiles for o in program.outputs if o.name == output.name), ())
    if tiles:
        executes = [
            index
            for index, descriptor in enumerate(isa.descriptors(program.image))
            if index in mine and descriptor.opcode is Opcode.EXECUTE
        ]
        tile = next(number for number, rows in enumerate(tiles) if channel in rows)
        return executes[tile * len(executes) // len(tiles)]
    emulator, found, rows = Emulator(config), None, 0
    for index, descriptor in enumerate(isa.descriptors(program.image)):
        f = descriptor.fields
        if descriptor.opcode is Opcode.LOAD_SLOTS:
            emulator.load_slots(f, program.image)
        elif descriptor.opcode is Opcode.EXECUTE and index in mine:
            if channel in _channels(emulator, f, place):
                if found is None or rows <= y:
                    found = index
                rows += f["out_height"]
    if found is None:
        raise ValueError(f"no EXECUTE of {layer!r} makes channel {channel}")
    return found


def _channels(emulator: Emulator, f: dict[str, int], place: TensorLayout) -> set[int]:
    """Channels that an EXECUTE makes, with the slots that are loaded."""
    k, depth = emulator.config.k, emulator.config.slot_depth
    slots = [emulator.slots[(f["slot_address"] + i) % depth] for i in range(f["slots"])]
    pitch = place.group_pitch  # bands take places of this form in turns
    base = (f["out_address"] - place.address) % place.words // pitch if f["pool"] else 0
    return {
        (base + column["offset"] // pitch) * k + j
        for slot in slots
        if slot is not None
        for j, column in enumerate(slot["columns"])
        if column["enable"]
    }


def cycles(samples: Sequence[dict[str, int]], descriptor: int, end: int) -> tuple[int, int]:
    """First and last cycle in which ``descriptor`` may have been at work, with a margin.

    ``samples`` are registers at some moments of a run of ``end`` cycles.
    """
    before = [s["CYCLES"] for s in samples if s["ERROR_DESCRIPTOR"] < descriptor]
    after = [s["CYCLES"] for s in samples if s["ERROR_DESCRIPTOR"] > descriptor]
    return (max(0, (before[-1] if before else 0) - MARGIN), (after[0] if after else end) + MARGIN)
