# SPDX-License-Identifier: Apache-2.0
"""Networks trained for an array, and what every whole accelerator must pass with them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.compiler.program import Program, compile_graph
from gateware.model import estimate
from ir.graph import Flatten, Host, IntGraph
from ir.vectors import Vectors, beside
from sim.verify.difference import compare
from sim.verify.simulation import simulate

IMAGES = 100


@dataclasses.dataclass(frozen=True)
class Case:
    """Array, and a network with test images.

    Parameters
    ----------
    config : AccelConfig
    graph : IntGraph
    images : integer test images (N, C, H, W)
    logits : PyTorch's integer logits of them (N, classes)
    """

    config: AccelConfig
    graph: IntGraph
    images: np.ndarray
    logits: np.ndarray

    @classmethod
    def load(cls, config: AccelConfig, run: Path) -> Self:
        """Network of a training run, for ``config``."""
        path = run / "graph.safetensors"
        graph = IntGraph.load(path)
        vectors = Vectors.load(beside(path), graph)
        return cls(config, graph, vectors.images, vectors.logits)

    def program(self, dump: bool = False, batch: int = 1) -> Program:
        """Program of the network for the array; ``dump`` and ``batch`` as in
        :func:`~gateware.compiler.program.compile_graph`."""
        return compile_graph(self.graph, self.config, dump=dump, batch=batch)


CaseMaker = Callable[[AccelConfig, str], Case]


def check_logits(case: Case, stall: int, seed: int) -> None:
    """Check of all logits of 100 images; without stalls the cycles must be within 3 % of the
    estimate."""
    program = case.program()
    result = simulate(program, case.images[:IMAGES], stall=stall, seed=seed)
    got = np.stack([output[case.graph.output.name].reshape(-1) for output in result.outputs])
    np.testing.assert_array_equal(got, case.logits[:IMAGES])
    if not stall:
        predicted = sum(estimate.cycles(program).values())
        assert abs(predicted - result.cycles) <= 0.03 * result.cycles, (predicted, result.cycles)


def check_layers(case: Case, seed: int) -> None:
    """Check that every layer's output of a few images equals the golden model's."""
    images = case.images[-3:]
    result = simulate(case.program(dump=True), images, stall=32, seed=seed)
    written = {node.output for node in case.graph.nodes if not isinstance(node, Flatten | Host)}
    assert written == set(result.outputs[0])
    assert compare(case.graph, images, result.outputs) is None
