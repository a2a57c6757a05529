# SPDX-License-Identifier: Apache-2.0
"""A network with a host between its layers: a program for each layer, equal in every tensor."""

import dataclasses
from pathlib import PurePosixPath

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import compile_all, folded, layer_graph, on_accelerator
from gateware.compiler.operations import CompileError
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import Host
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_tokens, residual_graph, sequence_graph, sequence_host

CONFIG = AccelConfig.from_ratio(
    Ratio(60, 35, 5), 16, requant_lanes=4, act_depth=256, wide_depth=128
)


@pytest.mark.parametrize("length", [1, 5, 8, 12])
def test_equal_to_the_golden_model(length, seed):
    graph = sequence_graph(seed, length=length)
    compiled = compile_all(graph, CONFIG)
    emulator, runs = Emulator(CONFIG), []

    def execute(program, codes):
        runs.append(program.name)
        memory = emulator.run(program.image, program.pack(codes), program.output_size)
        return program.outputs[0].read(memory)

    tokens = random_tokens(graph, np.random.default_rng(seed), 3)
    expected = golden.run(graph, tokens, sequence_host)
    got = golden.run(graph, tokens, sequence_host, on_accelerator(compiled, execute))
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(got[name], tensor, name)
    layers = [node.name for node in graph.nodes if not isinstance(node, Host)]
    assert runs == [name for name in layers for _ in range(3)] and len(layers) == 4
    assert [one.folder for one in compiled] == [PurePosixPath("layers", name) for name in layers]


def test_sequences_fill_the_pixel_lanes():
    banks = CONFIG.banks
    assert folded((7, 2 * banks, 1), CONFIG) == (7, 2, banks)
    assert folded((7, banks + 1, 1), CONFIG) == (7, banks + 1, 1)  # 5, a prime
    assert folded((7, 3, 1), CONFIG) == (7, 1, 3)
    assert folded((7, 1, 1), CONFIG) == (7, 1, 1)
    assert folded((7, 4, 6), CONFIG) == (7, 4, 6)  # an image stays


def test_a_network_without_a_host_is_one_program():
    graph = residual_graph(1, size=8)
    (one,) = compile_all(graph, dataclasses.replace(CONFIG, act_depth=1024))
    assert one.graph is graph and not one.folder.parts and one.tensor == graph.header.input


def test_several_inputs_in_a_run_are_refused():
    with pytest.raises(
        CompileError, match="'sequence-1' calls the accelerator layer by layer; there is no batch"
    ):
        compile_all(sequence_graph(1), CONFIG, batch=2)


def test_other_layers_are_refused(seed):
    build = GraphBuilder(np.random.default_rng(seed), (4, 6, 6))
    build.max_pool(INPUT, 2)
    graph = build.build()
    with pytest.raises(CompileError, match="node 'max_pool0' is no linear layer between"):
        layer_graph(graph, graph.nodes[0], CONFIG)
