# SPDX-License-Identifier: Apache-2.0
"""Build an accelerator for a board, and the program of a network for it.

python -m gateware.build --board zc706                    for runs/latest, if there is one
python -m gateware.build --board zc706 --graph FILE       for that network
python -m gateware.build --board zc706 --explain          why this array
python -m gateware.build --board zc706 --no-search        a small array, quick to simulate
python -m gateware.build --board zc706 --synth yosys      count its cells, without Vivado

Options of the array decide its sizes; what they leave open is found for the network and the board.

Writes build/<board>/: accelerator.v (what is simulated and synthesised), program.bin and
program.json (for the driver and the simulation), graph.safetensors and vectors.npz (copies of the
network and of the first test vectors beside it, for the simulation), accelerator.json, golden.npz
and rmsmp.dts (for the driver), vivado/ (a complete project; trellis/ for ECP5 boards), and the
report as report.json, report.md and report.html, one page that needs no network. Without Vivado on
the PATH it stops after the project; with Vivado it makes the bitstream and reads its reports.
Bitstreams of ECP5 boards are made by open tools, which takes minutes.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import boards
from boards.board import Board
from gateware.arch.config import SIZE_OPTIONS, SIZES, AccelConfig
from gateware.arch.results import DoesNotFit, ToolError, ToolReport
from gateware.compiler.hybrid import Compiled, compile_all
from gateware.compiler.lower import needs_tables
from gateware.compiler.operations import CompileError
from gateware.compiler.slices import needs_parts
from gateware.explore import presets
from gateware.explore.choose import Choice, cached
from gateware.explore.retraining import retraining
from gateware.explore.space import Given
from gateware.flow import clock, manifest
from gateware.flow.target import TARGETS, Target, driver_bytes
from gateware.flow.verilog import MODULE, accelerator_verilog
from gateware.report import page
from gateware.report.summary import check_fit, markdown, report
from ir import cli
from ir.cli import UserError
from ir.files import exclusive, replace_folder, replace_text
from ir.graph import GRAPH, GraphError, IntGraph, graph_file
from ir.ratio import Ratio
from ir.vectors import Vectors, VectorsError, beside, find

LATEST = Path("runs/latest/graph.safetensors")
#: Least and most of each size of the array, and what sets the limit.
RANGES = {
    "rows": (1, 1024, "no board holds more"),
    "pixels": (2, 512, "a DSP serves two, and rows of a tensor have less than 1024"),
    "requant_lanes": (1, 16, "a word has 16 channels"),
    "ports": (1, 4, "a Zynq has four memory ports"),
    "act_depth": (1, 1 << 16, "an address has 16 bits"),
    "act_copies": (1, 2, "one or two ports of the words"),
    "weight_depth": (1, 1 << 15, "an address has 16 bits, one of them for the ring"),
    "slot_depth": (1, 1 << 16, "an address has 16 bits"),
    "wide_depth": (1, 1 << 16, "an address has 16 bits"),
}
MAX_BATCH = 64  #: images of a run; every one has descriptors of its own
VECTORS = 100  #: most test vectors that are copied to beside it


def parser() -> cli.Parser:
    """Options of the command."""
    p = cli.Parser(prog="python -m gateware.build", description=__doc__)
    p.add_argument("-q", "--quiet", action="store_true", help="only errors")
    p.add_argument("--json", action="store_true", help="print the report as one JSON document")
    _add_what(p)
    _add_array(p)
    _add_output(p)
    return p


def _add_what(p: cli.Parser) -> None:
    g = p.add_argument_group("what")
    g.add_argument(
        "--board", required=True, metavar="NAME", help=f"one of {', '.join(boards.BOARDS)}"
    )
    g.add_argument(
        "--graph",
        type=Path,
        metavar="FILE",
        help=f"integer graph to compile, or a run that has one (default: {LATEST} if it exists, "
        f"else the accelerator alone)",
    )
    g.add_argument(
        "--batch",
        type=cli.whole(1, MAX_BATCH),
        default=1,
        metavar="N",
        help="images of a run, for which weights are loaded once where that binds "
        "(default: %(default)s)",
    )


def _add_array(p: cli.Parser) -> None:
    g = p.add_argument_group("array")
    g.add_argument(
        "--ratio",
        metavar="A:B:C",
        help="row lanes in PoT-4, Fixed-4 and Fixed-8; paper for the paper's; auto for the array "
        "that gateware.ratio kept for the board (default: found; the graph's with --no-search)",
    )
    g.add_argument(
        "--rows",
        type=_size("rows"),
        metavar="N",
        help="row lanes (default: found; the graph's tile rows, else 16, with --no-search)",
    )
    for name, size in SIZE_OPTIONS.items():
        g.add_argument(
            f"--{name.replace('_', '-')}",
            type=_size(name),
            metavar="N",
            help=f"{size.text} (default: found; {size.default} with --no-search)",
        )
    g.add_argument(
        "--no-search",
        action="store_true",
        help="sizes that are not given are small ones instead of those that suit the network",
    )
    g.add_argument(
        "--explain", action="store_true", help="say what was considered, and why this array"
    )
    g.add_argument(
        "--strict",
        action="store_true",
        help="refuse a network that takes more cycles because it was trained for another array",
    )
    g.add_argument(
        "--clock-mhz",
        type=_clock_mhz,
        metavar="F",
        help="(default: what the model of this array supports where one is kept, else the board's)",
    )


def _add_output(p: cli.Parser) -> None:
    g = p.add_argument_group("output")
    g.add_argument(
        "--out", type=Path, default=Path("build"), metavar="DIR", help="(default: %(default)s)"
    )
    tools = g.add_mutually_exclusive_group()
    tools.add_argument(
        "--project-only",
        action="store_true",
        help="stop after the project even if the tools for a bitstream are there",
    )
    tools.add_argument(
        "--synth",
        choices=("yosys",),
        help="no bitstream: synthesise with Yosys and report the cells of every module",
    )


def _size(name: str) -> Callable[[str], int]:
    """Type of an option that is a size of the array."""
    least, most, reason = RANGES[name]

    def size(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{least} to {most}, as {reason}, not {text}")
        return number

    return size


def _clock_mhz(text: str) -> float:
    """A clock in MHz; which ones a board makes, its target says."""
    try:
        clock = float(text)
    except ValueError:
        clock = math.nan
    if not math.isfinite(clock):
        raise argparse.ArgumentTypeError(f"a clock is a number of MHz, not {text}")
    return clock


def load(name: str, path: Path | None) -> tuple[Board, IntGraph | None, Vectors | None]:
    """Board of a name, network of a file and the test vectors beside it. Raises UserError."""
    try:
        board = boards.get(name)
        graph = IntGraph.load(path) if path else None
        vectors = find(path, graph) if path and graph else None
    except (boards.UnknownBoard, GraphError, VectorsError) as error:
        raise UserError(str(error)) from error
    return board, graph, vectors


def check_batch(batch: int) -> None:
    """Check of the images of a run. Raises UserError."""
    if not 1 <= batch <= MAX_BATCH:
        raise UserError(f"batch must be 1 to {MAX_BATCH} images, not {batch}")


def configure(
    board: Board,
    graph: IntGraph | None,
    *,
    ratio: str | None,
    rows: int | None,
    clock_hz: int | None,
    **sizes: int,
) -> AccelConfig:
    """Configuration that the options ask for, with tables where the network needs them.

    Raises UserError.
    """
    target = TARGETS[board.device.family]
    try:
        if clock_hz is not None:
            target.check_clock(board, clock_hz)
        if ratio == "auto":
            found = presets.auto(board)
            chosen, rows = found.ratio, found.rows if rows is None else rows
            sizes = {**found.sizes, **sizes}
        elif ratio == "paper":
            chosen = presets.paper(board)
        elif ratio is not None:
            chosen = Ratio.parse(ratio)
        elif graph is not None:
            chosen = Ratio.parse(graph.header.ratio)
        else:
            chosen = presets.paper(board)
        if rows is None:
            rows = graph.header.tile_rows if graph else 16
        config = AccelConfig.from_ratio(
            chosen,
            rows,
            clock_hz=board.clock_hz if clock_hz is None else clock_hz,
            tables=graph is not None and needs_tables(graph),
            **{**sizes, **target.sizes},
        )
        if graph is not None and needs_parts(graph, k=config.k, weight_depth=config.weight_depth):
            config = dataclasses.replace(config, parts=True)
        if clock_hz is None:
            config = dataclasses.replace(config, clock_hz=clock.default_hz(board, config))
        target.check(board, config)
        check_fit(board, target.resources(config))
    except (DoesNotFit, ValueError) as error:
        raise UserError(str(error)) from error
    return config


def choices(folder: Path) -> Path:
    """File beside a build folder that keeps what was chosen."""
    return folder.with_name(f"{folder.name}.choices.json")


def decide(
    board: Board,
    graph: IntGraph,
    cache: Path,
    *,
    ratio: str | None = None,
    rows: int | None = None,
    clock_hz: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    **sizes: int,
) -> Choice:
    """Array for ``graph``; what the options leave open, :mod:`gateware.explore.choose` finds.

    The answer is kept in the file ``cache``. Raises UserError.
    """
    try:
        chosen = presets.paper(board) if ratio == "paper" else ratio and Ratio.parse(ratio)
        given = Given(
            ratio=chosen or None,
            rows=None if rows is None else (rows,),
            pixels=(sizes.pop("pixels"),) if "pixels" in sizes else None,
            sizes=sizes,
            clock_hz=clock_hz,
        )
        if clock_hz is not None:
            TARGETS[board.device.family].check_clock(board, clock_hz)
        choice = cached(graph, board, given, cache, say)
    except (CompileError, ValueError) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot write to {cache}: {error.strerror}") from error
    if clock_hz is not None:
        return choice
    hz = clock.default_hz(board, choice.config)
    return dataclasses.replace(choice, config=dataclasses.replace(choice.config, clock_hz=hz))


def build(
    board: Board,
    config: AccelConfig,
    graph: IntGraph | None,
    folder: Path,
    *,
    vectors: Vectors | None = None,
    batch: int = 1,
    bitstream: bool = True,
    synth: bool = False,
    quiet: bool = False,
    strict: bool = False,
) -> dict:
    """Complete build in ``folder``; returns its report. Raises UserError.

    With ``synth`` the accelerator is synthesised to count its cells, and there is no bitstream. The
    first of ``vectors``, which are those of ``graph``, become the golden ones of the driver's
    self-test and the images of a simulation. The program runs ``batch`` images together. With
    ``strict`` a graph that was trained for other lanes, and is slower for it, is refused.
    """
    say = (lambda text: None) if quiet else cli.say
    check_batch(batch)
    _check_place(folder)
    busy = "wait for it, or give this build another --out"
    try:
        synthesise = TARGETS[board.device.family].synthesiser() if synth else None
        with exclusive(folder, busy):
            return _build(
                board, config, graph, folder, vectors, batch, bitstream, synthesise, strict, say
            )
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    except (CompileError, DoesNotFit, GraphError, ToolError) as error:
        raise UserError(str(error)) from error


def _check_place(folder: Path) -> None:
    """Raise UserError where ``folder`` has what no build wrote, which would be lost."""
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / f"{MODULE}.v").is_file():
            raise UserError(
                f"{folder} has files but no build, which would replace them: move it away, or give "
                "another --out"
            )
    elif folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is no folder: move it away, or give another --out")


def _build(
    board: Board,
    config: AccelConfig,
    graph: IntGraph | None,
    folder: Path,
    vectors: Vectors | None,
    batch: int,
    bitstream: bool,
    synthesise: Callable[[Path], ToolReport] | None,
    strict: bool,
    say: Callable[[str], None],
) -> dict:
    """Build in ``folder``, which no other process writes."""
    partial = folder.with_name(f"{folder.name}.partial")
    target = TARGETS[board.device.family]
    compiled = [] if graph is None else compile_all(graph, config, batch)
    other = retraining(graph, config, compiled) if graph else None
    if other and other.cycles > other.cycles_retrained:
        if strict:
            raise UserError(str(other))
        say(str(other))
    say(
        f"{board.title}: {config.rows} rows {':'.join(map(str, config.lanes))} x {config.k} "
        f"channels x {config.pixels} pixels; generating Verilog"
    )
    with _fresh(partial):
        verilog = _write(board, config, graph, compiled, partial)
        if graph is not None:
            _write_network(graph, compiled, vectors, partial)
        known = clock.evidence(board, config, verilog, None)
        for line in clock.remarks(board, config, known):
            say(line)

        def write_report(measured: ToolReport | None, where: Path) -> None:
            found = clock.evidence(board, config, verilog, measured)
            content = report(board, config, graph, compiled, measured, other, clock=found)
            content["accuracy"] = dict(vectors.accuracies) if vectors else {}
            _write_report(content, where)

        write_report(None, partial)
        replace_folder(partial, folder)
    say(f"wrote {folder}")
    if synthesise is not None:
        say(f"synthesising {folder / MODULE}.v with Yosys; takes minutes")
        measured = synthesise(folder)
        write_report(measured, folder)
        check_fit(board, measured.resources, "measured")
    elif bitstream:
        _make_bitstream(target, config, folder, write_report, say)
    return json.loads((folder / "report.json").read_text())


def _make_bitstream(
    target: Target,
    config: AccelConfig,
    folder: Path,
    write_report: Callable[[ToolReport, Path], None],
    say: Callable[[str], None],
) -> None:
    """Bitstream and a report of what the board's tools measured, where they are installed."""
    project = folder / target.folder
    if not target.found():
        say(
            f"{target.tools} not on the PATH: stopping after the project in {project}; run sh "
            f"build_top.sh there"
        )
        return
    say(f"running {target.tools} in {project}")
    measured = target.run(config, project)
    write_report(measured, folder)
    if measured.unclocked:
        say(f"warning: {measured.unclocked} pins of registers have no clock, see {project}")
    routed = measured.routed_hz(config.clock_hz)
    say(
        f"bitstream in {project}: {routed / 1e6:.2f} MHz routed, {clock.mhz(config.clock_hz)} MHz "
        "asked for"
    )


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[None]:
    """Context with the empty folder ``folder``, which is removed unless it was moved away."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(
    board: Board,
    config: AccelConfig,
    graph: IntGraph | None,
    compiled: Sequence[Compiled],
    folder: Path,
) -> str:
    """Verilog, configuration, programs and the project of the board's tools; returns the first."""
    text = accelerator_verilog(config, TARGETS[board.device.family].primitives())
    (folder / "accelerator.v").write_text(text)
    (folder / "config.json").write_text(config.to_json() + "\n")
    for one in compiled:
        (folder / one.folder).mkdir(parents=True, exist_ok=True)
        one.program.save(folder / one.folder, graph.digest if graph else None)
    memory = driver_bytes(one.program for one in compiled)
    TARGETS[board.device.family].write(board, config, memory, text, folder)
    return text


def _write_network(
    graph: IntGraph, compiled: Sequence[Compiled], vectors: Vectors | None, folder: Path
) -> None:
    """The graph, its test vectors, and the golden ones of the driver's self-test."""
    images = vectors.read(graph) if vectors else {}
    for one in compiled:
        manifest.write_golden(folder / one.folder, one.graph, images.get(one.tensor))
    graph.save(folder / GRAPH)
    if vectors is not None:
        vectors.head(VECTORS).save(beside(folder / GRAPH))


def _write_report(result: dict, folder: Path) -> None:
    replace_text(folder / "report.json", json.dumps(result, indent=1) + "\n")
    replace_text(folder / "report.md", markdown(result))
    page.write(folder)


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    path = graph_file(args.graph) if args.graph else LATEST if LATEST.exists() else None
    check_batch(args.batch)
    board, graph, vectors = load(args.board, path)
    options: dict[str, Any] = {
        "ratio": args.ratio,
        "rows": args.rows,
        "clock_hz": None if args.clock_mhz is None else round(args.clock_mhz * 1e6),
        **{name: size for name in SIZES if (size := getattr(args, name)) is not None},
    }
    if graph is None or args.no_search or args.ratio == "auto":
        if args.explain:
            raise UserError(
                "--explain needs a choice: a --graph, and neither --no-search nor --ratio auto"
            )
        config = configure(board, graph, **options)
    else:
        say = (lambda text: None) if args.quiet else cli.say
        cache = choices(args.out / board.name)
        choice = decide(board, graph, cache, say=say, **options)
        config = choice.config
        if args.explain:
            cli.say(choice.explanation())
        elif choice.advice:
            say(choice.advice)
    if path is None and not args.quiet:
        cli.say(f"no network: there is no {LATEST} here, and --graph names none")
    result = build(
        board,
        config,
        graph,
        args.out / board.name,
        vectors=vectors,
        batch=args.batch,
        bitstream=not args.project_only,
        synth=args.synth is not None,
        quiet=args.quiet,
        strict=args.strict,
    )
    if args.json:
        cli.give(json.dumps(result))
    elif not args.quiet:
        cli.give(markdown(result))
        if graph is not None:
            cli.next_command("python -m sim.run", args.out / board.name)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
