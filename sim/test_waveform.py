# SPDX-License-Identifier: Apache-2.0
"""The waveform around a wrong value shows the cycles in which it was made."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gateware.arch import isa
from gateware.compiler.program import Program, compile_graph
from ir.graph import IntGraph
from sim.verify import waveform
from sim.verify.difference import compare
from sim.verify.simulation import simulate, trace
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_images
from tests.helpers.seeds import suite_rng
from tests.helpers.units import TINY

CONFIG = dataclasses.replace(TINY, act_depth=256, weight_depth=64)


def network() -> IntGraph:
    builder = GraphBuilder(suite_rng(), (8, 9, 9), ratio="50:25:25", tile_rows=4)
    first = builder.conv(INPUT, 20, 3)
    builder.conv(builder.conv(first, 12, 3), 9, 1)
    return builder.build()


def broken(program: Program, load: int) -> Program:
    """``program`` with another code in its weight load number ``load``."""
    image = bytearray(program.image)
    loads = [
        descriptor
        for descriptor in isa.descriptors(program.image)
        if descriptor.opcode is isa.Opcode.LOAD_WEIGHTS
    ]
    image[loads[load].fields["offset"]] ^= 2
    return dataclasses.replace(program, image=bytes(image))


@pytest.mark.parametrize("layer", ["conv0", "conv1", "conv2"])
def test_producer(layer: str) -> None:
    """Each channel of a layer is made by one EXECUTE, which is one of the layer's."""
    graph = network()
    program = compile_graph(graph, CONFIG)
    channels = graph.tensor(layer).shape[0]
    found = [waveform.producer(program, graph, layer, channel, 0) for channel in range(channels)]
    own = [
        index
        for segment in program.segments
        if segment.layer == layer
        for index in range(segment.first, segment.last)
    ]
    assert set(found) <= set(own) and len(set(found)) == -(-channels // CONFIG.rows)
    for index in found:
        assert program.image[index * isa.DESCRIPTOR_BYTES] == isa.Opcode.EXECUTE


def test_cycles() -> None:
    samples = [{"CYCLES": 1000 * i, "ERROR_DESCRIPTOR": i // 2} for i in range(1, 10)]
    assert waveform.cycles(samples, 2, 20000) == (3000 - waveform.MARGIN, 6000 + waveform.MARGIN)
    assert waveform.cycles(samples, 0, 20000) == (0, 2000 + waveform.MARGIN)
    assert waveform.cycles(samples, 4, 20000)[1] == 20000 + waveform.MARGIN


def test_waveform(tmp_path: Path, seed: int) -> None:
    graph = network()
    program = broken(compile_graph(graph, CONFIG, dump=True), 7)
    images = random_images(graph, np.random.default_rng(seed))[:1]
    result = simulate(program, images, stall=32, seed=seed)
    mismatch = compare(graph, images, result.outputs)
    assert mismatch is not None and mismatch.layer == "conv1"
    descriptor = waveform.producer(program, graph, mismatch.layer, mismatch.channel, mismatch.y)
    end = result.counters[0]["CYCLES"]
    first, last = waveform.cycles(result.samples[0], descriptor, end)
    assert last - first < end
    file = tmp_path / "waves.vcd"
    trace(program, images, None, (first, last), file, stall=32, seed=seed)
    text = file.read_text()
    assert "accelerator" in text and "write_data" in text
    times = [int(line[1:]) for line in text.splitlines() if line.startswith("#")]
    # Picoseconds; before the run the bench resets and writes registers.
    assert abs(times[0] / 10_000 - first) < 2 and last < times[-1] / 10_000 < last + 500
