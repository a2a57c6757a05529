# SPDX-License-Identifier: Apache-2.0
"""From images to a proven accelerator: train, export, build, simulate, and one closing table.

python -m examples.demo                          handwritten digits, ZC706
python -m examples.demo --dataset fashion-mnist  28x28 images, trained on 10,000 of them

Fashion-MNIST is the Debian package dataset-fashion-mnist.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import boards
from ir import cli

#: Training options that shorten the demo.
QUICK = {"fashion-mnist": ["--subset", "10000"]}


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m examples.demo", description=__doc__)
    p.add_argument(
        "--dataset",
        default="digits",
        metavar="NAME",
        help="digits or fashion-mnist (default: %(default)s)",
    )
    p.add_argument(
        "--board",
        default="zc706",
        metavar="NAME",
        help=f"one of {', '.join(boards.BOARDS)} (default: %(default)s)",
    )
    p.add_argument(
        "--ratio",
        default="65:30:5",
        metavar="A:B:C",
        help="rows in PoT-4, Fixed-4 and Fixed-8, of network and array (default: %(default)s)",
    )
    p.add_argument(
        "--images",
        type=cli.whole(1),
        default=100,
        metavar="N",
        help="test images to simulate (default: %(default)s)",
    )
    p.add_argument(
        "--json", action="store_true", help="print one JSON document instead of the table"
    )
    return p


def step(title: str, *command: str) -> dict:
    """Run one of the project's commands, its progress on the terminal; returns its JSON document.

    Raises UserError when it fails; it has said why.
    """
    cli.say(f"== {title}: python -m {' '.join(command)}")
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == cli.EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if done.returncode:
        raise cli.UserError(f"{title} failed; its message is above")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(dataset: str, board: str, ratio: str, images: int) -> dict:
    """All steps; returns what they found."""
    start = time.monotonic()
    quick = QUICK.get(dataset, [])
    name = ("--name", f"demo-{dataset}", "--overwrite")
    train = step("train", "quant.train", "--dataset", dataset, "--ratio", ratio, *name, *quick)
    graph = Path(train["run"]) / "graph.safetensors"
    # A small array, whose Verilog a simulator compiles in a minute.
    options = ["--board", board, "--graph", str(graph), "--ratio", ratio, "--no-search"]
    build = step("build", "gateware.build", *options)
    folder = Path("build") / board
    simulation = step(
        "simulate", "sim.run", str(folder), "--graph", str(graph), "--images", str(images)
    )
    return {
        "train": train,
        "build": build,
        "simulation": simulation,
        "seconds": round(time.monotonic() - start, 1),
        "files": {
            "network": str(graph.parent),
            "accelerator": str(folder),
            "vivado": str(folder / "vivado"),
        },
    }


def rows(result: dict) -> list[tuple[str, str]]:
    """The lines of the closing table."""
    train, build, simulation = result["train"], result["build"], result["simulation"]
    accuracy, config, lanes = train["accuracy"], build["config"], build["lanes"]
    cycles, clock = simulation["cycles_per_image"], build["clock"]["times"][0]
    lines = [
        ("accuracy float", f"{accuracy['float']:.2%} of {train['images']} test images"),
        ("accuracy quantised", f"{accuracy['quantised']:.2%}"),
        ("accuracy integer", f"{accuracy['integer']:.2%}"),
        (
            "RTL = PyTorch integers",
            f"{simulation['equal']} of {simulation['images']} images, all logits",
        ),
        (
            "cycles per image",
            f"{cycles} (measured in RTL simulation), {1e3 * cycles / clock['hz']:.3f} ms at "
            f"{clock['hz'] / 1e6:.2f} MHz ({clock['basis']})",
        ),
        (
            "array",
            f"{sum(lanes.values())} rows (PoT-4 {lanes['pot4']}, Fixed-4 {lanes['fixed4']}, "
            f"Fixed-8 "
            f"{lanes['fixed8']}) x {config['bus_bits'] // 4} channels x {config['pixels']} pixels",
        ),
    ]
    lines += [
        (
            name.upper(),
            f"{row['used']} of {row['limit']} ({100 * row['used'] / row['limit']:.1f} %, "
            f"{row['how']})",
        )
        for name, row in build["resources"].items()
    ]
    lines += [(f"files: {name}", place) for name, place in result["files"].items()]
    return [*lines, ("time", f"{result['seconds']} s")]


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    result = run(args.dataset, args.board, args.ratio, args.images)
    if args.json:
        cli.give(json.dumps(result))
    else:
        table = Table(title=f"{args.dataset} on {boards.get(args.board).title}", show_header=False)
        for row in rows(result):
            table.add_row(*row)
        Console(width=100 if not sys.stdout.isatty() else None).print(table)
    simulation = result["simulation"]
    return 0 if simulation["equal"] == simulation["images"] else 1


if __name__ == "__main__":
    sys.exit(cli.run(main))
