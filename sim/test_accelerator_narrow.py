# SPDX-License-Identifier: Apache-2.0
"""Another accelerator in every respect runs a network of another ratio: twice the rows, half the
channels on two 32-bit ports, half the requantisers for each of two pixels at once, one copy of the
activations.

Mirrors no module: another accelerator for sim.benches.accelerator.
"""

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.compiler.lower import lower
from gateware.compiler.operations import Spill
from gateware.compiler.program import compile_graph
from ir.ratio import Ratio
from sim.verify.cases import CaseMaker, check_layers, check_logits
from sim.verify.difference import compare
from sim.verify.simulation import simulate
from tests.helpers.graphs import random_images, residual_block

CONFIG = AccelConfig.from_ratio(
    Ratio(60, 35, 5),
    32,
    bus_bits=32,
    ports=2,
    pixels=4,
    requant_lanes=4,
    drain_pixels=2,
    act_depth=512,
    act_copies=1,
    slot_depth=128,
)


@pytest.mark.parametrize("stall", [0, 48])
def test_logits_equal_pytorch(make_case: CaseMaker, stall: int, seed: int) -> None:
    check_logits(make_case(CONFIG, "60:35:5"), stall, seed)


def test_every_layer_equals_the_golden_model(make_case: CaseMaker, seed: int) -> None:
    check_layers(make_case(CONFIG, "60:35:5"), seed)


@pytest.mark.parametrize("stall", [0, 48])
def test_a_network_that_does_not_fit(
    stall: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image comes in strips, results lie over their operands, a shortcut, which comes first,
    waits in memory."""
    monkeypatch.setattr("gateware.compiler.plan._orders", lambda operations: [operations])
    graph = residual_block()
    plan = lower(graph, CONFIG).plan
    assert plan.input_strips and any(isinstance(move, Spill) for move in plan.operations)
    images = random_images(graph, np.random.default_rng(seed))[:1]
    program = compile_graph(graph, CONFIG, dump=True)
    result = simulate(program, images, stall=stall, seed=seed)
    assert compare(graph, images, result.outputs) is None
