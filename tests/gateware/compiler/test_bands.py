# SPDX-License-Identifier: Apache-2.0
"""Rows that bands are made from, and networks that run from memory to memory."""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateware.arch.isa import Opcode
from gateware.compiler.bands import steps_of
from gateware.compiler.layout import TensorLayout
from gateware.compiler.lower import lower
from gateware.compiler.operations import CompileError, Rearrange, TensorKey
from gateware.compiler.plan import NoPlan
from gateware.compiler.program import Program, compile_graph
from gateware.compiler.slices import needs_parts
from ir.graph import IntGraph, Window
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import (
    bordered,
    random_blocks,
    random_gathers,
    random_graph,
    several_outputs,
)
from tests.helpers.units import TINY, WIDER, assert_golden, descriptors

ROOMY = dataclasses.replace(
    TINY, act_depth=64, weight_depth=512, wide_depth=32, slot_depth=64, tables=True, parts=True
)
CONFIGS = (ROOMY, dataclasses.replace(ROOMY, pixels=WIDER.pixels, requant_lanes=4, act_copies=1))
RATIO = "50:25:25"
GRAPHS = (
    lambda rng: random_graph(rng, layers=6, channels=40),
    lambda rng: random_blocks(rng, RATIO),
    lambda rng: random_gathers(rng, RATIO),
    several_outputs,
    bordered,
)


def tower(seed: int, height: int = 12) -> IntGraph:
    """Residual blocks with a stride, whose tensors are 36 to 96 words each in :data:`ROOMY`."""
    build = GraphBuilder(np.random.default_rng(seed), (16, height, 12))
    x = build.conv(INPUT, 16, 3)
    x = build.conv(build.conv(x, 24, 3), 16, 1, residual=x)
    y = build.conv(x, 32, 3, stride=2)
    build.max_pool(build.conv(y, 32, 3, residual=build.conv(x, 32, 1, stride=2)), 2)
    return build.build()


def moved(program: Program, opcode: Opcode) -> int:
    """Beats that loads or stores of tensors move."""
    return sum(fields["beats"] for found, fields in descriptors(program) if found is opcode)


@pytest.mark.parametrize("depth", [64, 128])
@pytest.mark.parametrize("dump", [False, True])
def test_a_network_from_memory_to_memory(depth, dump, seed):
    graph, config = tower(seed), dataclasses.replace(ROOMY, act_depth=depth)
    with pytest.raises(NoPlan):
        lower(graph, config)
    plan = lower(graph, config, banded=True).plan
    assert plan.memory and all(plan.bands[key].copies in (1, 2) for key in plan.bands)
    assert_golden(graph, compile_graph(graph, config, dump=dump), config, seed)


def test_a_larger_buffer_moves_less(seed):
    graph = tower(seed)
    small, large = (
        compile_graph(graph, dataclasses.replace(ROOMY, act_depth=depth)) for depth in (64, 256)
    )
    for opcode in (Opcode.LOAD_TENSOR, Opcode.STORE_TENSOR):
        assert moved(small, opcode) > moved(large, opcode)


def test_what_is_loaded_in_every_band_is_stored_once(seed):
    """The data of weights that do not fit at once are in the image as often as in the network."""
    graph, config = tower(seed, 24), dataclasses.replace(ROOMY, weight_depth=36)
    program = compile_graph(graph, config)
    loads = [fields for opcode, fields in descriptors(program) if opcode is Opcode.LOAD_WEIGHTS]
    assert len(loads) > len({fields["offset"] for fields in loads})
    assert_golden(graph, program, config, seed)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.sampled_from(GRAPHS),
    st.sampled_from(CONFIGS),
    st.sampled_from([16, 32, 64]),
    st.sampled_from([16, 64]),
    st.booleans(),
    st.sampled_from([1, 1, 2]),
)
def test_random_networks_in_tiny_buffers(seed, graphs, config, depth, slots, dump, batch):
    """Every tensor is right, whatever is in memory; a refusal says what is too small."""
    graph = graphs(np.random.default_rng(seed))
    config = dataclasses.replace(config, act_depth=depth, slot_depth=slots)
    try:
        lowered = lower(graph, config, batch, banded=True)
        program = compile_graph(graph, config, dump=dump)
    except CompileError:
        assume(False)
        return
    assert all(bands.rows > 0 for bands in lowered.plan.bands.values())
    assert_golden(graph, program, config, seed)


@pytest.mark.parametrize("dump", [False, True])
def test_a_pooling_of_a_map_that_does_not_fit(dump, seed):
    """Group of channels by group, which lie apart in memory."""
    build = GraphBuilder(np.random.default_rng(seed), (8, 8, 8))
    average = build.avg_pool(build.conv(INPUT, 70, 3))
    build.linear(build.flatten(average), 5, wide=True)
    graph, config = build.build(), dataclasses.replace(ROOMY, slot_depth=16)
    plan = lower(graph, config, banded=True).plan
    assert plan.bands[TensorKey(average)].groups and plan.slab(TensorKey("conv0"))
    assert_golden(graph, compile_graph(graph, config, dump=dump), config, seed)


def test_bands_of_a_repetition_with_a_border():
    """What a row becomes stays together; the border goes with the first row and the last."""
    repeat = Rearrange(
        name="r",
        source=TensorKey("a"),
        target=TensorKey("b"),
        kind="repeat",
        factor=(2, 2),
        border=(1, 1),
    )
    a, b = (TensorLayout.of((8, size, size), TINY, bits=4, zero_point=0) for size in (5, 12))
    (step,) = steps_of([repeat], {TensorKey("a"): a, TensorKey("b"): b}, TINY)
    assert step.edges(4) == [(0, 5), (5, 9), (9, 12)]
    assert [step.needed(TensorKey("a"), *band) for band in step.edges(4)] == [
        (0, 2),
        (2, 4),
        (4, 5),
    ]
    assert step.tied == {TensorKey("a"), TensorKey("b")}


def test_a_pooling_in_bands_of_groups(seed):
    """Neither all groups of a band's rows fit, nor all rows of a group."""
    build = GraphBuilder(np.random.default_rng(seed), (40, 12, 24))
    build.max_pool(build.conv(INPUT, 40, 1), (5, 2), stride=(3, 1))
    graph, config = build.build(), dataclasses.replace(ROOMY, parts=False)
    plan = lower(graph, config, banded=True).plan
    bands = plan.bands[TensorKey("max_pool1")]
    assert bands.groups and bands.rows < 3
    assert_golden(graph, compile_graph(graph, config), config, seed)


def linear(build: GraphBuilder, source: str) -> str:
    return build.linear(build.flatten(source), 21, wide=True)


def linear_codes(build: GraphBuilder, source: str) -> str:
    return build.linear(build.flatten(source), 21, bits=8)


def mean(build: GraphBuilder, source: str) -> str:
    return build.avg_pool(source)


def maximum(build: GraphBuilder, source: str) -> str:
    return build.max_pool(source, build.tensors[source].shape[1:])


def several(build: GraphBuilder, source: str) -> str:
    height, width = build.tensors[source].shape[1:]
    rows = [Window(first=row, last=row + height - 2, count=height - 2) for row in range(3)]
    columns = [Window(first=column, last=width, count=width - column) for column in range(2)]
    return build.window_pool(source, rows, columns, mean=True)


@pytest.mark.parametrize("dump", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("operation", [linear, linear_codes, mean, maximum, several])
def test_a_window_that_does_not_fit(operation, bits, dump, seed):
    """Some rows of it after the others, from memory: the array goes on with the sums."""
    if operation is maximum and bits == 8:
        pytest.skip("maxima of 8 bits are layers")
    build = GraphBuilder(np.random.default_rng(seed), (8, 16, 20))
    last = operation(build, build.conv(INPUT, 20, 3, bits=bits))
    graph, config = build.build(), dataclasses.replace(ROOMY, weight_depth=1024)
    assert needs_parts(graph, config)
    plan = lower(graph, config, banded=True).plan
    assert plan.window(TensorKey(last))
    assert_golden(graph, compile_graph(graph, config, dump=dump), config, seed)
    with pytest.raises(CompileError, match="does not fit the activation buffer"):
        compile_graph(graph, dataclasses.replace(config, parts=False))
