# SPDX-License-Identifier: Apache-2.0
"""Layers whose weights do not fit their buffer: slices add up to the golden model's sums."""

import dataclasses

import numpy as np
import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.operations import CompileError
from gateware.compiler.program import Program, compile_graph
from gateware.compiler.slices import needs_parts
from gateware.model.emulator import Emulator, EmulatorError
from ir import golden
from ir.graph import IntGraph
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_images

SMALL = AccelConfig.from_ratio(
    Ratio(50, 25, 25), 16, weight_depth=20, act_depth=512, slot_depth=32, parts=True
)
NARROW = dataclasses.replace(SMALL, bus_bits=32, ports=2, act_copies=1, pixels=4)
CONFIGS = {"small": SMALL, "narrow": NARROW}


def classifier(seed: int) -> IntGraph:
    """Linear layers over an image, over 8 bits and over 4."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder(rng, (3, 9, 14), bits=8)
    wide = build.linear(build.flatten(INPUT), 400, bits=8, zero_point=int(rng.integers(256)))
    build.linear(build.linear(wide, 330), 5, wide=True)
    return build.build()


def small_maps(seed: int) -> IntGraph:
    """Convolutions of many channels over maps of two columns, with padding and a residual."""
    rng = np.random.default_rng(seed)
    build = GraphBuilder(rng, (5, 6, 4), bits=8)
    x = build.conv(INPUT, 70, 3, stride=2, bits=8, zero_point=int(rng.integers(256)))
    y = build.conv(x, 70, 3, zero_point=int(rng.integers(16)))
    build.conv(build.conv(y, 70, 3, residual=y), 7, (3, 2), padding=0, wide=True)
    return build.build()


GRAPHS = {"classifier": classifier, "small maps": small_maps}


def check(graph: IntGraph, config: AccelConfig, seed: int) -> Program:
    images = random_images(graph, np.random.default_rng(seed))
    program = compile_graph(graph, config, dump=True)
    memory = Emulator(config).run(program.image, program.pack(images[0]), program.output_size)
    expected = golden.run(graph, images)
    for name, found in program.read(memory)[0].items():
        assert np.array_equal(found.reshape(-1), expected[name].reshape(-1)), name
    return program


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_results_are_the_golden_models(make, config, seed) -> None:
    for case in range(2):
        program = check(make(seed + case), config, seed)
    resumed = [
        d.fields["resume"] for d in isa.descriptors(program.image) if d.opcode is Opcode.EXECUTE
    ]
    assert any(resumed) and not all(resumed)


@pytest.mark.parametrize("depth", [3, 9])
def test_any_weight_buffer_will_do(depth, seed) -> None:
    """As long as it holds two slices of a few columns."""
    config = dataclasses.replace(SMALL, weight_depth=8 * depth)
    check(classifier(seed), config, seed)


def test_vectors_of_more_words_than_a_descriptor_counts(seed) -> None:
    """They are stored whole, and read in slices."""
    build = GraphBuilder(np.random.default_rng(seed), (40, 1, 1), bits=8)
    build.linear(build.linear(build.flatten(INPUT), 2100), 4, wide=True)
    check(build.build(), dataclasses.replace(NARROW, weight_depth=512, act_depth=1024), seed)


def test_a_batch_shares_nothing_but_the_program(seed) -> None:
    graph = classifier(seed)
    images = random_images(graph, np.random.default_rng(seed), count=2)
    program = compile_graph(graph, SMALL, batch=2)
    stored = b"".join(map(program.pack, images))
    memory = Emulator(SMALL).run(program.image, stored, program.output_size)
    expected = golden.logits(graph, images)
    for found, logits in zip(program.read(memory), expected, strict=True):
        assert np.array_equal(next(iter(found.values())).reshape(-1), logits)


def test_an_array_without_parts_is_named(seed) -> None:
    graph = classifier(seed)
    assert needs_parts(graph, SMALL)
    assert not needs_parts(graph, dataclasses.replace(SMALL, weight_depth=512))
    with pytest.raises(CompileError, match=r"layer 'linear\w*' has \d+ weight words .*parts=True"):
        compile_graph(graph, dataclasses.replace(SMALL, parts=False))
    with pytest.raises(EmulatorError, match="sums that are not there"):
        program = compile_graph(graph, SMALL)
        images = random_images(graph, np.random.default_rng(seed))
        array = Emulator(dataclasses.replace(SMALL, parts=False))
        array.run(program.image, program.pack(images[0]), program.output_size)


def test_a_map_that_is_too_wide_is_refused(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (70, 4, 4))
    build.conv(INPUT, 4, 3, wide=True)
    with pytest.raises(CompileError, match=r"has 45 weight words .* more than"):
        compile_graph(build.build(), SMALL)
