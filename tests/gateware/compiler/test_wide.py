# SPDX-License-Identifier: Apache-2.0
"""Raw outputs of one pixel and of many leave the chip in parts and come together again.

Mirrors no module: raw outputs pass through compiler, emulator and program.
"""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.program import compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_images
from tests.helpers.units import descriptors

CONFIG = AccelConfig.from_ratio(
    Ratio(60, 35, 5), 16, requant_lanes=4, act_depth=256, wide_depth=128
)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(20, 1, 1), (20, 1, 4), (20, 5, 3), (20, 7, 9), (5, 1, 13)])
@pytest.mark.parametrize("room", [1, 2, 8])
def test_equal_to_the_golden_model(shape, batch, room, seed):
    """With room for one row of pixels of a tile, for two, for more."""
    pitch = 1 if shape[1:] == (1, 1) else -(-shape[2] // CONFIG.banks) * CONFIG.banks
    build = GraphBuilder(np.random.default_rng(seed), shape, bits=4, zero_point=7)
    build.conv(INPUT, 50, 1, wide=True)
    graph = build.build()
    config = dataclasses.replace(
        CONFIG, wide_depth=1 << (room * CONFIG.rows * pitch - 1).bit_length()
    )
    program = compile_graph(graph, config, batch=batch)
    images = np.resize(random_images(graph, np.random.default_rng(seed)), (batch, *shape))
    images[1:] = np.roll(images[1:], 1, axis=1)
    memory = Emulator(config).run(
        program.image, b"".join(map(program.pack, images)), program.output_size
    )
    expected = golden.run(graph, images)[graph.output.name]
    for index, outputs in enumerate(program.read(memory)):
        np.testing.assert_array_equal(outputs[graph.output.name], expected[index])


def test_a_layer_has_more_results_than_the_buffer(seed):
    build = GraphBuilder(np.random.default_rng(seed), (16, 1, 1))
    build.linear(INPUT, 1000, wide=True)
    program = compile_graph(build.build(), dataclasses.replace(CONFIG, wide_depth=32))
    output = program.outputs[0]
    assert sorted(row for rows in output.tiles for row in rows) == list(range(1000))
    stores = [f for opcode, f in descriptors(program) if opcode is Opcode.STORE_WIDE]
    assert len(stores) == len(output.tiles) >= 1000 // 16
    # The results of a tile lie behind those that are being stored.
    sizes = np.cumsum([len(rows) for rows in output.tiles])
    assert [f["destination"] for f in stores] == [0, *(sizes[:-1] % 32).tolist()]
    assert [f["wait_executes"] for f in stores] == list(range(1, len(stores) + 1))


def test_weights_are_loaded_once_for_all_images(seed):
    build = GraphBuilder(np.random.default_rng(seed), (20, 1, 1))
    build.linear(INPUT, 50, wide=True)
    graph = build.build()
    one, three = (compile_graph(graph, CONFIG, batch=batch) for batch in (1, 3))
    loads = [
        sum(opcode is Opcode.LOAD_WEIGHTS for opcode, _ in descriptors(program))
        for program in (one, three)
    ]
    assert loads[0] == loads[1]
