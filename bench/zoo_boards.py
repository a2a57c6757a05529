# SPDX-License-Identifier: Apache-2.0
"""Well-known networks on boards: the array that a build chooses, cycles, memory, what binds.

python -m bench.zoo_boards                         every network on ZC706 and ZedBoard; takes long
python -m bench.zoo_boards unet --boards zedboard  one
python -m bench.zoo_boards --equal 32              and equality on images of 32x32

Every network is taken at its own size from PyTorch to a program, without weights and without an
option: built and fitting, or refused with the reason. With ``--equal`` its integers in PyTorch, the
golden model and the emulator are compared on a smaller image. Rows are added to
bench/results/zoo_boards.json and the table is bench/results/zoo.md.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import boards
from bench.constructs import Difference, chain
from bench.networks import NETWORKS
from boards.board import Board
from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import compile_all
from gateware.compiler.operations import CompileError
from gateware.explore import choose
from gateware.explore.search import beats_per_cycle
from gateware.explore.shapes import shape_only
from gateware.model.estimate import layer_cycles
from gateware.model.work import network_macs
from ir import cli
from ir.graph import IntGraph
from ir.ratio import Ratio
from quant.lowering.dry_run import untrained_graph
from quant.lowering.prepare import prepare

RATIO = Ratio(65, 30, 5)
RESULTS = Path(__file__).parent / "results"
ROWS, PAGE = RESULTS / "zoo_boards.json", RESULTS / "zoo.md"
BOARDS = ("zc706", "zedboard")


def shapes(name: str) -> IntGraph:
    """Integer graph without weights of a network at its own size."""
    network = NETWORKS[name]
    example = torch.zeros(2, 3, network.size, network.size)
    model = network.make(network.size).eval()
    graph = untrained_graph(prepare(model, example), example, RATIO)
    header = graph.header.model_copy(update={"name": name})
    return IntGraph(header, graph.layers, graph.tables)


def row(graph: IntGraph, board: Board) -> dict[str, Any]:
    """Row of the table; its ``refusal`` says why there is no program."""
    started = time.monotonic()
    result: dict[str, Any] = {"network": graph.header.name, "board": board.name, "refusal": ""}
    result |= {"size": graph.input.shape[-1], "macs": network_macs(graph)}
    try:
        best = choose.search(graph, board, say=cli.say).best
        result |= {"seconds": round(time.monotonic() - started, 1)}
        return result | figures(graph, board, best.config, best.ratio)
    except CompileError as error:
        return result | {"refusal": str(error)}


def figures(graph: IntGraph, board: Board, config: AccelConfig, ratio: Ratio) -> dict[str, Any]:
    """Cycles, bytes and what binds, of a network trained for an array."""
    compiled = compile_all(shape_only(graph, ratio, config.rows), config)
    rate = beats_per_cycle(board, config)
    beat = config.bus_bits // 8
    ddr, words, drain = 0, 0, 0
    for one in compiled:
        for descriptor in isa.descriptors(one.program.image):
            fields = descriptor.fields
            if descriptor.opcode is isa.Opcode.END:
                continue
            if descriptor.queue == "executes" and "out_width" in fields:
                pixels = -(-fields["out_width"] // config.pixels) * fields["out_height"]
                taps = fields["kernel_y"] * fields["kernel_x"] * fields["groups"]
                words += pixels * taps * (fields["planes"] + 1)
                raw = bool(fields["wide"])
                phases = config.requant_lanes if raw else 1 + bool(fields["out_planes"])
                turns = config.drain_turns(config.pixels, raw=raw)
                drain += pixels * fields["slots"] * turns * phases
            elif "beats" in fields:
                shared = descriptor.opcode in (isa.Opcode.LOAD_WEIGHTS, isa.Opcode.LOAD_SLOTS)
                ddr += fields["beats"] * beat * (config.ports if shared else 1)
    bounds = {"array": words, "drain": drain, "memory": round(ddr / beat / rate)}
    return {
        "config": config.fields(),
        "ratio": str(ratio),
        "cycles": sum(layer_cycles(compiled, rate).values()),
        "on_chip_bytes": config.banks * config.act_depth * beat
        + config.weight_depth * config.weight_beats * beat,
        "ddr_bytes": ddr,
        "bounds": bounds,
        "binds": max(bounds, key=lambda name: bounds[name]),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| network | image | MMAC | board | array | cycles | on chip | DDR | binds | equal | |",
        "|---|---:|---:|---|---|---:|---:|---:|---|---|---|",
    ]
    for r in rows:
        start = f"| {r['network']} | {r['size']} | {r['macs'] / 1e6:.0f} | {r['board']} | "
        equal = r.get("equal", "")
        if r["refusal"]:
            lines.append(f"{start} | | | | | {equal} | refused: {r['refusal']} |")
            continue
        config = AccelConfig(**r["config"])
        lines.append(
            f"{start}{':'.join(map(str, config.lanes))} x {config.k} x {config.pixels} | "
            f"{r['cycles']} | {r['on_chip_bytes'] / 1e3:.0f} kB | {r['ddr_bytes'] / 1e6:.2f} MB | "
            f"{r['binds']} | {equal} | {r['seconds']} s of search |"
        )
    return "\n".join(lines)


def keep(rows: Sequence[dict[str, Any]]) -> None:
    """Export of the rows, those of before replaced, and of the page."""
    try:
        before = json.loads(ROWS.read_text())
    except (OSError, ValueError):
        before = []
    known = {(r["network"], r["board"]): r for r in [*before, *rows]}
    order = [(name, board) for name in NETWORKS for board in boards.BOARDS]
    kept = [known[key] for key in order if key in known]
    ROWS.write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(
        "# Well-known networks on two boards\n\n```\npython -m bench.zoo_boards --equal 32\n```\n\n"
        "Nothing but the board was given: array, lanes and buffers are those that `gateware.build` "
        "chooses, for a\nnetwork trained for them. All figures are estimated, with the memory that "
        "the board has at its default clock;\nweights do not matter for them; times are of a busy "
        "machine. A row stays until it is made\nagain: those of 28 November are from "
        "before arrays of one copy of the activations\nwere tried beside those of two. DDR is what "
        "a run\n"
        "loads and stores; on chip are the buffers of activations and\nweights. `binds` names the "
        "largest of three lower bounds: words of the array, the drain, memory. `equal`: the\n"
        "integers of PyTorch, golden model and emulator on one smaller image, with random "
        f"weights.\n\n{table(kept)}\n"
    )


def equality(name: str, size: int) -> str:
    """Comparison of PyTorch's integers, golden model and emulator on an image of ``size``."""
    try:
        chain(lambda: NETWORKS[name].make(size), (3, size, size), {"act_depth": 8192})
    except (CompileError, Difference, ValueError) as error:
        return f"no: {error}"
    return f"{size}x{size}"


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.zoo_boards", description=__doc__)
    p.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    p.add_argument("--boards", nargs="+", default=BOARDS, metavar="NAME", help="%(default)s")
    p.add_argument("--equal", type=int, metavar="PIXELS", help="compare integers, too")
    p.add_argument("--keep", action="store_true", help="write rows and page to bench/results")
    args = p.parse_args(argv)
    names = args.networks or list(NETWORKS)
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise cli.UserError(f"no network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    rows = []
    for name in names:
        graph = shapes(name)
        equal = equality(name, args.equal) if args.equal else ""
        for board in args.boards:
            rows.append(row(graph, boards.get(board)) | {"equal": equal})
            cli.say(f"{name} on {board}: {rows[-1].get('cycles') or rows[-1]['refusal']}")
            if args.keep:
                keep(rows)
    cli.give(table(rows))
    return int(any(r["equal"].startswith("no") for r in rows))


if __name__ == "__main__":
    sys.exit(cli.run(main))
