# SPDX-License-Identifier: Apache-2.0
"""Raw outputs of more channels, rows or columns than the wide buffer holds come whole from it."""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.compiler.program import Program, compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import IntGraph
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_images, several_outputs
from tests.helpers.units import TINY, descriptors

LARGE = AccelConfig.from_ratio(
    Ratio(60, 35, 5), 16, requant_lanes=4, act_depth=1024, wide_depth=64, pixels=4
)
SMALL = dataclasses.replace(TINY, act_depth=512, weight_depth=512, slot_depth=16)


def check(graph: IntGraph, config: AccelConfig, rng: np.random.Generator) -> Program:
    """Program of ``graph``, all of whose outputs the emulator gives as the golden model does."""
    program = compile_graph(graph, config)
    images = random_images(graph, rng)
    memory = Emulator(config).run(program.image, program.pack(images[0]), program.output_size)
    expected = golden.run(graph, images)
    found = program.read(memory)[0]
    assert list(found) == list(graph.header.output_tensors)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name][0])
    return program


@pytest.mark.parametrize("config", [SMALL, LARGE], ids=["small", "large"])
def test_parts_of_any_shape(config: AccelConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns, channels = set(), set()
    for _ in range(25):
        stride, kernel = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        height, width = int(rng.integers(kernel, 9)), int(rng.integers(kernel, 70))
        build = GraphBuilder(rng, (3, height, width), bits=4, zero_point=5)
        padding = tuple(map(int, rng.integers(0, 4, 4)))
        rows = int(rng.integers(1, 20))
        build.conv(INPUT, rows, kernel, stride=stride, padding=padding, wide=True)
        output = check(build.build(), config, rng).outputs[0]
        columns.add(len(output.ranges))
        channels.add(max(map(len, output.tiles)))
    assert len(columns) > 2
    assert min(channels) < config.rows


def test_several_outputs_of_all_kinds(seed: int) -> None:
    """Raw and codes, read inside and not, of one pixel and of many."""
    rng = np.random.default_rng(seed)
    for config in (SMALL, LARGE):
        graph = several_outputs(rng)
        program = check(graph, config, rng)
        assert [output.wide for output in program.outputs] == [True, False, True, True, False]


def test_several_outputs_of_several_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    build = GraphBuilder(rng, (3, 6, 6))
    body = build.conv(INPUT, 6)
    maps = build.conv(body, 7, 1, wide=True)
    logits = build.linear(build.flatten(body), 9, wide=True)
    graph = build.build(outputs=(maps, logits))
    images = random_images(graph, rng, 3)
    program = compile_graph(graph, LARGE, batch=3)
    memory = Emulator(LARGE).run(
        program.image, b"".join(map(program.pack, images)), program.output_size
    )
    expected = golden.run(graph, images)
    for image, found in enumerate(program.read(memory)):
        for name in (maps, logits):
            np.testing.assert_array_equal(found[name], expected[name][image])


def test_all_lanes_are_drained_at_once_where_columns_can_be_fewer(seed) -> None:
    config = dataclasses.replace(LARGE, wide_depth=512)
    graph = GraphBuilder(np.random.default_rng(seed), (3, 4, 100), ratio="60:35:5")
    graph.conv(INPUT, 32, 1, wide=True)
    program = compile_graph(graph.build(), config)
    assert [len(rows) for rows in program.outputs[0].tiles] == [16, 16]
    assert program.outputs[0].columns == (0, 16, 32, 48, 64, 80, 96, 100)
    widths = {f["out_width"] for _, f in descriptors(program) if "out_width" in f}
    assert widths == {16, 4}


def test_what_fits_is_stored_in_one_part(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (3, 4, 4))
    build.conv(INPUT, 16, 1, wide=True)
    program = compile_graph(build.build(), dataclasses.replace(LARGE, wide_depth=1024))
    assert (program.outputs[0].wide_rows, program.outputs[0].columns) == (4, (0, 4))


def test_vectors_are_not_cut(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (16, 1, 1), ratio="60:35:5")
    build.linear(INPUT, 100, wide=True)
    output = compile_graph(build.build(), LARGE).outputs[0]
    assert (output.wide_rows, output.wide_pitch, output.columns) == (1, 1, (0, 1))
    assert len(output.tiles) == -(-100 // 16)
