# SPDX-License-Identifier: Apache-2.0
"""Images with a border of their own codes, which the host stores, give the golden model's sums."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from boards.driver.tensors import gather
from gateware.arch.config import AccelConfig
from gateware.compiler.operations import CompileError
from gateware.compiler.program import Program, compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import GraphError
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import bordered, random_images
from tests.helpers.units import TINY

CONFIGS = {
    "small": dataclasses.replace(TINY, act_depth=512, weight_depth=512, slot_depth=16),
    "large": AccelConfig.from_ratio(Ratio(50, 25, 25), 16, pixels=4, requant_lanes=8),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_equal_to_the_golden_model(config: AccelConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches, readers = set(), set()
    for _ in range(15):
        graph = bordered(rng)
        program = compile_graph(graph, config)
        images = random_images(graph, rng)
        memory = Emulator(config).run(program.image, program.pack(images[0]), program.output_size)
        expected = golden.run(graph, images)
        for name, found in program.read(memory)[0].items():
            np.testing.assert_array_equal(found, expected[name][0])
        patches.add(program.space_to_depth.x.patch)
        readers.add(len(program.outputs))
    assert len(patches) > 1 and readers == {1, 2, 3}


def test_program_keeps_its_border_for_the_driver(tmp_path: Path, seed: int) -> None:
    graph = bordered(np.random.default_rng(seed))
    program = compile_graph(graph, CONFIGS["large"])
    program.save(tmp_path)
    assert Program.load(tmp_path) == program
    manifest = json.loads((tmp_path / "program.json").read_text())
    assert manifest["space_to_depth"]["border"] == list(graph.header.border)
    image = random_images(graph, np.random.default_rng(seed))[0]
    stored = gather(image, manifest["space_to_depth"])
    np.testing.assert_array_equal(stored, program.space_to_depth.gather(image))


def test_a_border_in_the_golden_model(seed) -> None:
    """A sum over the window of a corner: two thirds of it lie outside."""
    build = GraphBuilder(np.random.default_rng(seed), (2, 1, 1), bits=8)
    build.conv(INPUT, 2, 3, padding=1, wide=True)
    graph = build.build(border=(3, 200))
    layer = graph.layers["conv0"]
    window = np.tile(np.array([3, 200])[:, None, None], (1, 3, 3))
    window[:, 1, 1] = 50, 60
    acc = (layer.values * window).sum((1, 2, 3))
    found = golden.run(graph, np.array([[[[50]], [[60]]]]))["conv0"][0, :, 0, 0]
    assert found.tolist() == (acc * layer.multiplier + layer.bias).tolist()


@pytest.mark.parametrize("border", [(1,), (1, 2, 3), (0, 256), (-1, 0)])
def test_border_that_is_no_code_of_each_channel(border: tuple[int, ...], seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (2, 4, 4), bits=8)
    build.conv(INPUT, 2, 3)
    with pytest.raises(GraphError, match=r"needs a code in 0..255 for each of 2 channels"):
        build.build(border=border)


def test_a_pool_that_reads_the_image_is_refused(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (2, 4, 4))
    build.max_pool(INPUT)
    graph = build.build(border=(1, 2))
    with pytest.raises(CompileError, match="'max_pool0' reads the image, whose border"):
        compile_graph(graph, CONFIGS["large"])
