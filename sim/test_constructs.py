# SPDX-License-Identifier: Apache-2.0
"""Operations of ordinary networks in the generated Verilog, under random stalls.

Mirrors no module: bench.constructs down to RTL, on the accelerators of two other tests.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from gateware.compiler.program import compile_graph
from ir.graph import IntGraph
from sim.test_accelerator import CONFIG as WIDE
from sim.test_accelerator_narrow import CONFIG as NARROW
from sim.verify.difference import compare
from sim.verify.simulation import simulate
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import (
    bordered,
    random_blocks,
    random_gathers,
    random_images,
    random_windows,
    several_outputs,
)
from tests.helpers.table_graphs import product_graph, table_graph


def copies(rng: np.random.Generator) -> IntGraph:
    """Depthwise 1x1 layers over codes that are their residual operands, too, also of the image."""
    build = GraphBuilder(rng, (3, 5, 6), bits=8, ratio="60:35:5")
    doubled = build.conv(INPUT, 3, 1, groups=3, residual=INPUT, bits=8)
    x = build.conv(doubled, 19, 3)
    y = build.conv(x, 19, 1, groups=19, residual=x, bits=8, zero_point=128)
    build.conv(build.conv(y, 19, 1, groups=19), 5, (5, 6), padding=0, wide=True)
    return build.build()


def slices(rng: np.random.Generator) -> IntGraph:
    """More inputs than the weight buffer holds, of 8 bits and of 4, over vectors and small maps."""
    build = GraphBuilder(rng, (3, 7, 6), bits=8, ratio="60:35:5")
    x = build.conv(INPUT, 50, 3, stride=3, bits=8, zero_point=9)
    y = build.conv(x, 50, 3, residual=x)
    build.linear(build.linear(build.flatten(y), 30, bits=8), 5, wide=True)
    return build.build()


def windows(rng: np.random.Generator) -> IntGraph:
    """Windows of any place, strides over 3, maxima of 8 bits, zeros around a map."""
    build = GraphBuilder(rng, (3, 5, 11), ratio="60:35:5")
    x = build.conv(INPUT, 7, 1, zero_point=3)
    rows, columns = random_windows(rng, 5, 2), random_windows(rng, 11, 3)
    largest = build.window_pool(x, rows, columns)
    rows, columns = (random_windows(rng, size, 3, mean=True) for size in (5, 11))
    mean = build.window_pool(x, rows, columns, mean=True, steps=2)
    spread = build.max_pool(build.conv(x, 5, 1, bits=8), (2, 3), stride=(3, 5))
    return build.build(outputs=(largest, mean, spread))


def large_windows(rng: np.random.Generator) -> IntGraph:
    """Maps of which no window fits :data:`ROOM`, for a mean, a maximum and a layer."""
    build = GraphBuilder(rng, (8, 10, 14))
    mean = build.avg_pool(build.conv(INPUT, 12, 1, bits=8))
    x = build.conv(INPUT, 9, 3)
    largest = build.max_pool(x, (10, 13), stride=1)
    return build.build(outputs=(build.linear(build.flatten(x), 5, wide=True), mean, largest))


CONFIGS = {"default": WIDE, "narrow": NARROW}
GRAPHS: dict[str, Callable[[np.random.Generator], IntGraph]] = {
    "outputs": lambda rng: several_outputs(rng, "60:35:5"),
    "copies": copies,
    "slices": slices,
    "windows": windows,
    "large windows": large_windows,
    "border": lambda rng: bordered(rng, "60:35:5"),
    "blocks": lambda rng: random_blocks(rng, "60:35:5"),
    "gather": lambda rng: random_gathers(rng, "60:35:5"),
    "tables": table_graph,
    "products": product_graph,
}
#: What an array must have for an operation.
NEEDED: dict[str, dict[str, int]] = {
    "slices": {"parts": True, "weight_depth": 20},
    "large windows": {"parts": True, "weight_depth": 20},
    "tables": {"tables": True},
    "products": {"tables": True},
}

#: Words of the activation buffer that a program may use.
ROOM = {"large windows": 32}


@pytest.mark.parametrize("operation", GRAPHS)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_tensor_equals_the_golden_model(config: str, operation: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = GRAPHS[operation](rng)
    images = random_images(graph, rng, 2)
    array = dataclasses.replace(CONFIGS[config], **NEEDED.get(operation, {}))
    room = ROOM.get(operation, array.act_depth)
    program = compile_graph(graph, dataclasses.replace(array, act_depth=room), dump=True)
    program = dataclasses.replace(program, config=array)
    result = simulate(program, images, stall=48, seed=seed)
    assert compare(graph, images, result.outputs) is None
