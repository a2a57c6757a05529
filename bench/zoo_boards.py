# SPDX-License-Identifier: Apache-2.0
"""Well-known networks on boards: the array that a build chooses, cycles, memory, what binds.

python -m bench.zoo_boards --equal 64 --keep       every network on ZC706 and ZedBoard; takes long
python -m bench.zoo_boards unet --boards zedboard  one
python -m bench.zoo_boards --equal 64 --keep --missing    only the rows that are not kept yet

Every network is taken at its own size from PyTorch to a program, without weights and without an
option: built and fitting, or refused with the reason. With ``--equal`` it is then exported at a
smaller size, its rows assigned for the array that was found, and its integers in PyTorch, the
golden model and the emulator of that array are compared on an image. Rows are kept in
bench/results/zoo_boards.json and the table is bench/results/zoo_boards.md.
"""

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

import boards
from bench.constructs import Difference, run_program
from bench.networks import NETWORKS, Network
from bench.zoo import bell_shaped, quantised, warm_norms
from boards.board import Board
from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import compile_all
from gateware.compiler.lower import needs_tables
from gateware.compiler.operations import CompileError
from gateware.compiler.slices import needs_parts
from gateware.explore import choose
from gateware.explore.search import beats_per_cycle
from gateware.explore.shapes import shape_only
from gateware.model.estimate import layer_cycles
from gateware.model.work import network_macs
from ir import cli
from ir.graph import IntGraph
from ir.ratio import Ratio
from quant.lowering import verify
from quant.lowering.dry_run import untrained_graph
from quant.lowering.export import export
from quant.lowering.prepare import prepare

RATIO = Ratio(65, 30, 5)
RESULTS = Path(__file__).parent / "results"
ROWS, PAGE = RESULTS / "zoo_boards.json", RESULTS / "zoo_boards.md"
BOARDS = ("zc706", "zedboard")
IMAGES = 4  #: that calibrate a network whose integers are compared
SEED = 0
INTRODUCTION = """\
# Well-known networks on two boards

```
python -m bench.zoo_boards --equal 64 --keep --weights resnet20_option_a=FILE
```

Nothing but the board was given: array, lanes and buffers are those that `gateware.build` chooses,
for a network trained for them. All figures are estimated, with the memory that the board has at its
default clock; weights do not matter for them. The time of the search is that of one processor. DDR
is what a run loads and stores; on chip are the buffers of activations and weights. `binds` names
the largest of three lower bounds: words of the array, the drain, memory. `equal`: PyTorch's
integers, the golden model and the emulator of that array agree in every integer of every result, on
an image of that size. Weights are random, with batch-norms that fit them, but for
EfficientNet-Lite0, which has those of its package, and ResNet-20 with option-A shortcuts, which was
trained on CIFAR-10. A row stays until it is made again: those of 2026-11-28 are from before the
drain took several pixels at once and idle lanes of depthwise layers were filled.
"""


@functools.lru_cache(maxsize=1)
def shapes(name: str) -> IntGraph:
    """Integer graph without weights of a network of the zoo at its own size."""
    return shapes_of(name, NETWORKS[name])


def shapes_of(name: str, network: Network) -> IntGraph:
    """Integer graph without weights of a network at its own size, with rows for no array."""
    example = torch.zeros(2, 3, network.size, network.size)
    model = network.make(network.size).eval()
    graph = untrained_graph(prepare(model, example), example, RATIO)
    header = graph.header.model_copy(update={"name": name})
    return IntGraph(header, graph.layers, graph.tables)


def row(graph: IntGraph, board: Board) -> dict[str, Any]:
    """Row of the table; its ``refusal`` says why there is no program."""
    started = time.process_time()
    result: dict[str, Any] = {"network": graph.header.name, "board": board.name, "refusal": ""}
    result |= {"size": graph.input.shape[-1], "macs": network_macs(graph)}
    try:
        best = choose.search(graph, board, say=cli.say).best
        result |= {"seconds": round(time.process_time() - started, 1)}
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
        "| network | image | MMAC | board | array | cycles | on chip | DDR | binds | equal "
        "| search |",
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
            f"{r['binds']} | {equal} | {r['seconds']} s |"
        )
    return "\n".join(lines)


def keep(rows: Sequence[dict[str, Any]]) -> None:
    """Export of the rows, those of before replaced, and of the page."""
    known = {(r["network"], r["board"]): r for r in [*kept(), *rows]}
    order = [(name, board) for name in NETWORKS for board in boards.BOARDS]
    ordered = [known[key] for key in order if key in known]
    ROWS.write_text(json.dumps(ordered, indent=1) + "\n")
    PAGE.write_text(f"{INTRODUCTION}\n{table(ordered)}\n")


def equality(name: str, size: int, config: AccelConfig, ratio: Ratio, weights: str | None) -> str:
    """Comparison of PyTorch's integers, golden model and emulator on an image of ``size``, for an
    array: the size, or after "no" why they are not equal."""
    try:
        graph, codes = exported(name, size, config, ratio, weights)
        outputs = verify.verify_outputs(graph, codes)
        tables = needs_tables(graph)
        config = dataclasses.replace(config, tables=tables, parts=needs_parts(graph, config))
        expected = {output: values[0] for output, values in outputs.items()}
        run_program(graph, codes[0].astype(np.int64), expected, config)
    except (CompileError, Difference, verify.Mismatch, ValueError) as error:
        return f"no: {error}"
    return f"{size}x{size}"


def exported(
    name: str, size: int, config: AccelConfig, ratio: Ratio, weights: str | None
) -> tuple[IntGraph, np.ndarray]:
    """Network with its weights, or random ones and batch-norms that fit them, with rows assigned at
    random for an array; and an image, uint8 (1, 3, size, size)."""
    torch.manual_seed(SEED)
    network = NETWORKS[name]
    codes = np.random.default_rng(SEED).integers(256, size=(IMAGES, 3, size, size), dtype=np.uint8)
    images = torch.from_numpy(codes).float() / 255
    model = network.make(size)
    if weights is not None:
        model.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    elif not network.trained:
        bell_shaped(model)
        warm_norms(model, images)
    generator = torch.Generator().manual_seed(SEED)
    model = quantised(
        model.eval(),
        images,
        1,
        steps=0,
        generator=generator,
        tile_rows=config.rows,
        ratio=ratio,
    )
    graph = export(model, images[:2], name=name, ratio=ratio, tile_rows=config.rows)
    return graph, codes[:1]


def kept() -> list[dict[str, Any]]:
    """Rows of the results; none where there are no results."""
    try:
        return json.loads(ROWS.read_text())
    except (OSError, ValueError):
        return []


def _weights(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    if name not in NETWORKS or not Path(path).is_file():
        raise cli.UserError(f"--weights takes NETWORK=FILE with a file that is there, not {text!r}")
    return name, path


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.zoo_boards", description=__doc__)
    p.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    p.add_argument("--boards", nargs="+", default=BOARDS, metavar="NAME", help="%(default)s")
    p.add_argument("--equal", type=int, metavar="PIXELS", help="compare integers, too, at a size")
    p.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NETWORK=FILE",
        help="take the weights of a .safetensors for a comparison",
    )
    p.add_argument("--keep", action="store_true", help="write rows and page to bench/results")
    p.add_argument("--missing", action="store_true", help="only rows that are not kept yet")
    args = p.parse_args(argv)
    names = args.networks or list(NETWORKS)
    if unknown := sorted(set(names) - set(NETWORKS)):
        raise cli.UserError(f"no network {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    weights, rows = dict(map(_weights, args.weights)), []
    there = {(r["network"], r["board"]) for r in kept()} if args.missing else set()
    for name, board in itertools.product(names, args.boards):
        if (name, board) in there:
            continue
        rows.append(row(shapes(name), boards.get(board)) | {"equal": ""})
        if args.equal and not rows[-1]["refusal"]:
            config, ratio = AccelConfig(**rows[-1]["config"]), Ratio.parse(rows[-1]["ratio"])
            size = min(args.equal, NETWORKS[name].size)
            rows[-1]["equal"] = equality(name, size, config, ratio, weights.get(name))
        cli.say(summary(rows[-1]))
        if args.keep:
            keep(rows)
    cli.give(table(rows))
    return int(any(r["equal"].startswith("no") for r in rows))


def summary(found: dict[str, Any]) -> str:
    """A row in a line."""
    start = f"{found['network']} on {found['board']}: "
    if found["refusal"]:
        return start + found["refusal"]
    return f"{start}{found['cycles']} cycles, {found['seconds']} s, equal: {found['equal']}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
