# SPDX-License-Identifier: Apache-2.0
"""Simulates the layers of a network that the host has a part in, each with its own program.

The host's operations are not simulated: every layer reads what it read in PyTorch's integer
inference and must give what it gave there. As the host computes the same from equal results, the
whole network is equal when every layer is. Where training left no codes beside the graph, layers
read random ones, and must give what the golden model gives.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gateware.compiler.hybrid import LAYERS, layer_graph
from gateware.compiler.program import Program
from gateware.model.timeline import Timeline
from ir import golden
from ir.cli import UserError
from ir.graph import Host, IntGraph
from sim.verify.accelerator import Mismatch, first_difference, simulate_all
from sim.verify.report import macs


@dataclasses.dataclass(frozen=True)
class LayerRun:
    """A layer in simulation.

    cycles : per input, the mean
    estimated : cycles that the timeline predicts
    macs : of one input
    """

    layer: str
    inputs: int
    mismatch: Mismatch | None
    cycles: int
    estimated: int
    macs: int


def verify(
    build: Path,
    graph: IntGraph,
    codes: Mapping[str, np.ndarray],
    inputs: int,
    *,
    beats_per_cycle: float | None,
    read_latency: int,
    stall: int,
    seed: int,
    plusargs: Sequence[str],
) -> list[LayerRun]:
    """Simulate each layer on the first ``inputs`` of its ``codes``, by the tensor that it reads,
    or on as many random ones.

    Raises UserError for a build of another graph, CompileError, BenchFailed.
    """
    alone, tasks, rng = [], [], np.random.default_rng(seed)
    for node in graph.nodes:
        if isinstance(node, Host):
            continue
        program = Program.load(build / LAYERS / node.name)
        layer = layer_graph(graph, node, program.config)
        if program.graph_digest != layer.digest:
            raise UserError(
                f"{build} was built for another network: run python -m gateware.build again"
            )
        spec = layer.tensor(layer.header.input)
        given = codes.get(node.input)
        if given is None:
            given = rng.integers(0, 1 << spec.bits, (inputs, *spec.shape))
        alone.append(layer)
        tasks.append((program, given[:inputs].astype(np.int64).reshape(-1, *spec.shape)))
    results = simulate_all(
        tasks, build / "accelerator.v", stall=stall, seed=seed, plusargs=plusargs
    )
    found = []
    for layer, (program, images), result in zip(alone, tasks, results, strict=True):
        name, output = layer.header.name, layer.header.output
        expected = golden.run(layer, images)[output]
        got = [outputs[output] for outputs in result.outputs]
        wrong = next(
            (
                first_difference(index, name, *pair)
                for index, pair in enumerate(zip(expected, got, strict=True))
                if not np.array_equal(*pair)
            ),
            None,
        )
        estimated = Timeline(program.config, program.image, beats_per_cycle, read_latency).cycles
        found.append(
            LayerRun(name, len(images), wrong, result.cycles, estimated, macs(layer, name))
        )
    return found


def table(runs: Sequence[LayerRun], macs_per_cycle: int) -> str:
    """The layers and their sum in Markdown."""
    total = LayerRun(
        "total",
        runs[0].inputs,
        None,
        *(sum(getattr(run, name) for run in runs) for name in ("cycles", "estimated", "macs")),
    )
    lines = ["| layer | cycles | estimated | MACs | of the array |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {run.layer} | {run.cycles} | {run.estimated} | {run.macs / 1e6:.2f} M | "
        f"{run.macs / (run.cycles * macs_per_cycle):.1%} |"
        for run in [*runs, total]
    ]
    return "\n".join(lines)
