# SPDX-License-Identifier: Apache-2.0
"""Where tensors lie, when something lies over another, in strips, or in memory meanwhile."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateware.arch.config import AccelConfig
from gateware.compiler.lower import Lowered, lower
from gateware.compiler.operations import (
    CompileError,
    Gemm,
    Reload,
    Spill,
    TensorKey,
    operands,
    result,
)
from gateware.compiler.program import compile_graph
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import residual_block, residual_graph
from tests.helpers.units import LARGE, TINY, assert_golden, random_program

ROOMY = dataclasses.replace(TINY, act_depth=512, weight_depth=256, wide_depth=16)
CONFIGS = {"tiny": ROOMY, "large": LARGE}
SMALL = AccelConfig.from_ratio(
    Ratio(60, 35, 5), 32, bus_bits=32, ports=2, requant_lanes=4, act_depth=1024, slot_depth=128
)


def assert_apart(lowered: Lowered) -> None:
    """Tensors are alive from the operation that writes them to the last that reads them."""
    image = TensorKey(INPUT)
    plan, born, died, over = lowered.plan, {image: -1}, {image: 0}, set()
    for step, operation in enumerate(plan.operations):
        for key in operands(operation):
            died[key] = step
        if target := result(operation):
            born[target] = died[target] = step
            over.add((target, getattr(operation, "residual", None)))
    wide = {o.target for o in plan.operations if isinstance(o, Gemm) and o.wide}
    for a, b in itertools.permutations(set(born) - wide, 2):
        if (
            (a, b) in over
            and died[b] == born[a]
            and (plan.places[a].address == plan.places[b].address)
        ):
            continue
        if born[b] <= born[a] <= died[b]:
            first, second = sorted(
                (plan.places[name] for name in (a, b)), key=lambda place: place.address
            )
            assert first.address + first.words <= second.address, (a, b)


def test_places_of_a_residual_graph():
    lowered = lower(residual_graph(1), LARGE)
    assert {p.address for p in lowered.plan.places.values()} != {0}
    assert_apart(lowered)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.sampled_from(sorted(CONFIGS)))
def test_tensors_alive_together_never_overlap(seed, name):
    rng = np.random.default_rng(seed)
    graph, _ = random_program(rng, CONFIGS[name], layers=int(rng.integers(1, 7)), channels=20)
    assert_apart(lower(graph, CONFIGS[name]))


def test_a_result_lies_over_its_residual_operand(seed):
    graph = residual_block()
    plan = lower(graph, dataclasses.replace(SMALL, act_depth=4096)).plan
    conv = next(o for o in plan.operations if isinstance(o, Gemm) and o.residual)
    result, operand = plan.places[conv.target], plan.places[conv.residual]
    assert (operand.bits, result.bits) == (8, 4) and operand.address == result.address
    config = dataclasses.replace(SMALL, act_depth=4096)
    assert_golden(graph, compile_graph(graph, config, dump=True), config, seed)


def test_not_over_an_operand_that_is_read_again(seed):
    network = GraphBuilder(np.random.default_rng(seed), (8, 6, 6))
    one = network.conv(INPUT, 8, 1)
    two = network.conv(one, 8, 3, residual=one)
    three = network.conv(two, 8, 3, residual=one)
    network.conv(three, 8, 1)
    graph = network.build()
    places = lower(graph, ROOMY).plan.places
    first, second, third = (places[TensorKey(name)].address for name in (one, two, three))
    assert second != first == third
    assert_golden(graph, compile_graph(graph, ROOMY, dump=True), ROOMY, seed)


@pytest.mark.slow
@pytest.mark.parametrize("dump", [False, True])
@pytest.mark.parametrize("copies", [1, 2])
def test_input_in_strips_and_a_tensor_in_memory(copies, dump, seed, monkeypatch):
    """The image is loaded strip by strip, and the shortcut, which comes first, waits in memory for
    its reader."""
    monkeypatch.setattr("gateware.compiler.plan._orders", lambda operations: [operations])
    graph, config = residual_block(), dataclasses.replace(SMALL, act_copies=copies)
    lowered = lower(graph, config)
    assert lowered.plan.input_strips and list(lowered.plan.strips.values()) == [1]
    moves = [
        operation for operation in lowered.plan.operations if isinstance(operation, Spill | Reload)
    ]
    shortcut = next(
        o.residual for o in lowered.plan.operations if isinstance(o, Gemm) and o.residual
    )
    assert [type(move) for move in moves] == [Spill, Reload] and moves[1].target == shortcut
    assert_apart(lowered)
    program = compile_graph(graph, config, dump=dump)
    place = lowered.plan.places[shortcut]
    written = sum(-(-output.size // 64) * 64 for output in program.outputs)
    assert program.output_size == written + place.beats * config.bus_bits // 8
    assert_golden(graph, program, config, seed)


def test_what_fits_is_neither_cut_nor_spilled():
    plan = lower(residual_block(), dataclasses.replace(SMALL, act_depth=4096)).plan
    assert not plan.strips and not plan.input_strips
    assert not any(isinstance(operation, Spill | Reload) for operation in plan.operations)


def test_what_does_not_fit_at_all():
    with pytest.raises(CompileError, match="does not fit the activation buffer"):
        lower(residual_block((3, 64, 64)), SMALL)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32))
def test_random_graphs_in_small_buffers(seed):
    """Whatever is spilled or lies over another, every tensor is right."""
    rng = np.random.default_rng(seed)
    config = dataclasses.replace(ROOMY, act_depth=128)
    graph, program = random_program(rng, config, layers=6, channels=20)
    assert_golden(graph, program, config, seed)


def test_a_shortcut_is_made_late_where_that_spares_a_spill(seed, monkeypatch):
    """Its result has no room beside the widest tensor of the main branch."""
    network = GraphBuilder(np.random.default_rng(seed), (8, 12, 12))
    first = network.conv(INPUT, 16, 1)
    shortcut = network.conv(first, 64, 1, bits=8)
    inner = network.conv(network.conv(first, 128, 1), 8, 3)
    network.conv(network.conv(inner, 64, 1, residual=shortcut), 8, 1)
    graph, config = network.build(), dataclasses.replace(ROOMY, act_depth=1024)

    def spills() -> bool:
        return any(isinstance(o, Spill) for o in lower(graph, config).plan.operations)

    assert not spills()
    assert_golden(graph, compile_graph(graph, config, dump=True), config, seed)
    monkeypatch.setattr("gateware.compiler.plan._orders", lambda operations: [operations])
    assert spills()
