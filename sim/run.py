# SPDX-License-Identifier: Apache-2.0
"""Simulate a built accelerator and compare with the reference, integer for integer.

python -m sim.run                        build/zc706, 100 images
python -m sim.run build/zedboard --check layers --stall 64
python -m sim.run build/zc706 --images 1 --report --ddr-bytes 16   where the cycles went

The inputs are the test vectors beside the network's graph, else those that the build carries, else
the golden images of the driver or random codes. Of a hybrid network each layer is simulated on N
inputs: what it read in training's last check, or random ones where that was not kept.

The result goes to BUILD/simulation.json, too, and BUILD/report.html shows it.

The Verilog is the build's accelerator.v, the file that also goes into the bitstream; the program
is the build's program.bin. Exit code 1 when anything differs.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gateware.compiler.hybrid import is_hybrid
from gateware.compiler.operations import CompileError
from gateware.flow.verilog import MODULE
from gateware.model.timeline import READ_LATENCY
from gateware.report import page
from gateware.report.page import build_digest
from ir import cli
from ir.cli import UserError
from ir.files import exclusive, replace_text
from ir.graph import GraphError
from ir.vectors import VectorsError
from sim.backend.harness import BenchFailed, BuildFailed, SimulatorNotFound, find_simulator
from sim.backend.simulators import VERILATOR
from sim.verify import hybrid, network
from sim.verify.conditions import MAX_SEED, MAX_STALL, Conditions
from sim.verify.hybrid import HybridResult
from sim.verify.inputs import choose, choose_codes, load_graph
from sim.verify.network import NetworkResult

BUILD = Path("build/zc706")
IMAGES = 100
WAVES = "waves.vcd"
REPORT = "simulation.md"
CHECKS = ("logits", "layers")


def verify(
    build: Path,
    graph_path: Path | None = None,
    *,
    images: int = IMAGES,
    check: str | None = None,
    waves: bool = False,
    conditions: Conditions | None = None,
    quiet: bool = False,
) -> NetworkResult | HybridResult:
    """Comparison of what ``gateware.build`` wrote into ``build``, simulated, with the reference.

    Parameters
    ----------
    graph_path : Path, optional
        File of the network (default: the copy in ``build``).
    images : int
        Inputs at most.
    check : str, optional
        ``logits`` (the default) or ``layers``: every layer's output, which is what is always
        compared of a hybrid network.
    waves : bool
        Where something differs, simulate again for a waveform in ``build``.

    Raises
    ------
    UserError
        In one line, for files that are missing, damaged or of another network, for options that do
        not go with the network, and where there is no simulator.
    BenchFailed, BuildFailed
        For a simulation that cannot be built, or in which a run does not end well.
    """
    try:
        return _verify(build, graph_path, images, check, waves, conditions or Conditions(), quiet)
    except (GraphError, VectorsError, CompileError, SimulatorNotFound) as error:
        raise UserError(str(error)) from error


def _verify(
    build: Path,
    graph_path: Path | None,
    images: int,
    check: str | None,
    waves: bool,
    conditions: Conditions,
    quiet: bool,
) -> NetworkResult | HybridResult:
    say = (lambda text: None) if quiet else cli.say
    if images < 1:
        raise UserError(f"images must be at least 1, not {images}")
    if check not in (None, *CHECKS):
        raise UserError(f"check is one of {', '.join(CHECKS)}, not {check!r}")
    find_simulator(prefer=VERILATOR)
    graph, path = load_graph(build, graph_path)
    _check_verilog(build / network.VERILOG)
    target = build / WAVES if waves else None
    if is_hybrid(graph):
        if check == "logits":
            raise UserError(
                f"the logits of {path} are computed by the host, which is not simulated: leave "
                "--check logits out, and its layers are compared"
            )
        layers = hybrid.load_layers(build, graph)
        codes = choose_codes(build, graph, path, images, conditions.seed)
        say(f"simulating layers on {build / network.VERILOG}, inputs: {codes.origin}")
        return hybrid.verify(build, layers, codes, conditions, waves=target)
    program = network.load_program(build, graph, path)
    inputs = choose(build, graph, path, images, conditions.seed)
    found = len(inputs.images)
    if found < images and images != IMAGES:
        say(f"{inputs.origin} has {found} inputs, fewer than {images}: all are simulated")
    say(f"simulating {found} images of {inputs.origin} on {build / network.VERILOG}")
    return network.verify(
        build, graph, program, inputs, conditions, layers=check == "layers", waves=target
    )


def _check_verilog(path: Path) -> None:
    """Raise UserError for Verilog that is missing or was cut."""
    again = "run python -m gateware.build again"
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"no {path.name} in {path.parent}: {again}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: {again}") from error
    if f"module {MODULE}(" not in text or not text.rstrip().endswith("endmodule"):
        raise UserError(f"{path} is not complete: {again}")


def keep_result(result: NetworkResult | HybridResult, build: Path) -> None:
    """Result as simulation.json in ``build``, whose page is drawn again. Raises UserError."""
    document = result.document() | {"build": build_digest(build)}
    try:
        with exclusive(build, "the result of this simulation is not kept"):
            replace_text(build / page.SIMULATION, json.dumps(document) + "\n")
            if (build / page.REPORT).is_file():
                cli.say(f"wrote {build / page.SIMULATION} and {page.write(build)}")
    except OSError as error:
        raise UserError(f"cannot write to {build}: {error.strerror}") from error


def keep_report(result: NetworkResult | HybridResult, build: Path) -> None:
    """Report beside the build: a table, of a whole network also a plot. Raises UserError."""
    try:
        (build / REPORT).write_text(result.report())
        cli.say(f"wrote {build / REPORT}")
        if isinstance(result, NetworkResult):
            result.draw(build)
    except OSError as error:
        raise UserError(f"cannot write the report to {build}: {error.strerror}") from error


def parser() -> cli.Parser:
    """Options of the command."""
    p = cli.Parser(prog="python -m sim.run", description=__doc__)
    p.add_argument(
        "build",
        type=Path,
        nargs="?",
        default=BUILD,
        metavar="BUILD",
        help="folder that gateware.build wrote (default: %(default)s)",
    )
    _add_inputs(p)
    _add_memory(p)
    _add_output(p)
    return p


def _add_inputs(p: cli.Parser) -> None:
    g = p.add_argument_group("inputs and comparison")
    g.add_argument(
        "--graph",
        type=Path,
        metavar="FILE",
        help="the network, perhaps with test vectors beside it (default: the copy in BUILD)",
    )
    g.add_argument(
        "--images",
        type=cli.whole(1),
        default=IMAGES,
        metavar="N",
        help="at most (default: %(default)s)",
    )
    g.add_argument(
        "--check",
        choices=CHECKS,
        help="compare the logits only, or every layer's output (default: logits; of a hybrid "
        "network layers)",
    )


def _add_memory(p: cli.Parser) -> None:
    g = p.add_argument_group("memory")
    g.add_argument(
        "--ddr-bytes",
        type=cli.whole(1),
        metavar="N",
        help="bytes per cycle of the memory, all ports and both directions together (default: "
        "what the ports can take)",
    )
    g.add_argument(
        "--read-latency",
        type=cli.whole(2),
        default=READ_LATENCY,
        metavar="N",
        help="cycles from a read address to its data (default: %(default)s)",
    )
    g.add_argument(
        "--stall",
        type=cli.whole(0, MAX_STALL),
        default=0,
        metavar="N",
        help="chance out of 256 that a bus channel pauses in a cycle (default: %(default)s)",
    )
    g.add_argument(
        "--seed",
        type=cli.whole(0, MAX_SEED),
        default=1,
        metavar="N",
        help="of the stalls and of random inputs (default: %(default)s)",
    )


def _add_output(p: cli.Parser) -> None:
    g = p.add_argument_group("output")
    g.add_argument(
        "--report",
        action="store_true",
        help="print a table of layers: cycles, use, waits, bytes; keep it, and a plot of the "
        "run, beside the build",
    )
    g.add_argument(
        "--waves",
        action="store_true",
        help=f"on a mismatch, simulate again and write the waveform around it to BUILD/{WAVES}",
    )
    g.add_argument("--json", action="store_true", help="print one JSON document")


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        result = verify(
            args.build,
            args.graph,
            images=args.images,
            check=args.check,
            waves=args.waves,
            conditions=Conditions(
                stall=args.stall,
                seed=args.seed,
                ddr_bytes=args.ddr_bytes,
                read_latency=args.read_latency,
            ),
        )
    except (BenchFailed, BuildFailed) as error:
        cli.say(f"error: {error}")
        return 1
    keep_result(result, args.build)
    if args.report:
        keep_report(result, args.build)
    cli.give(json.dumps(result.document()) if args.json else result.summary())
    if args.report and not args.json:
        cli.give(result.table())
    for difference in result.differences:
        cli.say(f"error: mismatch: {difference}")
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
