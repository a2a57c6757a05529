# SPDX-License-Identifier: Apache-2.0
"""Several rows of a result at once and parts that share a row tile against the golden model."""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.fold import SharedTile, shared_tiles
from gateware.compiler.lower import lower
from gateware.compiler.operations import Gemm
from gateware.compiler.program import Program, compile_graph
from gateware.model import estimate
from ir.graph import IntGraph
from ir.ratio import Ratio
from tests.helpers.graphs import INPUT, GraphBuilder
from tests.helpers.units import assert_golden, descriptors, executes

#: 32 row lanes and words of 8 channels: a depthwise part leaves three of four lanes without a row.
CONFIG = AccelConfig.from_ratio(
    Ratio(50, 25, 25),
    32,
    bus_bits=32,
    pixels=4,
    act_copies=1,
    drain_pixels=2,
    ports=4,
    act_depth=1024,
    weight_depth=256,
)


def network(seed: int, height: int, width: int, kernel: int, stride: int, bits: int) -> IntGraph:
    build = GraphBuilder(np.random.default_rng(seed), (24, height, width), bits=bits, zero_point=3)
    source = build.conv(INPUT, 24, 1, bits=bits, zero_point=2)
    inner = build.conv(source, 24, kernel, groups=24, stride=stride, padding=kernel // 2, bits=bits)
    build.conv(inner, 8, 1)
    return build.build()


def folds(program: Program, kernel: int) -> set[tuple[int, int]]:
    """Heights of kernels and of results, of EXECUTEs that make several rows at once."""
    return {
        (f["kernel_y"], f["out_height"])
        for f in executes(program)
        if f["kernel_x"] == kernel and f["kernel_y"] > kernel
    }


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("height", [16, 25])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_at_once(kernel, stride, height, bits, seed):
    graph = network(seed, height, 40 * stride, kernel, stride, bits)
    program = compile_graph(graph, CONFIG, dump=True)
    found = folds(program, kernel)
    assert found and all(tall >= kernel + stride for tall, _ in found)
    assert_golden(graph, program, CONFIG, seed)


def test_rows_that_are_left_over(seed):
    """13 rows, some at a time, and a last EXECUTE with fewer drain slots."""
    graph = network(seed, 13, 40, 3, 1, 4)
    found = [f for f in executes(compile_graph(graph, CONFIG)) if f["kernel_y"] > 3]
    last = [f for f in found if f["out_height"] == 1]
    assert last and all(f["slots"] < max(g["slots"] for g in found) for f in last)


def test_a_residual_operand_of_rows_at_once(seed):
    build = GraphBuilder(np.random.default_rng(seed), (16, 9, 40))
    source = build.conv(INPUT, 16, 1)
    build.conv(build.conv(source, 16, 3, groups=16, residual=source), 8, 1)
    graph = build.build()
    program = compile_graph(graph, CONFIG, dump=True)
    assert any(f["residual"] for f in executes(program) if f["kernel_y"] > 3)
    assert_golden(graph, program, CONFIG, seed)


def test_small_maps_share_weights(seed):
    """Few pixels, for which loads matter: three parts, one load of weights."""
    graph = network(seed, 2, 3, 3, 1, 4)
    program = compile_graph(graph, CONFIG, dump=True)
    assert len([f for f in executes(program) if f["kernel_x"] == 3]) == 3
    loads = [f["beats"] for opcode, f in descriptors(program) if opcode is Opcode.LOAD_WEIGHTS]
    word = CONFIG.weight_beats // CONFIG.ports
    assert loads.count(9 * word) == 1
    assert_golden(graph, program, CONFIG, seed)


def test_in_bands(seed):
    graph, small = network(seed, 64, 80, 3, 1, 4), dataclasses.replace(CONFIG, act_depth=512)
    assert lower(graph, small, banded=True).plan.bands
    program = compile_graph(graph, small, dump=True)
    assert folds(program, 3)
    assert_golden(graph, program, small, seed)


def test_fewer_cycles(seed, monkeypatch):
    graph = network(seed, 32, 40, 3, 1, 4)
    folded = sum(estimate.cycles(compile_graph(graph, CONFIG)).values())
    monkeypatch.setattr("gateware.compiler.emit.shared_tiles", lambda gemm, *_: gemm.parts(8))
    assert sum(estimate.cycles(compile_graph(graph, CONFIG)).values()) > 1.2 * folded


def test_lanes_are_of_the_rows_schemes(seed):
    plan = lower(network(seed, 8, 40, 3, 1, 4), CONFIG).plan
    (gemm,) = [o for o in plan.operations if isinstance(o, Gemm) and o.groups > 1]
    tiles = list(shared_tiles(gemm, plan.places[gemm.source], plan.places[gemm.target], CONFIG))
    assert sum(len(tile.parts) for tile in tiles if isinstance(tile, SharedTile)) == 3
    for tile in tiles:
        assert isinstance(tile, SharedTile)
        used = [lane for part in tile.lanes for lanes in part for lane in lanes]
        assert len(set(used)) == len(used)
        for part, of_part in zip(tile.parts, tile.lanes, strict=True):
            for lanes in of_part:
                schemes = [CONFIG.lane_schemes[lane] for lane in lanes]
                assert schemes == [gemm.scheme[row] for row in part.rows]
