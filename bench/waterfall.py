# SPDX-License-Identifier: Apache-2.0
"""Waterfall of a network's cycles on an array: arithmetic, and what is lost to which cause.

python -m bench.waterfall graph.safetensors build/zc706          a table
python -m bench.waterfall ... --bytes 16 --draw waterfall.png    less memory; and a picture

Estimated by gateware/model/waterfall.py from the timeline of the compiled program: the causes add
up to the cycles of a run. BUILD is a folder that python -m gateware.build wrote, whose array is
taken. The ideal is the larger of arithmetic and memory: every multiplier at work in each cycle, or
every bus beat used.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import Compiled, compile_all
from gateware.compiler.operations import CompileError
from gateware.model.waterfall import CAUSES, waterfall
from ir import cli, palette
from ir.graph import GraphError, IntGraph, graph_file

#: What the array does, what it does in vain, and what it waits for.
_COLOURS = {
    "arithmetic": palette.APOT4,
    "padding": palette.FIXED4,
    "depthwise": palette.FIXED4,
    "drain": palette.FIXED8,
}


def memory_beats(compiled: Sequence[Compiled]) -> int:
    """Bus beats that the programs move, all ports together."""
    beats = 0
    for one in compiled:
        whole = {isa.Opcode.LOAD_WEIGHTS, isa.Opcode.LOAD_SLOTS}
        for descriptor in isa.descriptors(one.program.image):
            ports = one.program.config.ports if descriptor.opcode in whole else 1
            beats += descriptor.fields.get("beats", 0) * ports
    return beats


def table(found: Mapping[str, int], memory_cycles: int) -> str:
    """Causes, their cycles and shares, and the ideal, in Markdown."""
    total, so_far = sum(found.values()), 0
    lines = ["| cause | cycles | share | so far | what it is |", "|---|---:|---:|---:|---|"]
    for cause, cycles in found.items():
        so_far += cycles
        lines.append(
            f"| {cause} | {cycles} | {100 * cycles / total:.1f} % | {so_far} | {CAUSES[cause]} |"
        )
    ideal = max(found["arithmetic"], memory_cycles)
    lost = max((cause for cause in found if cause != "arithmetic"), key=lambda cause: found[cause])
    return "\n".join(
        [
            *lines,
            "",
            f"{total} cycles, estimated; the ideal is {ideal}, {found['arithmetic']} of arithmetic "
            f"and {memory_cycles} of memory. Most is lost to {lost}.",
        ]
    )


def draw(found: Mapping[str, int], title: str, file: Path) -> None:
    """Waterfall as a PNG, ``file``."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    axes, left = figure.subplots(), 0
    total = sum(found.values())
    for row, (cause, cycles) in enumerate(found.items()):
        axes.barh(row, cycles, left=left, color=_COLOURS.get(cause, palette.POT4))
        axes.text(left + cycles + total / 100, row, f"{cycles:,}", va="center", fontsize=9)
        left += cycles
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * total)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f} k")
    axes.set_xlabel("cycles (estimated)")
    axes.set_title(f"{title}: {total:,} cycles", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(file)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    p = cli.Parser(prog="python -m bench.waterfall", description=__doc__)
    p.add_argument("graph", type=Path, metavar="GRAPH", help="integer graph, or a run that has one")
    p.add_argument("build", type=Path, metavar="BUILD", help="build folder, for its array")
    p.add_argument(
        "--bytes",
        type=cli.whole(1, 1 << 10),
        metavar="N",
        help="what the memory gives in a cycle (default: a beat to each port)",
    )
    p.add_argument("--draw", type=Path, metavar="FILE", help="draw the waterfall as a PNG, too")
    args = p.parse_args(argv)
    try:
        graph = IntGraph.load(graph_file(args.graph))
        config = AccelConfig.from_json((args.build / "config.json").read_text())
        compiled = compile_all(graph, config)
    except (OSError, ValueError, TypeError, GraphError, CompileError) as error:
        raise cli.UserError(str(error).splitlines()[0]) from error
    most = config.ports * config.bus_bits // 8
    rate = min(args.bytes or most, most) / (config.bus_bits // 8)
    found = waterfall(graph, compiled, rate)
    cli.give(table(found, round(memory_beats(compiled) / rate)))
    if args.draw:
        draw(found, graph.header.name, args.draw)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
