# SPDX-License-Identifier: Apache-2.0
"""Solve the ratio of the schemes and the array together, for a board and a network.

python -m gateware.ratio --board zc706                 ResNet-18, 224x224; takes minutes
python -m gateware.ratio --board zedboard --graph runs/digits/graph.safetensors
python -m gateware.ratio --board zedboard --network mobilenet_v2

Prints the arrays that no other dominates in cycles, LUTs, DSP48E1 and block RAMs, the answer
marked, and plots them. ``gateware.build --ratio auto`` takes the answers that ``--keep`` wrote;
without it a build finds the array for its own network. Resources and cycles are estimated
(gateware/model/estimate.py).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import boards
from boards.board import Board
from gateware.explore.presets import keep, paper
from gateware.explore.search import DesignPoint, SearchResult, explore, shallower
from gateware.explore.shapes import resnet18
from gateware.explore.space import DOMAINS, Given
from gateware.flow.clock import mhz
from gateware.model.work import network_macs
from ir import cli
from ir.graph import IntGraph, graph_file
from ir.ratio import Ratio

DPI = 150
DOMAIN = DOMAINS["xc7"]
#: Resources of the plot and of the front.
CELLS = {"lut": "LUTs", "dsp48e1": "DSP48E1", "bram36": "block RAMs"}
SIZE = 224  #: pixels of an image, where no graph says so
PROGRAMS = 60  #: compiled in a search, without those of shallower buffers
ZYNQ = tuple(name for name, board in boards.BOARDS.items() if board.device.family == "xc7")


def row(point: DesignPoint, work: int) -> dict[str, object]:
    """Design point as a JSON-able line of the table; ``work`` is in MACs per image."""
    config = point.config
    cycles, clock = point.cycles, config.clock_hz
    return {
        "ratio": str(point.ratio),
        "lanes": ":".join(map(str, config.lanes)),
        "pixels": config.pixels,
        "requant_lanes": config.requant_lanes,
        "drain_pixels": config.drain_pixels,
        "ports": config.ports,
        "act_copies": config.act_copies,
        "act_depth": config.act_depth,
        "weight_depth": config.weight_depth,
        "macs_per_cycle": config.macs_per_cycle,
        **{f"{name}_percent": round(100 * share, 1) for name, share in point.used.items()},
        "cycles": cycles,
        "fixed8_percent": round(100 * point.fixed8_share, 1),
        "ms": round(1e3 * cycles / clock, 2) if cycles else None,
        "gops": round(2e-9 * work * clock / cycles, 1) if cycles else None,
        "refusal": point.refusal,
    }


def table(found: SearchResult, work: int) -> str:
    """Table of the arrays that no other dominates, in Markdown."""
    lines = [
        "| ratio | lanes | channels x pixels | requantisers | MACs/cycle | LUT % | DSP % | "
        "BRAM % | cycles | ms | GOP/s | 8-bit rows % | |",
        "|---|---|---|" + "---:|" * 9 + "---|",
    ]
    for point in found.pareto:
        r = row(point, work)
        requantisers = point.config.requant_lanes * point.config.drain_pixels
        lines.append(
            f"| {r['ratio']} | {r['lanes']} | {point.config.k} x {r['pixels']} | "
            f"{requantisers} | {r['macs_per_cycle']} | {r['lut_percent']} | "
            f"{r['dsp48e1_percent']} | {r['bram36_percent']} | {r['cycles'] or 'none'} | "
            f"{r['ms'] or ''} | {r['gops'] or ''} | {r['fixed8_percent']} | "
            f"{'answer' if point is found.best else ''} |"
        )
    return "\n".join(lines)


def plot(found: SearchResult, title: str) -> Figure:
    """Scatter plots of all points: cycles (or MACs per cycle) over each resource, PoT-4 share as
    colour, those that no other dominates as crosses."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    runs = found.points[0].cycles is not None
    answer, front = found.best, found.pareto

    def height(point: DesignPoint) -> int:
        return point.config.macs_per_cycle if point.cycles is None else point.cycles

    panels = figure.subplots(1, len(CELLS), sharey=True)
    shade = Normalize(0, 100)
    for axes, (cell, name) in zip(panels, CELLS.items(), strict=True):
        axes.scatter(
            [100 * point.used[cell] for point in found.points],
            [height(point) for point in found.points],
            c=[100 * point.pot4_share for point in found.points],
            cmap="viridis",
            norm=shade,
            s=36,
        )
        axes.plot(
            [100 * point.used[cell] for point in front],
            [height(point) for point in front],
            "x",
            color="#9e1b32",
            label="dominated by none",
        )
        axes.plot(
            100 * answer.used[cell],
            height(answer),
            "o",
            markersize=13,
            markerfacecolor="none",
            color="#9e1b32",
            label=f"answer, {answer.ratio}",
        )
        axes.axvline(100 * DOMAIN.shares[cell], color="#56606b", linewidth=0.8, linestyle=":")
        axes.set(xlabel=f"{name} of the device, % (estimated)")
    panels[0].set(ylabel="cycles per image (estimated)" if runs else "MACs per cycle")
    panels[-1].legend()
    figure.suptitle(title)
    figure.colorbar(ScalarMappable(shade, "viridis"), ax=panels, label="PoT-4 rows, %")
    return figure


def _numbers(text: str, known: Sequence[int], option: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not set(numbers) <= set(known):
        raise cli.UserError(f"{option} takes some of {','.join(map(str, known))}, not {text!r}")
    return numbers


def _picture(text: str) -> Path:
    """File of a picture that can be drawn."""
    path, known = Path(text), FigureCanvasAgg.get_supported_filetypes()
    if path.is_dir() or path.suffix.removeprefix(".") not in known:
        raise argparse.ArgumentTypeError(f"must end with .{', .'.join(sorted(known))}, not {text}")
    return path


def _ratio(text: str | None) -> Ratio | None:
    try:
        return None if text is None else Ratio.parse(text)
    except ValueError as error:
        raise cli.UserError(str(error)) from error


def network(path: Path | None, name: str | None = None, size: int = SIZE) -> IntGraph:
    """Graph in a file, or shapes of a network by name, ResNet-18 by default. Raises UserError."""
    try:
        if path is not None:
            return IntGraph.load(graph_file(path))
        if name is None:
            return resnet18(size)
        return cli.require("quant.models.shapes").network_shapes(name, size)
    except ValueError as error:  # GraphError, UnsupportedLayer
        raise cli.UserError(str(error)) from error


def zynq(name: str) -> Board:
    """Board of that name. Raises UserError where it has no Zynq-7000."""
    try:
        board = boards.get(name)
    except boards.UnknownBoard as error:
        raise cli.UserError(str(error)) from error
    if board.device.family != "xc7":
        raise cli.UserError(
            f"{board.title} has no DSP48E1 and LUTs of a Zynq-7000, whose costs "
            "the ratio is solved for"
        )
    return board


def parser() -> cli.Parser:
    """Options of the command."""
    p = cli.Parser(prog="python -m gateware.ratio", description=__doc__)
    p.add_argument("--board", required=True, metavar="NAME", help=f"one of {', '.join(ZYNQ)}")
    which = p.add_mutually_exclusive_group()
    which.add_argument(
        "--graph",
        type=Path,
        metavar="FILE",
        help="integer graph of a network (default: ResNet-18)",
    )
    which.add_argument(
        "--network",
        metavar="NAME",
        help="network of quant.train, whose shapes are enough: resnet50, mobilenet_v2, ...; or an "
        "ONNX file",
    )
    p.add_argument(
        "--size",
        type=int,
        default=SIZE,
        metavar="PIXELS",
        help="of its images, 8 to 1023, without a graph (default: %(default)s)",
    )
    p.add_argument(
        "--ratio",
        metavar="A:B:C",
        help="find the best array of this ratio (default: the ratio is found, too)",
    )
    for name, known in (("rows", DOMAIN.rows), ("pixels", DOMAIN.pixels)):
        text = ",".join(map(str, known))
        p.add_argument(f"--{name}", default=text, metavar="A,B", help="(default: %(default)s)")
    p.add_argument(
        "--plot", type=_picture, metavar="FILE", help="plot (default: build/ratio-BOARD.png)"
    )
    p.add_argument(
        "--keep",
        action="store_true",
        help="make the answer that of the board, for gateware.build --ratio auto",
    )
    p.add_argument("-q", "--quiet", action="store_true", help="only the result")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if not 8 <= args.size <= 1023:
        raise cli.UserError(f"--size is 8 to 1023 pixels, as a descriptor counts, not {args.size}")
    board, graph = zynq(args.board), network(args.graph, args.network, args.size)
    known: dict[tuple, int | str] = {}
    found = explore(
        graph,
        board,
        known=known,
        programs=PROGRAMS,
        say=(lambda text: None) if args.quiet else cli.say,
        given=Given(
            ratio=_ratio(args.ratio),
            rows=_numbers(args.rows, DOMAIN.rows, "--rows"),
            pixels=_numbers(args.pixels, DOMAIN.pixels, "--pixels"),
        ),
    )
    found = shallower(graph, board, found, known)
    try:
        answer = found.best
    except ValueError as error:
        raise cli.UserError(f"{board.title}: {error}") from error
    work = network_macs(graph)
    path = args.plot or Path("build") / f"ratio-{board.name}.png"
    figure = plot(found, f"{graph.header.name} on {board.title}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_figure(path, dpi=DPI)
    except OSError as error:
        raise cli.UserError(f"cannot write {path}: {error.strerror}") from error
    if args.keep:
        try:
            kept = keep(board.name, answer.ratio, answer.config)
        except OSError as error:
            raise cli.UserError(f"cannot keep the answer: {error}") from error
        cli.say(f"kept in {kept}, for gateware.build --ratio auto")
    if args.json:
        cli.give(
            json.dumps(
                {
                    "board": board.name,
                    "network": graph.header.name,
                    "refused": dict(found.refused),
                    "pareto": [row(point, work) for point in found.pareto],
                    "answer": row(answer, work),
                }
            )
        )
        return 0
    cli.give(
        f"{graph.header.name} on {board.title} at {mhz(board.clock_hz)} MHz, the board's default, "
        f"assumed for every array; all figures estimated; of {len(found.points)} arrays those that "
        "no other dominates:\n\n"
        f"{table(found, work)}\n"
    )
    if found.points[0].cycles is None:
        cli.give(
            f"No array runs the network: {found.points[0].refusal}. They are compared by "
            "MACs per cycle."
        )
    for reason, count in found.refused.most_common():
        cli.give(f"not among them: {count} arrays, {reason}")
    cli.give(
        f"answer: ratio {answer.ratio}, {answer.config.rows} rows "
        f"{':'.join(map(str, answer.config.lanes))}; the paper's is "
        f"{paper(board)}. Plot in {path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
