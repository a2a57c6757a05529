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
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boards
from gateware.arch.config import MAX_DEPTH, MAX_PIXELS, MAX_ROWS, SIZE_OPTIONS, SIZES
from gateware.assembly import MAX_BATCH, build, check_batch, load
from gateware.explore.configure import choices, configure, decide
from gateware.report.summary import markdown
from ir import cli
from ir.cli import UserError
from ir.graph import graph_file

LATEST = Path("runs/latest/graph.safetensors")
#: Least and most of each size of the array, and what sets the limit.
RANGES = {
    "rows": (1, MAX_ROWS, "no board holds more"),
    "pixels": (2, MAX_PIXELS, "a DSP serves two, and rows of a tensor have less than 1024"),
    "requant_lanes": (1, 16, "a word has 16 channels"),
    "drain_pixels": (1, 256, "at most half of the pixels"),
    "ports": (1, 4, "a Zynq has four memory ports"),
    "act_depth": (1, MAX_DEPTH, "an address has 16 bits"),
    "act_copies": (1, 2, "one or two ports of the words"),
    "weight_depth": (1, 1 << 15, "an address has 16 bits, one of them for the ring"),
    "slot_depth": (1, MAX_DEPTH, "an address has 16 bits"),
    "wide_depth": (1, MAX_DEPTH, "an address has 16 bits"),
}


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
