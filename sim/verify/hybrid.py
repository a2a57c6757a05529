# SPDX-License-Identifier: Apache-2.0
"""Proof of a hybrid network: its linear layers, each with its own program, on the Verilog.

The host's operations are not simulated: every layer reads what it read in PyTorch's integer
inference and must give what it gave there. As the host computes the same from equal results, the
whole network is equal when every layer is. Where training left no codes beside the graph, layers
read random ones, and must give what the golden model gives.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gateware.compiler.hybrid import LAYERS, layer_graph
from gateware.compiler.program import Program
from gateware.model.work import layer_macs
from ir import golden
from ir.cli import UserError
from ir.graph import Host, IntGraph
from sim.verify import waveform
from sim.verify.conditions import Conditions
from sim.verify.difference import Difference, first_difference
from sim.verify.inputs import LayerInputs, random_codes
from sim.verify.simulation import Simulation, simulate_all


@dataclasses.dataclass(frozen=True)
class LayerRun:
    """Result of simulating a layer.

    cycles : per input, the mean
    estimated : cycles that the timeline predicts
    macs : of one input
    wrong : inputs with another result than the golden model's
    """

    layer: str
    inputs: int
    mismatch: Difference | None
    cycles: int
    estimated: int
    macs: int
    wrong: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class HybridResult:
    """Result of simulating the layers of a hybrid network.

    Parameters
    ----------
    runs : list of LayerRun
    inputs : LayerInputs
    macs_per_cycle : int
        Of the array.
    conditions : Conditions
    seconds : float
        Of the simulation.
    """

    runs: list[LayerRun]
    inputs: LayerInputs
    macs_per_cycle: int
    conditions: Conditions
    seconds: float

    @property
    def images(self) -> int:
        """Inputs of each layer that were simulated."""
        return self.runs[0].inputs

    @property
    def equal(self) -> int:
        """Inputs of which the results of all layers equal the golden model's."""
        return self.images - len({image for run in self.runs for image in run.wrong})

    @property
    def cycles(self) -> int:
        """Mean cycles of all layers for one input."""
        return sum(run.cycles for run in self.runs)

    @property
    def differences(self) -> list[Difference]:
        """The first one of each layer that has any."""
        return [run.mismatch for run in self.runs if run.mismatch]

    def document(self) -> dict[str, object]:
        """Content of ``--json``."""
        return {
            "images": self.images,
            "inputs": self.inputs.origin,
            "reference": self.inputs.reference,
            "equal": self.equal,
            "cycles_per_image": self.cycles,
            "layers": [dataclasses.asdict(run) for run in self.runs],
            "seconds": round(self.seconds, 1),
        }

    def summary(self) -> str:
        """The outcome in a line."""
        equal = len(self.runs) - len(self.differences)
        return (
            f"{equal} of {len(self.runs)} layers, {self.images} inputs each: RTL results "
            f"equal to {self.inputs.reference}; {self.cycles} cycles for all layers of an input "
            f"(measured; estimated {sum(run.estimated for run in self.runs)}), "
            f"{self.conditions}, {self.seconds:.1f} s"
        )

    def table(self) -> str:
        """The layers and their sum in Markdown."""
        return table(self.runs, self.macs_per_cycle)

    def report(self) -> str:
        """Text that is kept beside the build."""
        return f"{self.table()}\n"


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer with its program and what it reads."""

    graph: IntGraph
    program: Program
    images: np.ndarray

    @property
    def name(self) -> str:
        return self.graph.header.name

    def result(self, simulation: Simulation, conditions: Conditions) -> LayerRun:
        """Comparison of what the layer gave with the golden model."""
        output = self.graph.header.output
        expected = golden.run(self.graph, self.images)[output]
        got = [outputs[output] for outputs in simulation.outputs]
        wrong = tuple(
            image
            for image, pair in enumerate(zip(expected, got, strict=True))
            if not np.array_equal(*pair)
        )
        return LayerRun(
            self.name,
            len(self.images),
            first_difference(wrong[0], self.name, expected[wrong[0]], got[wrong[0]])
            if wrong
            else None,
            simulation.cycles,
            conditions.estimate(self.program),
            layer_macs(self.graph, self.name),
            wrong,
        )


def verify(
    build: Path,
    graph: IntGraph,
    inputs: LayerInputs,
    conditions: Conditions,
    *,
    waves: Path | None = None,
) -> HybridResult:
    """Simulate each layer on its ``inputs`` and compare.

    ``waves`` is where a waveform of the first wrong value goes.

    Raises UserError for a build of another graph, CompileError, BenchFailed.
    """
    started = time.monotonic()
    layers = _load(build, graph, inputs, conditions.seed)
    config, verilog = layers[0].program.config, build / "accelerator.v"
    simulations = simulate_all(
        [(layer.program, layer.images) for layer in layers], verilog, **conditions.options(config)
    )
    runs = [
        layer.result(simulation, conditions)
        for layer, simulation in zip(layers, simulations, strict=True)
    ]
    if waves:
        for layer, simulation, run in zip(layers, simulations, runs, strict=True):
            if run.mismatch:
                waveform.record(
                    layer.program,
                    layer.graph,
                    layer.images,
                    verilog,
                    run.mismatch,
                    simulation,
                    conditions,
                    waves,
                )
                break
    return HybridResult(
        runs=runs,
        inputs=inputs,
        macs_per_cycle=config.macs_per_cycle,
        conditions=conditions,
        seconds=time.monotonic() - started,
    )


def _load(build: Path, graph: IntGraph, inputs: LayerInputs, seed: int) -> list[_Layer]:
    """The layers of ``graph`` with the programs of a build folder."""
    layers, rng = [], np.random.default_rng(seed)
    for node in graph.nodes:
        if isinstance(node, Host):
            continue
        program = Program.load(build / LAYERS / node.name)
        alone = layer_graph(graph, node, program.config)
        if program.graph_digest != alone.digest:
            raise UserError(
                f"{build} was built for another network: run python -m gateware.build again"
            )
        spec = alone.tensor(node.input)
        given = inputs.codes.get(node.input)
        if given is None:
            given = random_codes(spec, inputs.count, rng)
        images = given[: inputs.count].astype(np.int64).reshape(-1, *spec.shape)
        layers.append(_Layer(alone, program, images))
    return layers


def table(runs: Sequence[LayerRun], macs_per_cycle: int) -> str:
    """Rows of the layers and their sum in Markdown."""
    total = LayerRun(
        "total",
        runs[0].inputs,
        None,
        sum(run.cycles for run in runs),
        sum(run.estimated for run in runs),
        sum(run.macs for run in runs),
    )
    lines = ["| layer | cycles | estimated | MACs | of the array |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {run.layer} | {run.cycles} | {run.estimated} | {run.macs / 1e6:.2f} M | "
        f"{run.macs / (run.cycles * macs_per_cycle):.1%} |"
        for run in [*runs, total]
    ]
    return "\n".join(lines)
