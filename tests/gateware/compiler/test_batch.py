# SPDX-License-Identifier: Apache-2.0
"""Several images in one run: the same results, and fewer weights to load."""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.lower import lower
from gateware.compiler.operations import TensorKey
from gateware.compiler.program import Program, compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import Header, IntGraph
from ir.ratio import Ratio
from tests.helpers.graphs import random_images, residual_block, residual_graph
from tests.helpers.units import descriptors

CONFIG = AccelConfig.from_ratio(
    Ratio(60, 35, 5), 32, bus_bits=32, ports=2, requant_lanes=4, act_depth=4096, slot_depth=128
)


def run(graph: IntGraph, program: Program, seed: int) -> None:
    """A run of random images leaves the golden model's tensors for each of them."""
    images = random_images(graph, np.random.default_rng(seed))
    images = np.resize(images, (program.batch, *images.shape[1:]))
    images[1:] = np.roll(images[1:], 1, axis=-1)  # no two of them equal
    memory = Emulator(program.config).run(
        program.image, b"".join(program.pack(image) for image in images), program.output_size
    )
    reference = golden.run(graph, images)
    for index, outputs in enumerate(program.read(memory)):
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, reference[name][index], f"{index} {name}")
    logits = [outputs[graph.output.name].tobytes() for outputs in program.read(memory)]
    assert len(set(logits)) > 1 or program.batch == 1


def beats(program: Program, opcode: Opcode) -> int:
    return sum(fields["beats"] for found, fields in descriptors(program) if found is opcode)


def test_names():
    """Names for people, of keys that differ; the graph's tensor may have any name."""
    key = TensorKey("conv reloaded of image 1")
    assert str(key) == key.name and key.origin == key
    other = key.of_image(3).reloaded()
    assert str(other) == f"{key.name} of image 3 reloaded" and other.origin == key.of_image(3)
    assert len({key, key.of_image(3), other, other.reloaded()}) == 4


def test_names_that_look_like_images_and_moves(seed):
    """Nothing is read out of a tensor's name."""
    graph, config = residual_block(), dataclasses.replace(CONFIG, act_depth=1024, act_copies=1)
    names = {spec.name: f"{spec.name} of image 1 reloaded" for spec in graph.header.tensors}
    text = graph.header.model_dump_json()
    for name, new in names.items():
        for field in ("name", "input", "output", "tensor"):
            text = text.replace(f'"{field}":"{name}"', f'"{field}":"{new}"')
    header = Header.model_validate_json(text)
    layers = {names[name]: layer for name, layer in graph.layers.items()}
    named = IntGraph(header, layers)
    program = compile_graph(named, config, batch=2)
    assert program.image == compile_graph(graph, config, batch=2).image
    run(named, program, seed)


@pytest.mark.slow
@pytest.mark.parametrize("dump", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_equal_to_the_golden_model(batch, dump, seed):
    graph = residual_block()
    run(graph, compile_graph(graph, CONFIG, dump=dump, batch=batch), seed)


@pytest.mark.parametrize("batch", [2, 4])
def test_a_network_that_runs_layer_by_layer_from_the_start(batch, seed):
    graph = residual_graph(seed)
    run(graph, compile_graph(graph, CONFIG, batch=batch), seed)


def test_in_a_small_buffer(seed):
    """Strips of the input, tensors in memory, one copy: all at once."""
    graph, config = residual_block(), dataclasses.replace(CONFIG, act_depth=1024, act_copies=1)
    plan = lower(graph, config, 2).plan
    assert plan.input_strips
    run(graph, compile_graph(graph, config, dump=True, batch=2), seed)


def test_weights_that_take_long_to_load_are_loaded_once():
    # Behind the pooling, layers have so few pixels that a tile is loaded slower than computed.
    config = dataclasses.replace(CONFIG, ports=1)
    graph = residual_block()
    one, four = (compile_graph(graph, config, batch=batch) for batch in (1, 4))
    assert beats(four, Opcode.LOAD_TENSOR) >= 4 * beats(one, Opcode.LOAD_TENSOR)
    assert beats(four, Opcode.LOAD_WEIGHTS) < 3 * beats(one, Opcode.LOAD_WEIGHTS)


def test_save_and_load(tmp_path):
    program = compile_graph(residual_graph(1), CONFIG, batch=3)
    program.save(tmp_path)
    assert Program.load(tmp_path) == program
