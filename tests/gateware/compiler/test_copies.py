# SPDX-License-Identifier: Apache-2.0
"""Gathers through the compiler: the emulator gives the golden model's tensors."""

import dataclasses

import numpy as np
import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.compiler.program import compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import IntGraph
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_gathers, random_images
from tests.helpers.units import TINY

CONFIGS = {
    "k = 8": dataclasses.replace(TINY, act_depth=1024, weight_depth=256, slot_depth=64),
    "k = 16": AccelConfig.from_ratio(Ratio(50, 25, 25), 16, pixels=4, requant_lanes=8),
    "no Fixed-8 lanes": AccelConfig.from_ratio(Ratio(50, 50, 0), 16, pixels=4, requant_lanes=8),
    "one copy": AccelConfig.from_ratio(Ratio(50, 25, 25), 16, pixels=2, act_copies=1),
}


def check(graph: IntGraph, config: AccelConfig, rng: np.random.Generator) -> None:
    images = random_images(graph, rng)
    program = compile_graph(graph, config)
    memory = Emulator(config).run(program.image, program.pack(images[0]), program.output_size)
    expected = golden.run(graph, images)
    for name, found in program.read(memory)[0].items():
        assert np.array_equal(found, expected[name][0]), name


@pytest.mark.parametrize("name", CONFIGS)
def test_random_gathers(name, seed):
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    ratio = "50:50:0" if name == "no Fixed-8 lanes" else "50:25:25"
    for _ in range(12):
        check(random_gathers(rng, ratio), config, rng)


@pytest.mark.parametrize("name", CONFIGS)
def test_flattened_maps_are_joined(name, seed):
    rng = np.random.default_rng(seed)
    ratio = "50:50:0" if name == "no Fixed-8 lanes" else "50:25:25"
    builder = GraphBuilder(rng, (3, 4, 4), ratio=ratio)
    a = builder.conv(INPUT, 9, 3)
    b = builder.on_grid(builder.conv(INPUT, 5, 3, stride=2), a)
    joined = builder.gather((builder.flatten(a), builder.flatten(b)), [*range(164), -1])
    graph = builder.build(outputs=(builder.linear(joined, 7), joined))
    check(graph, CONFIGS[name], rng)


def test_an_aligned_copy_reads_no_word_in_vain(seed):
    builder = GraphBuilder(np.random.default_rng(seed), (32, 4, 4))
    other = builder.conv(INPUT, 16, 1)
    builder.on_grid(other, INPUT)
    builder.gather((other, INPUT), range(48))
    program = compile_graph(builder.build(), CONFIGS["k = 16"])
    executes = [d for d in isa.descriptors(program.image) if d.opcode is isa.Opcode.EXECUTE]
    copies = executes[-3:]
    assert [d.fields["groups"] for d in copies] == [1, 1, 1]
