# SPDX-License-Identifier: Apache-2.0
"""Rearrangements of pixels through the compiler: the emulator gives the golden model's tensors."""

import numpy as np
import pytest

from gateware.compiler.lower import lower
from gateware.compiler.operations import CompileError, Gemm, Rearrange
from gateware.compiler.program import compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import IntGraph
from tests.gateware.compiler.test_copies import CONFIGS
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_blocks, random_images


def check(graph: IntGraph, name: str, rng: np.random.Generator, batch: int = 1) -> None:
    config, images = CONFIGS[name], random_images(graph, rng, batch)
    program = compile_graph(graph, config, dump=True, batch=batch)
    packed = b"".join(program.pack(image) for image in images)
    memory = Emulator(config).run(program.image, packed, program.output_size)
    expected = golden.run(graph, images)
    for image, tensors in enumerate(program.read(memory)):
        for tensor, found in tensors.items():
            assert np.array_equal(found, expected[tensor][image]), tensor


@pytest.mark.parametrize("name", CONFIGS)
def test_random_blocks(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratio = "50:50:0" if name == "no Fixed-8 lanes" else "50:25:25"
    for _ in range(12):
        check(random_blocks(rng, ratio), name, rng)


def test_blocks_of_two_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    check(random_blocks(rng, "50:25:25"), "k = 16", rng, batch=2)


@pytest.mark.parametrize("groups", [1, 2, 12])
@pytest.mark.parametrize("stride", [3, 4, 5, 6, 8])
def test_large_strides(stride: int, groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    builder = GraphBuilder(rng, (3, 19, 23))
    x = builder.conv(INPUT, 12, 3, bits=8, zero_point=7)
    for kernel in (1, 3, stride, stride + 2):
        y = builder.conv(x, 12, kernel, stride=stride, groups=groups)
    check(builder.build(outputs=(y,)), "k = 16", rng)


@pytest.mark.parametrize("channels", [8, 16])
def test_a_layer_writes_its_phases_where_they_are_read(channels: int, seed: int) -> None:
    builder = GraphBuilder(np.random.default_rng(seed), (3, 4, 4))
    phases = builder.conv(INPUT, 4 * channels, 3)
    builder.conv(builder.depth_to_space(phases, (2, 2)), 4, 1)
    lowered = lower(builder.build(), CONFIGS["k = 16"])
    assert [type(operation) for operation in lowered.plan.operations] == [Gemm, Rearrange, Gemm]


def test_a_map_that_is_too_wide_is_refused(seed: int) -> None:
    builder = GraphBuilder(np.random.default_rng(seed), (1, 4, 200))
    builder.upsample(builder.conv(INPUT, 4, 1), (1, 6))
    with pytest.raises(CompileError, match=r"layer .* has a height or width of 1200"):
        compile_graph(builder.build(), CONFIGS["k = 16"])
