# SPDX-License-Identifier: Apache-2.0
"""Any kernel, padding, stride and size: what compiles computes the golden model, else it is refused
by name. Nothing else comes out of the compiler.

Mirrors no module: geometry is decided in plan, lower and space_to_depth together.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gateware.arch import isa
from gateware.arch.isa import Opcode
from gateware.compiler.lower import lower
from gateware.compiler.operations import CompileError
from gateware.compiler.program import Program, compile_graph
from gateware.model.emulator import Emulator
from ir import golden
from ir.graph import IntGraph
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_graph, random_images
from tests.helpers.units import TINY, WIDER, descriptors

CONFIG = dataclasses.replace(TINY, act_depth=512, weight_depth=512, slot_depth=16, wide_depth=64)
PAIRS = st.tuples(st.integers(1, 5), st.integers(1, 5))
PADDING = st.tuples(*[st.integers(0, 7)] * 4)


def check(graph: IntGraph, program: Program, seed: int) -> None:
    """The emulator leaves the golden model's tensors of random images, and no load is empty."""
    images = random_images(graph, np.random.default_rng(seed), program.batch)
    memory = Emulator(program.config).run(
        program.image, b"".join(program.pack(image) for image in images), program.output_size
    )
    reference = golden.run(graph, images)
    for index, outputs in enumerate(program.read(memory)):
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, reference[name][index], f"{index} {name}")
    for opcode, fields in descriptors(program):
        assert opcode in (Opcode.END, Opcode.EXECUTE) or fields["beats"] > 0


@settings(deadline=None, max_examples=150)
@given(
    shape=st.tuples(st.sampled_from([1, 3, 9]), st.integers(1, 12), st.integers(1, 12)),
    kernel=PAIRS,
    stride=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    padding=PADDING,
    pool=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 2)),
    rows=st.integers(1, 6),
    wide=st.booleans(),
    depth=st.sampled_from([16, 32, 64, 512]),
    batch=st.integers(1, 3),
    dump=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_one_layer(
    shape, kernel, stride, padding, pool, rows, wide, depth, batch, dump, seed
) -> None:
    size = (shape[1] + sum(padding[:2]), shape[2] + sum(padding[2:]))
    assume(size[0] >= kernel[0] and size[1] >= kernel[1])
    build = GraphBuilder(np.random.default_rng(seed), shape, bits=8, zero_point=3, tile_rows=4)
    conv = build.conv(
        INPUT, rows, kernel, stride=stride, padding=padding, wide=wide and pool is None
    )
    if pool is not None:
        window, step, around = pool
        assume(min(build.tensors[conv].shape[1:]) + 2 * around >= window)
        build.max_pool(conv, window, stride=step, padding=(around,) * 4)
    graph = build.build()
    config = dataclasses.replace(CONFIG, act_depth=depth)
    try:
        program = compile_graph(graph, config, dump=dump, batch=batch)
    except CompileError:
        return
    check(graph, program, seed)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("padding", [(9, 9, 1, 1), (0, 9, 1, 1), (9, 0, 0, 0), (31, 31, 0, 31)])
def test_parts_that_lie_in_the_padding_alone(padding, batch, seed):
    """A large image, and any image but the first, is loaded in parts."""
    build = GraphBuilder(np.random.default_rng(seed), (3, 33, 33), bits=8)
    build.conv(INPUT, 4, 3, padding=padding)
    graph = build.build()
    config = dataclasses.replace(CONFIG, act_depth=8192)
    check(graph, compile_graph(graph, config, batch=batch), seed)


@pytest.mark.parametrize(("pool", "stride", "skipped"), [(1, 3, True), (2, 3, True), (2, 2, False)])
def test_rows_that_a_pooling_skips_are_dumped(pool, stride, skipped, seed):
    """Made only where they are stored, too."""
    build = GraphBuilder(np.random.default_rng(seed), (3, 32, 32), bits=8)
    build.max_pool(build.conv(INPUT, 8, 3), pool, stride=stride)
    graph, config = build.build(), dataclasses.replace(CONFIG, act_depth=256)
    assert lower(graph, config).plan.strips
    rows = {}
    for dump in (False, True):
        program = compile_graph(graph, config, dump=dump)
        check(graph, program, seed)
        rows[dump] = sum(
            fields["out_height"]
            for opcode, fields in descriptors(program)
            if opcode is Opcode.EXECUTE and not fields["pool"]
        )
    assert (rows[True] > rows[False]) == skipped


def test_raw_outputs_larger_than_the_activation_buffer(seed):
    """They lie in memory only, so no field of a descriptor counts their words."""
    build = GraphBuilder(np.random.default_rng(seed), (1, 300, 700))
    build.conv(INPUT, 9, 1, bits=8, wide=True)
    graph = build.build()
    config = dataclasses.replace(CONFIG, act_depth=1 << 16, wide_depth=4096)
    check(graph, compile_graph(graph, config), seed)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([TINY, WIDER]), st.integers(1, 4))
@example(82, WIDER, 4)  # a tensor was moved to memory again and again, behind what had no room
def test_random_graphs_of_several_images(seed, config, batch):
    graph = random_graph(np.random.default_rng(seed))
    try:
        program = compile_graph(graph, config, batch=batch)
    except CompileError:
        return
    check(graph, program, seed)


def test_more_memory_than_a_run_addresses(seed):
    build = GraphBuilder(np.random.default_rng(seed), (8, 16, 16))
    build.conv(INPUT, 8, 1)
    graph = build.build()
    with pytest.raises(CompileError, match=r"graph 'random' reads 5120000000 bytes for 5000000 im"):
        compile_graph(graph, CONFIG, batch=5_000_000)


def test_loads_of_more_beats_than_a_descriptor_counts(monkeypatch, seed):
    """Weights are loaded in turn, tensors are refused."""
    build = GraphBuilder(np.random.default_rng(seed), (8, 6, 6))
    build.conv(INPUT, 8, 5)
    graph = build.build()
    monkeypatch.setattr(isa, "BEATS_BITS", 6)
    program = compile_graph(graph, CONFIG)
    loads = [f["beats"] for opcode, f in descriptors(program) if opcode is Opcode.LOAD_WEIGHTS]
    assert max(loads) < 64 and len(loads) > 2
    check(graph, program, seed)
    monkeypatch.setattr(isa, "BEATS_BITS", 5)
    with pytest.raises(CompileError, match="tensor 'image' has 36 words in a load or store"):
        compile_graph(graph, CONFIG)
