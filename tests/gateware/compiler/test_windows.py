# SPDX-License-Identifier: Apache-2.0
"""Poolings of any windows in the emulator: in parts, by picked columns, maxima of 8-bit codes."""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.compiler.operations import CompileError
from gateware.compiler.program import compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import IntGraph, Window
from quant.lowering import verify
from sim.test_accelerator import CONFIG as WIDE
from sim.test_accelerator_narrow import CONFIG as NARROW
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_images, random_windows

CONFIGS = {
    name: dataclasses.replace(config, act_depth=4096)
    for name, config in (("default", WIDE), ("narrow", NARROW))
}


def check(graph: IntGraph, config: AccelConfig, rng: np.random.Generator) -> None:
    images = random_images(graph, rng, 2)
    verify.verify(graph, images)
    program = compile_graph(graph, config)
    memory = Emulator(config).run(program.image, program.pack(images[0]), program.output_size)
    found = program.read(memory)[0][graph.output.name]
    assert np.array_equal(found, golden.run(graph, images)[graph.output.name][0])


@pytest.mark.parametrize("offset", range(12))
@pytest.mark.parametrize("name", CONFIGS)
def test_random_windows(seed: int, offset: int, name: str) -> None:
    rng = np.random.default_rng([seed, offset])
    _, height, width = shape = tuple(map(int, rng.integers(1, (40, 24, 24))))
    build = GraphBuilder(
        rng, shape, bits=int(rng.choice([4, 8])), zero_point=int(rng.integers(4)), ratio="60:35:5"
    )
    source, mean = INPUT, bool(rng.integers(2))
    if rng.integers(2):
        source = build.conv(source, int(rng.integers(1, 40)), 1, bits=int(rng.choice([4, 8])))
    rows = random_windows(rng, height, int(rng.integers(1, 6)), mean=mean)
    columns = random_windows(rng, width, int(rng.integers(1, 12)), mean=mean)
    build.window_pool(source, rows, columns, mean=mean, steps=int(rng.integers(1, 4)))
    check(build.build(), CONFIGS[name], rng)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("kernel", "stride"), [((4, 4), (4, 4)), ((2, 7), (17, 5)), ((1, 1), 8)])
def test_strides_that_the_array_cannot_step(seed, mean, bits, kernel, stride) -> None:
    rng = np.random.default_rng(seed)
    build = GraphBuilder(rng, (20, 19, 23), bits=bits, ratio="60:35:5")
    (build.avg_pool if mean else build.max_pool)(INPUT, kernel, stride=stride)
    check(build.build(), CONFIGS["default"], rng)


@pytest.mark.parametrize("zero_point", [0, 77])
def test_padded_maximum_of_8_bits_ignores_the_padding(seed, zero_point) -> None:
    rng = np.random.default_rng(seed)
    build = GraphBuilder(rng, (5, 9, 9), bits=8, zero_point=zero_point, ratio="60:35:5")
    build.max_pool(INPUT, 3, stride=2, padding=(1, 1, 1, 0))
    check(build.build(), CONFIGS["default"], rng)


def test_window_of_padding_alone_is_refused(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (2, 4, 4), ratio="60:35:5")
    build.max_pool(INPUT, 2, stride=4, padding=(0, 0, 4, 0))
    with pytest.raises(CompileError, match="'max_pool0' has a window that lies in the padding"):
        compile_graph(build.build(), CONFIGS["default"])


def test_window_of_more_rows_than_a_descriptor_counts_is_refused(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (2, 300, 1), ratio="60:35:5")
    rows, columns = [Window(first=0, last=300, count=300)], [Window(first=0, last=1, count=1)]
    build.window_pool(INPUT, rows, columns, mean=True)
    with pytest.raises(CompileError, match=r"has kernel \(300, 1\)"):
        compile_graph(build.build(), CONFIGS["default"])
