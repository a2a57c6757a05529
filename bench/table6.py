# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 6, ResNet-18 at 224x224 on both chips, with our arrays beside it.

python -m bench.table6                     the kept figures
python -m bench.table6 --search            find the arrays again, by cycles and resources; minutes
python -m bench.table6 --measure           synthesise those that were not yet; hours

Each method has a fast array of its ratio that the chip holds: of those two that could take the
fewest cycles (gateware/explore/search.py) the one that does. LUTs and DSPs are those of the
synthesised accelerator (Yosys, not placed) where it was, else estimated; cycles are estimated
(gateware/model/timeline.py). Speed is given at the clock that the model of the array's netlist
supports (python -m bench.clocks), else at the board's default, which is assumed for it; and at the
paper's 100 MHz, which is assumed for all of them: nothing was routed on these chips here. Figures
of ours and of the paper are of different tools: theirs are Vivado's."""

import csv
import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import boards
from bench import synthesis
from boards import clocks
from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.build import configure
from gateware.explore import search, space
from gateware.explore.shapes import resnet18
from gateware.flow.clock import Basis, mhz, modelled
from gateware.model import estimate
from gateware.model.work import network_macs
from ir import cli
from ir.board_arrays import board_array
from ir.ratio import Ratio

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "table6.json"
PAGE = RESULTS.with_suffix(".md")
PAPER = HERE / "paper" / "table6.csv"
BOARDS = {"xc7z020": "zedboard", "xc7z045": "zc706"}
CLOCK_HZ = 100_000_000
PROGRAMS = 2  #: arrays of a ratio that are compiled for, those of the lowest bounds
#: Rows of the table: our ratio (None is what gateware.ratio answered) and the paper's name.
METHODS: dict[str, tuple[str | None, str | None]] = {
    "Fixed": ("0:100:0", "fixed"),
    "PoT": ("100:0:0", "pot"),
    "PoT + Fixed": ("50:50:0", "pot+fixed"),
    "RMSMP-1": ("60:35:5", "rmsmp-1"),
    "RMSMP-2": ("65:30:5", "rmsmp-2"),
    "auto": (None, None),
}


def paper_rows() -> dict[tuple[str, str], dict[str, str]]:
    """The paper's rows whose first and last layers are like the others, by device and name."""
    with PAPER.open() as file:
        lines = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            (row["device"], row["method"]): row
            for row in lines
            if row["first_last"] == "same"
            and (row["method"] != "pot+fixed" or row["ratio_pot4:fixed4:fixed8"] == "50:50:0")
        }


def kept() -> list[dict[str, object]]:
    """The rows of the last search. Raises UserError."""
    try:
        return json.loads(RESULTS.read_text())
    except (OSError, ValueError) as error:
        raise cli.UserError(
            f"{RESULTS} cannot be read ({error}): run python -m bench.table6 --search"
        ) from error


def find(devices: Iterable[str], methods: Iterable[str]) -> Iterator[dict[str, object]]:
    """The best array of each method on each device, not synthesised."""
    graph = resnet18()
    for device in devices:
        board, known = boards.get(BOARDS[device]), {}
        for method in methods:
            given, _ = METHODS[method]
            cli.say(f"{device}, {method}")
            if given is None:
                config = configure(board, None, ratio="auto", rows=None, clock_hz=CLOCK_HZ)
                point = search.estimated_on(
                    graph, board, config, board_array(board.name).ratio, known
                )
            else:
                point = search.explore(
                    graph,
                    board,
                    given=space.Given(ratio=Ratio.parse(given)),
                    say=cli.say,
                    known=known,
                    programs=PROGRAMS,
                ).best
            yield {
                "device": device,
                "method": method,
                "ratio": str(point.ratio),
                "config": dataclasses.asdict(point.config),
                "refusal": point.refusal,
                "cycles": point.cycles,
                "measured": None,
            }


def synthesise(rows: list[dict[str, object]], most: int | None) -> None:
    """Measure what was not measured yet, ``most`` accelerators at most; kept after each."""
    for row in [row for row in rows if row["measured"] is None][:most]:
        found = synthesis.measure(AccelConfig(**row["config"]))
        row["measured"] = found["measured"]
        cli.say(f"{row['device']}, {row['method']}: {found['seconds']} s")
        keep(rows)


def clock_of(board: Board, config: AccelConfig) -> tuple[int, Basis]:
    """Clock in Hz to give times of an array at, and what it is known from: what the kept model of
    its netlist supports, else the board's default."""
    known = modelled(board, config)
    if known is None:
        return clocks.default_hz(board.name), Basis.ASSUMED
    return clocks.supported(known.hz), Basis.MODELLED


def cycles_at(board: Board, config: AccelConfig, ratio: Ratio, cycles: int, hz: int) -> int:
    """Cycles of ResNet-18 at a clock: ``cycles``, which are of CLOCK_HZ, where the memory gives as
    many bytes per cycle, else an estimate."""
    paper, asked = (dataclasses.replace(config, clock_hz=clock) for clock in (CLOCK_HZ, hz))
    beats = [search.beats_per_cycle(board, each) for each in (asked, paper)]
    if math.isclose(*beats, rel_tol=1e-3):  # the memory's clock is a rounded number
        return cycles
    return search.estimated_on(resnet18(), board, asked, ratio, {}).cycles or cycles


def keep(rows: list[dict[str, object]]) -> None:
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


def table(rows: Sequence[dict[str, object]]) -> str:
    """The table of each device in Markdown."""
    paper, work = paper_rows(), network_macs(resnet18())
    parts = []
    for device, name in BOARDS.items():
        limits = boards.get(name).device.limits
        lines = [
            f"{device.upper()}, ResNet-18 224x224, {work / 1e9:.2f} GMAC per image, "
            f"at the clock of each array and at {CLOCK_HZ / 1e6:g} MHz, which is assumed:",
            "",
            "| method | paper: LUT % | DSP % | GOP/s | ms | ratio | array | LUT % | DSP % | "
            f"cycles at {CLOCK_HZ / 1e6:g} MHz, estimated | clock | GOP/s | ms | "
            f"GOP/s, {CLOCK_HZ / 1e6:g} MHz assumed | ms |",
            "|---|---:|---:|---:|---:|---|---|---:|---:|---:|---|---:|---:|---:|---:|",
        ]
        for row in (row for row in rows if row["device"] == device):
            config = AccelConfig(**row["config"])
            theirs = paper.get((device, METHODS[row["method"]][1]), {})
            used = row["measured"] or dataclasses.asdict(estimate.resources(config))
            how = "" if row["measured"] else " (estimated)"
            shares = [f"{100 * used[cell] / limits[cell]:.1f}{how}" for cell in ("lut", "dsp48e1")]
            board, cycles, ratio = boards.get(name), row["cycles"], Ratio.parse(row["ratio"])
            hz, basis = clock_of(board, config)
            speed = (
                [
                    str(cycles),
                    f"{mhz(hz)} MHz, {basis}",
                    *(
                        text
                        for clock in (hz, CLOCK_HZ)
                        for count in [cycles_at(board, config, ratio, cycles, clock)]
                        for text in (
                            f"{2e-9 * work * clock / count:.1f}",
                            f"{1e3 * count / clock:.2f}",
                        )
                    ),
                ]
                if cycles
                else ["does not fit", *[""] * 5]
            )
            given = [
                theirs.get(key) or ""
                for key in ("lut_percent", "dsp_percent", "gops", "latency_ms")
            ]
            lines.append(
                " | ".join(
                    [
                        f"| {row['method']}",
                        *given,
                        row["ratio"],
                        f"{':'.join(map(str, config.lanes))} x {config.k} x {config.pixels}",
                        *shares,
                        *speed,
                    ]
                )
                + " |"
            )
        refusals = sorted(
            {row["refusal"] for row in rows if row["device"] == device and row["refusal"]}
        )
        lines += ["", *(f"Does not fit: {text}." for text in refusals)]
        parts.append("\n".join(lines).rstrip())
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.table6", description=__doc__)
    p.add_argument(
        "--search",
        nargs="*",
        choices=[*BOARDS],
        metavar="DEVICE",
        help=f"find the arrays again, of {', '.join(BOARDS)} (default: both)",
    )
    p.add_argument(
        "--methods",
        nargs="+",
        choices=[*METHODS],
        metavar="METHOD",
        help=f"with --search, only these of {', '.join(METHODS)} (default: all)",
    )
    p.add_argument(
        "--measure",
        nargs="?",
        type=int,
        const=0,
        metavar="N",
        help="synthesise N accelerators that were not yet (default: all of them)",
    )
    p.add_argument("--json", action="store_true", help="print the rows as one JSON document")
    args = p.parse_args(argv)
    if args.search is not None:
        devices = args.search or list(BOARDS)
        methods = args.methods or list(METHODS)
        order = list(itertools.product(BOARDS, METHODS))
        found = {
            (row["device"], row["method"]): row for row in (kept() if RESULTS.exists() else [])
        }
        for row in find(devices, methods):
            found[row["device"], row["method"]] = row
            rows = [found[place] for place in order if place in found]
            keep(rows)
    else:
        rows = kept()
    if args.measure is not None:
        synthesise(rows, args.measure or None)
    cli.give(json.dumps(rows) if args.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
