# SPDX-License-Identifier: Apache-2.0
"""Operations of ordinary networks in the generated Verilog, under random stalls.

Mirrors no module: bench.constructs down to RTL, on the accelerators of two other tests.
"""

from collections.abc import Callable

import numpy as np
import pytest

from gateware.compiler.program import compile_graph
from ir.graph import IntGraph
from sim.test_accelerator import CONFIG as WIDE
from sim.test_accelerator_narrow import CONFIG as NARROW
from sim.verify.difference import compare
from sim.verify.simulation import simulate
from tests.helpers.graphs import random_images, several_outputs

CONFIGS = {"default": WIDE, "narrow": NARROW}
GRAPHS: dict[str, Callable[[np.random.Generator], IntGraph]] = {
    "outputs": lambda rng: several_outputs(rng, "60:35:5"),
}


@pytest.mark.parametrize("operation", GRAPHS)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_tensor_equals_the_golden_model(config: str, operation: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = GRAPHS[operation](rng)
    images = random_images(graph, rng, 2)
    program = compile_graph(graph, CONFIGS[config], dump=True)
    result = simulate(program, images, stall=48, seed=seed)
    assert compare(graph, images, result.outputs) is None
