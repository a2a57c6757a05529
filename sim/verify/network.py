# SPDX-License-Identifier: Apache-2.0
"""Proof of a whole network: the logits, or every layer, of its built program on the Verilog."""

import dataclasses
import time
from pathlib import Path

import numpy as np

from gateware.compiler.program import Program, compile_graph
from ir import cli
from ir.cli import UserError
from ir.graph import IntGraph
from sim.verify import plot, waveform
from sim.verify.breakdown import LayerRow, layer_rows, table
from sim.verify.conditions import Conditions
from sim.verify.difference import Difference, compare, first_difference
from sim.verify.inputs import Inputs
from sim.verify.simulation import Simulation, simulate

VERILOG = "accelerator.v"
PLOT = "simulation.png"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """Result of simulating a network.

    Parameters
    ----------
    inputs : Inputs
    program : Program
        What ran: the build's, or the same with the layers' outputs dumped.
    simulation : Simulation
    conditions : Conditions
    equal : int
        Images whose outputs all equal the reference.
    difference : Difference, optional
        The first one, in the logits or, where they were compared, in a layer.
    rows : list of LayerRow
        Where the cycles of the first run went.
    estimated : int
        Cycles per image that the timeline predicts, without pauses of the bus.
    seconds : float
        Of the simulation.
    """

    inputs: Inputs
    program: Program
    simulation: Simulation
    conditions: Conditions
    equal: int
    difference: Difference | None
    rows: list[LayerRow]
    estimated: int
    seconds: float

    def __repr__(self) -> str:
        return (
            f"<NetworkResult: {self.equal} of {self.images} images equal, "
            f"{self.cycles:,} cycles each>"
        )

    @property
    def images(self) -> int:
        """Images that were simulated."""
        return len(self.inputs.images)

    @property
    def cycles(self) -> int:
        """Mean cycles per image."""
        return self.simulation.cycles

    @property
    def differences(self) -> list[Difference]:
        """First difference, alone, or nothing."""
        return [self.difference] if self.difference else []

    def document(self) -> dict[str, object]:
        """Content of ``--json``."""
        counters = self.simulation.counters
        return {
            "images": self.images,
            "inputs": self.inputs.origin,
            "reference": self.inputs.reference,
            "equal": self.equal,
            "conditions": str(self.conditions),
            "batch": self.program.batch,
            "cycles_per_image": self.cycles,
            "cycles_estimated": self.estimated,
            "layers": [dataclasses.asdict(row) for row in self.rows],
            "counters": {name: [c[name] for c in counters] for name in counters[0]},
            "mismatch": dataclasses.asdict(self.difference) if self.difference else None,
            "seconds": round(self.seconds, 1),
        }

    def summary(self) -> str:
        """Outcome in a line."""
        return (
            f"{self.equal} of {self.images} images: RTL logits equal to {self.inputs.reference}; "
            f"{self.cycles} cycles per image (measured; estimated {self.estimated}), "
            f"{self.conditions}, {self.seconds:.1f} s"
        )

    def table(self) -> str:
        """Breakdown of the cycles in Markdown."""
        return table(self.rows, self.program.config.macs_per_cycle)

    def report(self) -> str:
        """Text that is kept beside the build."""
        return (
            f"{self.cycles} cycles per image (measured; estimated {self.estimated}).\n\n"
            f"{self.table()}\n"
        )

    def draw(self, build: Path) -> None:
        """Plot of the first run, beside the build. Raises OSError."""
        samples, final = self.simulation.samples[0], self.simulation.counters[0]
        plot.draw(self.program, samples, final, build / PLOT)
        cli.say(f"wrote {build / PLOT}")


def load_program(build: Path, graph: IntGraph, graph_path: Path) -> Program:
    """Program of a build. Raises UserError for one of another network, CompileError for a
    damaged one."""
    program = Program.load(build)
    if program.graph_digest != graph.digest:
        raise UserError(
            f"{build} was built for graph {program.graph_digest[:16]}, {graph_path} is "
            f"{graph.digest[:16]}: leave --graph out for the network that the build carries"
        )
    return program


def verify(
    build: Path,
    graph: IntGraph,
    program: Program,
    inputs: Inputs,
    conditions: Conditions,
    *,
    layers: bool = False,
    waves: Path | None = None,
) -> NetworkResult:
    """Comparison of ``program``, simulated on the Verilog of a build folder, with the reference.

    With ``layers`` every layer is compared, by a program that dumps them all. ``waves`` is where a
    waveform of the first wrong value goes. Raises CompileError, BenchFailed.
    """
    if layers:
        program = compile_graph(graph, program.config, dump=True, batch=program.batch)
    started = time.monotonic()
    images, verilog = inputs.images, build / VERILOG
    simulation = simulate(program, images, verilog, **conditions.options(program.config))
    expected = {graph.output.name: inputs.logits, **inputs.outputs}
    wrong = {
        image: name
        for image, tensors in enumerate(simulation.outputs)
        for name, values in reversed(expected.items())
        if not np.array_equal(tensors[name].reshape(-1), values[image].reshape(-1))
    }
    difference = compare(graph, images, simulation.outputs) if layers else None
    if difference is None and wrong:
        image, name = next(iter(wrong.items()))
        got = simulation.outputs[image][name]
        right = expected[name][image].reshape(got.shape)
        difference = first_difference(image, graph.writer(name).name, right, got)
    if difference and waves:
        waveform.record(program, graph, images, verilog, difference, simulation, conditions, waves)
    return NetworkResult(
        inputs=inputs,
        program=program,
        simulation=simulation,
        conditions=conditions,
        equal=len(images) - len(wrong),
        difference=difference,
        rows=layer_rows(program, graph, simulation.samples[0], simulation.counters[0]),
        estimated=round(conditions.estimate(program) / program.batch),
        seconds=time.monotonic() - started,
    )
