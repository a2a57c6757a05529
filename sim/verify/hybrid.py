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

from gateware.compiler.hybrid import layer_folder, layer_graph
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


@dataclasses.dataclass(frozen=True, kw_only=True)
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

    def __repr__(self) -> str:
        return (
            f"<HybridResult: {self.equal} of {self.images} inputs equal, "
            f"{self.cycles:,} cycles each>"
        )

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
        """First difference of each layer that has any."""
        return [run.mismatch for run in self.runs if run.mismatch]

    def document(self) -> dict[str, object]:
        """Content of ``--json``."""
        return {
            "images": self.images,
            "inputs": self.inputs.origin,
            "reference": self.inputs.reference,
            "equal": self.equal,
            "conditions": str(self.conditions),
            "cycles_per_image": self.cycles,
            "layers": [dataclasses.asdict(run) for run in self.runs],
            "seconds": round(self.seconds, 1),
        }

    def summary(self) -> str:
        """Outcome in a line."""
        equal = len(self.runs) - len(self.differences)
        return (
            f"{equal} of {len(self.runs)} layers, {self.images} inputs each: RTL results "
            f"equal to {self.inputs.reference}; {self.cycles} cycles for all layers of an input "
            f"(measured; estimated {sum(run.estimated for run in self.runs)}), "
            f"{self.conditions}, {self.seconds:.1f} s"
        )

    def table(self) -> str:
        """Table of the layers and their sum, in Markdown."""
        return table(self.runs, self.macs_per_cycle)

    def report(self) -> str:
        """Text that is kept beside the build."""
        return f"{self.table()}\n"


@dataclasses.dataclass(frozen=True)
class OffloadedLayer:
    """Layer with its built program, and the tensor of the network's graph that it reads."""

    graph: IntGraph
    program: Program
    tensor: str

    @property
    def name(self) -> str:
        """Layer's name."""
        return self.graph.header.name

    def images(self, inputs: LayerInputs, rng: np.random.Generator) -> np.ndarray:
        """Codes that it is to read: int64 (N, C, H, W) in the shape of its program's input."""
        spec = self.graph.tensor(self.tensor)
        given = inputs.codes.get(self.tensor)
        if given is None:
            given = random_codes(spec, inputs.count, rng)
        return given[: inputs.count].astype(np.int64).reshape(-1, *spec.shape)

    def result(
        self, images: np.ndarray, simulation: Simulation, conditions: Conditions
    ) -> LayerRun:
        """Comparison of what the layer gave for ``images`` with the golden model."""
        output = self.graph.output.name
        expected = golden.run(self.graph, images)[output]
        got = [outputs[output] for outputs in simulation.outputs]
        wrong = tuple(
            image
            for image, pair in enumerate(zip(expected, got, strict=True))
            if not np.array_equal(*pair)
        )
        return LayerRun(
            layer=self.name,
            inputs=len(images),
            mismatch=first_difference(wrong[0], self.name, expected[wrong[0]], got[wrong[0]])
            if wrong
            else None,
            cycles=simulation.cycles,
            estimated=conditions.estimate(self.program),
            macs=layer_macs(self.graph, self.name),
            wrong=wrong,
        )


def load_layers(build: Path, graph: IntGraph) -> list[OffloadedLayer]:
    """Layers of ``graph`` with their programs of a build folder.

    Raises UserError for a build of another network, CompileError for damaged files.
    """
    layers = []
    for node in graph.nodes:
        if isinstance(node, Host):
            continue
        program = Program.load(build / layer_folder(node.name))
        alone = layer_graph(graph, node, program.config)
        if program.graph_digest != alone.digest:
            raise UserError(
                f"{build} was built for another network: run python -m gateware.build again"
            )
        layers.append(OffloadedLayer(alone, program, node.input))
    return layers


def verify(
    build: Path,
    layers: Sequence[OffloadedLayer],
    inputs: LayerInputs,
    conditions: Conditions,
    *,
    waves: Path | None = None,
) -> HybridResult:
    """Comparison of each layer, simulated on its ``inputs``, with the golden model.

    ``waves`` is where a waveform of the first wrong value goes. Raises BenchFailed.
    """
    started, rng = time.monotonic(), np.random.default_rng(conditions.seed)
    config, verilog = layers[0].program.config, build / "accelerator.v"
    read = [layer.images(inputs, rng) for layer in layers]
    simulations = simulate_all(
        [(layer.program, images) for layer, images in zip(layers, read, strict=True)],
        verilog,
        **conditions.options(config),
    )
    runs = []
    for layer, images, simulation in zip(layers, read, simulations, strict=True):
        run = layer.result(images, simulation, conditions)
        if run.mismatch and waves and not any(earlier.mismatch for earlier in runs):
            waveform.record(
                layer.program,
                layer.graph,
                images,
                verilog,
                run.mismatch,
                simulation,
                conditions,
                waves,
            )
        runs.append(run)
    return HybridResult(
        runs=runs,
        inputs=inputs,
        macs_per_cycle=config.macs_per_cycle,
        conditions=conditions,
        seconds=time.monotonic() - started,
    )


def table(runs: Sequence[LayerRun], macs_per_cycle: int) -> str:
    """Rows of the layers and their sum in Markdown."""
    total = LayerRun(
        layer="total",
        inputs=runs[0].inputs,
        mismatch=None,
        cycles=sum(run.cycles for run in runs),
        estimated=sum(run.estimated for run in runs),
        macs=sum(run.macs for run in runs),
    )
    lines = ["| layer | cycles | estimated | MACs | of the array |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {run.layer} | {run.cycles} | {run.estimated} | {run.macs / 1e6:.2f} M | "
        f"{run.macs / (run.cycles * macs_per_cycle):.1%} |"
        for run in [*runs, total]
    ]
    return "\n".join(lines)
