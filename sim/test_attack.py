# SPDX-License-Identifier: Apache-2.0
"""A few attacks of each kind on the default array; `python -m bench.soak --attack hardware` goes on
for as long as one likes."""

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.compiler.program import Program, compile_graph
from ir.ratio import Ratio
from sim.verify.simulation import attack
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_images

CONFIG = AccelConfig.from_ratio(Ratio(65, 30, 5), 16)


@pytest.fixture
def victim(seed: int) -> tuple[Program, np.ndarray]:
    """A program with every kind of transfer, and an image."""
    rng = np.random.default_rng(seed)
    network = GraphBuilder(rng, (16, 6, 6))
    first = network.conv(INPUT, 16, 3)
    network.linear(network.flatten(network.avg_pool(network.conv(first, 32, 3))), 10, wide=True)
    graph = network.build()
    return compile_graph(graph, CONFIG, dump=True), random_images(graph, rng)


@pytest.mark.parametrize(
    ("testcase", "count"), [("programs", 40), ("moments", 20), ("faults", 24), ("silence", 4)]
)
def test_attack(victim: tuple[Program, np.ndarray], testcase: str, count: int, seed: int) -> None:
    found = attack(*victim, testcase, seed=seed, first=0, count=count, seconds=600, stall=16)
    assert found["failures"] == []
    assert found["counts"]["attacks"] == count
