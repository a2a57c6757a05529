# SPDX-License-Identifier: Apache-2.0
"""Simulate a built accelerator on test images and compare with the reference, integer for integer.

python -m sim.run                        build/zc706 and runs/latest, 100 images
python -m sim.run build/zedboard --check layers --stall 64
python -m sim.run build/zc706 --images 1 --report --ddr-bytes 16   where the cycles went

Of a network that the host has a part in, each layer is simulated on N inputs: what it read in
training's last check, or random ones where that was not kept.

The Verilog is the build's accelerator.v, the file that also goes into the bitstream; the program
is the build's program.bin. Exit code 1 when anything differs.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import is_hosted
from gateware.compiler.operations import CompileError
from gateware.compiler.program import Program, compile_graph
from gateware.model.timeline import READ_LATENCY, Timeline
from ir import cli
from ir.cli import UserError
from ir.graph import GraphError, IntGraph
from ir.vectors import Vectors, VectorsError, beside, find
from sim.backend.harness import BenchFailed, BuildFailed, SimulatorNotFound, find_simulator
from sim.backend.simulators import VERILATOR
from sim.verify import hybrid, plot, waveform
from sim.verify.accelerator import Mismatch, Simulation, compare, first_difference, simulate, trace
from sim.verify.report import LayerRow, layer_rows, table

BUILD = Path("build/zc706")
GRAPH = Path("runs/latest/graph.safetensors")
WAVES = "waves.vcd"
BUILDING = "building the simulation takes a minute to half an hour, once per accelerator"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a comparison.

    equal : images whose checked tensors all equal the reference
    estimated : cycles per image that the timeline predicts, without pauses of the bus
    layers : where the cycles of the first run went
    """

    images: int
    equal: int
    mismatch: Mismatch | None
    simulation: Simulation
    estimated: int
    layers: list[LayerRow]
    seconds: float

    def document(self) -> dict:
        """For ``--json``."""
        counters = self.simulation.counters
        return {
            "images": self.images,
            "equal": self.equal,
            "cycles_per_image": self.simulation.cycles,
            "cycles_estimated": self.estimated,
            "layers": [dataclasses.asdict(row) for row in self.layers],
            "counters": {name: [c[name] for c in counters] for name in counters[0]},
            "mismatch": dataclasses.asdict(self.mismatch) if self.mismatch else None,
            "seconds": round(self.seconds, 1),
        }


def ddr(bus_bytes: int, shared_bytes: int | None, read_latency: int) -> list[str]:
    """Plusargs of the DDR model; ``shared_bytes`` is what it moves per cycle, if limited."""
    plusargs = [f"+ddr_read_latency={read_latency}"]
    if shared_bytes is not None:
        plusargs += [f"+ddr_shared_beats={shared_bytes}", f"+ddr_shared_cycles={bus_bytes}"]
    return plusargs


def verify(
    build: Path,
    graph: IntGraph,
    graph_path: Path,
    *,
    images: int,
    layers: bool,
    stall: int,
    seed: int,
    ddr_bytes: int | None = None,
    read_latency: int = READ_LATENCY,
    waves: bool = False,
) -> Outcome:
    """Simulate and compare. Raises UserError, CompileError, BenchFailed.

    ``waves`` keeps a waveform of the cycles in which the first wrong value was made.
    ``ddr_bytes`` is what the memory moves per cycle for all ports and both directions together, by
    default a beat per port and direction.
    """
    program = Program.load(build)
    if program.graph_digest != graph.digest:
        raise UserError(
            f"{build} was built for graph {program.graph_digest[:16]}, {graph_path} is "
            f"{graph.digest[:16]}; run python -m gateware.build --graph {graph_path}"
        )
    vectors = find(graph_path, graph)
    if vectors is None:
        raise UserError(
            f"no test images at {beside(graph_path)}; python -m quant.train writes them"
        )
    tensors, logits = vectors.images[:images], vectors.logits[:images]
    if layers:
        program = compile_graph(graph, program.config, dump=True, batch=program.batch)
    start = time.monotonic()
    cli.say(f"simulating {len(tensors)} images on {build / 'accelerator.v'}; {BUILDING}")
    bus_bytes = program.config.bus_bits // 8
    plusargs = ddr(bus_bytes, ddr_bytes, read_latency)
    simulation = simulate(
        program,
        tensors,
        build / "accelerator.v",
        stall=stall,
        seed=seed,
        plusargs=plusargs,
    )
    outputs = [output[graph.header.output] for output in simulation.outputs]
    wrong = [
        i for i, output in enumerate(outputs) if not np.array_equal(output.reshape(-1), logits[i])
    ]
    mismatch = None
    if layers:
        mismatch = compare(graph, tensors, simulation.outputs)
    if mismatch is None and wrong:
        expected = logits[wrong[0]].reshape(outputs[wrong[0]].shape)
        mismatch = first_difference(wrong[0], graph.nodes[-1].name, expected, outputs[wrong[0]])
    if mismatch and waves:
        _trace(
            build,
            program,
            graph,
            tensors,
            mismatch,
            simulation,
            stall=stall,
            seed=seed,
            plusargs=plusargs,
        )
    estimated = (
        Timeline(
            program.config,
            program.image,
            beats_per_cycle=None if ddr_bytes is None else ddr_bytes / bus_bytes,
            read_latency=read_latency,
        ).cycles
        / program.batch
    )
    rows = layer_rows(program, graph, simulation.samples[0], simulation.counters[0])
    return Outcome(
        len(tensors),
        len(tensors) - len(wrong),
        mismatch,
        simulation,
        round(estimated),
        rows,
        time.monotonic() - start,
    )


def _trace(
    build: Path,
    program: Program,
    graph: IntGraph,
    tensors: np.ndarray,
    mismatch: Mismatch,
    simulation: Simulation,
    **options: object,
) -> None:
    """The waveform around the first wrong value, in ``build``/waves.vcd."""
    number = mismatch.image // program.batch
    descriptor = waveform.producer(program, graph, mismatch.layer, mismatch.channel, mismatch.y)
    cycles = waveform.cycles(
        simulation.samples[number], descriptor, simulation.counters[number]["CYCLES"]
    )
    first = number * program.batch
    cli.say(f"simulating again, for a waveform of cycles {cycles[0]} to {cycles[1]}")
    trace(
        program,
        tensors[first : first + program.batch],
        build / "accelerator.v",
        cycles,
        build / WAVES,
        **options,
    )
    cli.say(f"wrote {build / WAVES}: descriptor {descriptor} is at work")


def _keep(build: Path, program: Program, outcome: Outcome, text: str) -> None:
    """The report beside the build: a table and a picture. Raises UserError."""
    simulation = outcome.simulation
    _write(
        build / "simulation.md",
        f"{simulation.cycles} cycles per image (measured; estimated "
        f"{outcome.estimated}).\n\n{text}\n",
    )
    try:
        plot.draw(program, simulation.samples[0], simulation.counters[0], build / "simulation.png")
    except OSError as error:
        raise UserError(f"cannot write the report to {build}: {error.strerror}") from error
    cli.say(f"wrote {build / 'simulation.png'}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    cli.say(f"wrote {path}")


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m sim.run", description=__doc__)
    p.add_argument(
        "build",
        type=Path,
        nargs="?",
        default=BUILD,
        metavar="BUILD",
        help="folder that gateware.build wrote (default: %(default)s)",
    )
    p.add_argument(
        "--graph",
        type=Path,
        default=GRAPH,
        metavar="FILE",
        help="the network, with its vectors.npz beside it (default: %(default)s)",
    )
    p.add_argument(
        "--images", type=_positive, default=100, metavar="N", help="(default: %(default)s)"
    )
    p.add_argument(
        "--check",
        choices=("logits", "layers"),
        default="logits",
        help="compare the logits only, or every layer's output (default: %(default)s)",
    )
    p.add_argument(
        "--report",
        action="store_true",
        help="print a table of layers: cycles, use, waits, bytes; keep it, and a picture of the "
        "run, beside the build",
    )
    p.add_argument(
        "--ddr-bytes",
        type=_positive,
        metavar="N",
        help="bytes per cycle of the memory, all ports and both directions together (default: "
        "what the ports can take)",
    )
    p.add_argument(
        "--read-latency",
        type=_latency,
        default=READ_LATENCY,
        metavar="N",
        help="cycles from a read address to its data (default: %(default)s)",
    )
    p.add_argument(
        "--stall",
        type=int,
        default=0,
        metavar="N",
        help="chance out of 256 that a bus channel pauses in a cycle (default: %(default)s)",
    )
    p.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of the stalls (default: %(default)s)"
    )
    p.add_argument(
        "--waves",
        action="store_true",
        help=f"on a mismatch, simulate again and write the waveform around it to BUILD/{WAVES}",
    )
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def _latency(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, not {text}")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        find_simulator(prefer=VERILATOR)
        graph = IntGraph.load(args.graph)
        return (_layers if is_hosted(graph) else _network)(args, graph)
    except (GraphError, VectorsError, CompileError, SimulatorNotFound) as error:
        raise UserError(str(error)) from error
    except (BenchFailed, BuildFailed) as error:
        cli.say(f"error: {error}")
        return 1


def _network(args: argparse.Namespace, graph: IntGraph) -> int:
    outcome = verify(
        args.build,
        graph,
        args.graph,
        images=args.images,
        layers=args.check == "layers",
        stall=args.stall,
        seed=args.seed,
        ddr_bytes=args.ddr_bytes,
        read_latency=args.read_latency,
        waves=args.waves,
    )
    if args.report:
        program = Program.load(args.build)
        text = table(outcome.layers, program.config.macs_per_cycle)
        _keep(args.build, program, outcome, text)
    if args.json:
        cli.give(json.dumps(outcome.document()))
    else:
        cli.give(
            f"{outcome.equal} of {outcome.images} images: RTL logits equal to PyTorch's integers; "
            f"{outcome.simulation.cycles} cycles per image (measured; estimated "
            f"{outcome.estimated}), seed {args.seed}, "
            f"stall {args.stall}/256, {outcome.seconds:.1f} s"
        )
        if args.report:
            cli.give(text)
    if outcome.mismatch:
        cli.say(f"error: mismatch: {outcome.mismatch}")
    return 1 if outcome.mismatch else 0


def _layers(args: argparse.Namespace, graph: IntGraph) -> int:
    """The layers of a network that the host has a part in."""
    try:
        config = AccelConfig.from_json((args.build / "config.json").read_text())
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"no build in {args.build}: run python -m gateware.build first") from error
    bus_bytes = config.bus_bits // 8
    start = time.monotonic()
    cli.say(f"simulating layers on {args.build / 'accelerator.v'}; {BUILDING}")
    vectors: Vectors | None = find(args.graph, graph)
    runs = hybrid.verify(
        args.build,
        graph,
        vectors.read(graph) if vectors else {},
        args.images,
        beats_per_cycle=None if args.ddr_bytes is None else args.ddr_bytes / bus_bytes,
        read_latency=args.read_latency,
        stall=args.stall,
        seed=args.seed,
        plusargs=ddr(bus_bytes, args.ddr_bytes, args.read_latency),
    )
    wrong = [run for run in runs if run.mismatch]
    text = hybrid.table(runs, config.macs_per_cycle)
    if args.report:
        _write(args.build / "simulation.md", f"{text}\n")
    if args.json:
        cli.give(json.dumps({"layers": [dataclasses.asdict(run) for run in runs]}))
    else:
        cli.give(
            f"{len(runs) - len(wrong)} of {len(runs)} layers, {runs[0].inputs} inputs each: RTL "
            f"results equal to PyTorch's integers; {sum(run.cycles for run in runs)} cycles for "
            f"all layers of an input (measured; estimated {sum(run.estimated for run in runs)}), "
            f"seed {args.seed}, stall {args.stall}/256, {time.monotonic() - start:.1f} s"
        )
        if args.report:
            cli.give(text)
    for run in wrong:
        cli.say(f"error: mismatch: {run.mismatch}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
