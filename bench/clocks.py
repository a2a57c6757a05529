# SPDX-License-Identifier: Apache-2.0
"""Default clock of every board from what is known about it, and the pages that give times.

python -m bench.clocks                     what follows from the kept models; seconds
python -m bench.clocks --measure           model the netlists of today first; half an hour
python -m bench.clocks --measure zc706     only these
python -m bench.clocks --check             exit with 1 where a kept model is of other Verilog

Writes boards/clocks.json, from which boards have their defaults and builds their evidence, the
marked tables of docs/ and README.md, and bench/results/table6.md. A Zynq's clock follows from the
delay model of its array's netlist (bench.paths) by the rule of boards/clocks.py, an ECP5's from
what nextpnr routed, to the next lower 5 MHz.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boards
from bench import paths, paths_ecp5, table6
from bench.paths_report import grade, shape
from boards import clocks
from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.explore import search
from gateware.flow.clock import Basis, mhz, modelled, sizes_digest, verilog_digest
from gateware.flow.verilog import accelerator_verilog
from gateware.pe.series7 import Series7
from gateware.soc import ecp5
from ir import cli
from ir.board_arrays import SHIPPED, BoardArray
from ir.ratio import Ratio

ROOT = Path(__file__).resolve().parents[1]
STEP_HZ = 5_000_000  #: of an ECP5's default
FULL_BYTES = 32  #: per cycle, what four ports take
#: Runs that README names, by array and bytes of memory per cycle.
FASTEST = (("XC7Z045, 42:19:3", FULL_BYTES), ("XC7Z020, 40:21:3", FULL_BYTES))
#: Arrays of Table 6 that docs/resnet18.md gives times of.
RESNET18 = (("xc7z045", "RMSMP-2"), ("xc7z020", "RMSMP-1"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Simulated run of ResNet-18.

    memory_bytes : bytes per cycle that the memory gave
    cycles : of an image
    page : name of its page in bench/results/
    """

    array: str
    board: str
    config: AccelConfig
    ratio: Ratio
    memory_bytes: int
    cycles: int
    page: str

    def milliseconds(self, hz: int, *, estimate: bool = False) -> str | None:
        """Time of an image at a clock. Where the memory gives fewer bytes per cycle then than in
        the run it is estimated, or None."""
        board = boards.get(self.board)
        peak = board.memory.peak_bytes_per_second
        if self.memory_bytes * hz <= 1.001 * search.SUSTAINED * peak:  # its clock is rounded
            return f"{1e3 * self.cycles / hz:.2f} ms"
        if not estimate:
            return None
        cycles = table6.cycles_at(board, self.config, self.ratio, self.cycles, hz)
        return f"{1e3 * cycles / hz:.2f} ms (estimated)"


def config_of_board(board: Board) -> AccelConfig:
    """Sizes of the array that is shipped for a board."""
    found = BoardArray.load(SHIPPED / f"{board.name}.json")
    return AccelConfig.from_ratio(found.ratio, found.rows, **found.sizes)


def zynqs() -> list[Board]:
    """Boards with a Zynq-7000."""
    return [board for board in boards.BOARDS.values() if board.ps_clock_hz]


def table6_config(device: str, method: str) -> AccelConfig:
    """Sizes of an array of Table 6."""
    (row,) = [row for row in table6.kept() if (row["device"], row["method"]) == (device, method)]
    return AccelConfig(**row["config"])


def designs() -> dict[str, paths.Design]:
    """Accelerators to model, by name: each pair of sizes and device once."""
    found = {design.name: design for design in (paths.small(), paths.default())}
    known: set[tuple[str, int, str]] = set()
    for board in sorted(zynqs(), key=lambda board: board.name, reverse=True):
        part, config = board.device.part, config_of_board(board)
        key = part[:7], grade(part), sizes_digest(config)
        if key not in known:
            found[board.name] = paths.Design(board.name, (part,), config)
        known.add(key)
    for device, method in RESNET18:
        part = boards.get(table6.BOARDS[device]).device.part
        name = f"{device} {method}"
        found[name] = paths.Design(name, (part,), table6_config(device, method))
    return found


def models() -> list[clocks.ModelledClock]:
    """Models that ``bench.paths`` keeps, those of a part's own grade."""
    return [
        clocks.ModelledClock(
            design=name,
            device=part[:7],
            grade=grade(part),
            ns=entry["clock"][part][str(grade(part))]["ns"],
            config=sizes_digest(AccelConfig(**entry["config"])),
            verilog=entry["verilog"],
        )
        for name, entry in paths.kept()["designs"].items()
        if "verilog" in entry
        for part in entry["parts"]
    ]


def content(known: Sequence[clocks.ModelledClock]) -> dict[str, Any]:
    """What clocks.json holds. Raises UserError for a board whose array has no model."""
    defaults = {}
    for board in boards.BOARDS.values():
        if not board.ps_clock_hz:
            defaults[board.name] = _routed_default(board)
            continue
        place = (board.device.part[:7], grade(board.device.part))
        digest = sizes_digest(config_of_board(board))
        fit = [one for one in known if (one.device, one.grade, one.config) == (*place, digest)]
        if not fit:
            raise cli.UserError(
                f"no model of the array of {board.title} is kept: run python -m bench.clocks "
                f"--measure"
            )
        defaults[board.name] = clocks.supported(fit[0].hz)
    return {"boards": defaults, "modelled": [dataclasses.asdict(one) for one in known]}


def _routed_default(board: Board) -> int:
    """Highest multiple of STEP_HZ that an accelerator was routed for and the board can make."""
    hz = int(paths_ecp5.bitstream_mhz() * 1e6) // STEP_HZ * STEP_HZ
    while hz > 0:
        try:
            ecp5.check_clock(board, hz)
        except ValueError:
            hz -= STEP_HZ
        else:
            return hz
    raise cli.UserError(f"{board.title} can make no clock that an accelerator was routed for")


def outdated(names: Sequence[str]) -> list[str]:
    """Names of kept models whose Verilog is another one today."""
    return [
        one.design
        for one in clocks.modelled()
        if one.design in names and one.verilog != _digest(designs()[one.design].config)
    ]


def _digest(config: AccelConfig) -> str:
    return verilog_digest(config, accelerator_verilog(config, Series7()))


def runs() -> list[Run]:
    """Simulated runs of ResNet-18, with the cycles of their pages."""
    (paper045, ratio045), (paper020, ratio020) = (
        (table6_config(device, method), Ratio.parse(table6.METHODS[method][0] or ""))
        for device, method in RESNET18
    )
    board = boards.get("zedboard")
    auto, found = config_of_board(board), BoardArray.load(SHIPPED / f"{board.name}.json").ratio
    return [
        Run(
            array=array,
            board=name,
            config=config,
            ratio=ratio,
            memory_bytes=memory_bytes,
            cycles=_cycles(page),
            page=page,
        )
        for array, name, config, ratio, memory_bytes, page in (
            ("XC7Z045, 42:19:3", "zc706", paper045, ratio045, 32, "resnet18_xc7z045_100mhz.md"),
            ("XC7Z045, 42:19:3", "zc706", paper045, ratio045, 16, "resnet18_xc7z045_200mhz.md"),
            (
                "XC7Z045, 42:19:3, four images",
                *("zc706", paper045, ratio045, 16, "resnet18_xc7z045_batch4.md"),
            ),
            ("XC7Z020, 14:9:1", "zedboard", paper020, ratio020, 32, "resnet18_xc7z020_100mhz.md"),
            ("XC7Z020, 40:21:3", "zedboard", auto, found, 32, "resnet18_xc7z020_auto.md"),
        )
    ]


def _cycles(page: str) -> int:
    text = (ROOT / "bench" / "results" / page).read_text()
    found = re.search(r"; (\d+) cycles per image \(measured", text)
    if found is None:
        raise ValueError(f"{page} names no cycles")
    return int(found[1])


def times_table() -> str:
    """Times of the simulated runs, at the clock with evidence first."""
    lines = [
        "| array | memory, bytes per cycle | cycles per image | time | at clock | at 100 MHz, "
        "assumed | at 200 MHz, assumed |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for run in runs():
        board = boards.get(run.board)
        hz, basis = table6.clock_of(board, run.config)
        best = run.milliseconds(hz, estimate=run.memory_bytes == FULL_BYTES)
        assumed = [run.milliseconds(clock) or "" for clock in (100_000_000, 200_000_000)]
        lines.append(
            f"| [{run.array}](../bench/results/{run.page}) | {run.memory_bytes} | {run.cycles:,} | "
            f"{best or ''} | {mhz(hz)} MHz, {basis} | {' | '.join(assumed)} |"
        )
    return "\n".join(lines)


def table6_rows() -> str:
    """Arrays of :data:`RESNET18` beside those of the paper."""
    lines = [
        "| ResNet-18 | LUT | DSP48E1 | ms | at clock | ms at 100 MHz, assumed | the paper: LUT | "
        "DSP48E1 | ms |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for row in table6.kept():
        if (row["device"], row["method"]) not in RESNET18:
            continue
        board = boards.get(table6.BOARDS[row["device"]])
        theirs = table6.paper_rows()[row["device"], table6.METHODS[row["method"]][1]]
        config = AccelConfig(**row["config"])
        hz, basis = table6.clock_of(board, config)
        ratio = Ratio.parse(row["ratio"])
        cycles = table6.cycles_at(board, config, ratio, row["cycles"], hz)
        lut, dsp = (
            f"{100 * row['measured'][cell] / board.device.limits[cell]:.1f} %"
            for cell in ("lut", "dsp48e1")
        )
        lines.append(
            f"| {row['method']} on the {row['device'].upper()} | {lut} | {dsp} | "
            f"{1e3 * cycles / hz:.2f} | {mhz(hz)} MHz, {basis} | "
            f"{1e3 * row['cycles'] / table6.CLOCK_HZ:.2f} | {theirs['lut_percent']} % | "
            f"{theirs['dsp_percent']} % | {theirs['latency_ms']} |"
        )
    return "\n".join(lines)


def models_table() -> str:
    """Modelled clocks and what they support."""
    lines = [
        "| array | device | longest path | modelled | highest clock that it supports |",
        "|---|---|---:|---:|---:|",
    ]
    kept = paths.kept()["designs"]
    lines += [
        f"| {one.design}, {shape(AccelConfig(**kept[one.design]['config']))} | "
        f"{one.device.upper()}-{one.grade} | {one.ns:.2f} ns | {one.hz / 1e6:.1f} MHz | "
        f"{mhz(clocks.supported(one.hz))} MHz |"
        for one in clocks.modelled()
    ]
    return "\n".join(lines)


def boards_table() -> str:
    """Default clocks of the boards."""
    lines = ["| board | default clock | evidence |", "|---|---:|---|"]
    for board in boards.BOARDS.values():
        if board.ps_clock_hz:
            known = modelled(board, config_of_board(board))
            limit = f"{known.hz / 1e6:.1f} MHz" if known else "nothing"
            why = (
                f"{Basis.MODELLED}: {limit} for its array, {clocks.ROUTING_MARGIN:.0%} left for "
                "routing"
            )
        else:
            why = f"{Basis.NEXTPNR}: {paths_ecp5.bitstream_mhz()} MHz on the ulx3s_85f"
        lines.append(f"| `{board.name}` | {mhz(clocks.default_hz(board.name))} MHz | {why} |")
    return "\n".join(lines)


def sentence() -> str:
    """Times of ResNet-18 on the fastest array of each chip, in one paragraph."""
    times = []
    for run in runs():
        if (run.array, run.memory_bytes) not in FASTEST:
            continue
        hz, basis = table6.clock_of(boards.get(run.board), run.config)
        device, lanes = run.array.split(", ")
        times.append(
            f"{run.milliseconds(hz, estimate=True)} on the {device} (array of {lanes} rows, "
            f"{mhz(hz)} MHz, {basis})"
        )
    return f"ResNet-18 takes {' and '.join(times)}."


def blocks() -> dict[str, dict[str, str]]:
    """Generated parts of pages, by file and name."""
    return {
        "README.md": {"times": sentence()},
        "docs/resnet18.md": {"times": f"\n{times_table()}\n"},
        "docs/resources.md": {"table6": f"\n{table6_rows()}\n"},
        "docs/paths.md": {"models": f"\n{models_table()}\n", "boards": f"\n{boards_table()}\n"},
    }


def with_block(text: str, name: str, content: str) -> str:
    """Page with what lies between the marks of ``name`` replaced. ValueError without such marks."""
    begin, end = f"<!-- bench.clocks: {name} -->", "<!-- end -->"
    before, mark, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not mark or not closed:
        raise ValueError(f"the page has no part {begin} ... {end}")
    return f"{before}{begin}{content}{end}{after}"


def write_pages() -> None:
    """Write every generated part, and Table 6."""
    for name, parts in blocks().items():
        page = ROOT / name
        text = page.read_text()
        for part, content in parts.items():
            text = with_block(text, part, content)
        page.write_text(text)
    table6.PAGE.write_text(table6.table(table6.kept()) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.clocks", description=__doc__)
    group = p.add_mutually_exclusive_group()
    group.add_argument(
        "--measure",
        nargs="*",
        metavar="DESIGN",
        help=f"model these netlists first: {', '.join(designs())} (default: all of them)",
    )
    group.add_argument(
        "--check", action="store_true", help="exit with 1 where a model is of other Verilog"
    )
    args = p.parse_args(argv)
    if args.check:
        names = outdated(list(designs()))
        for name in names:
            cli.say(f"{name}: the kept model is of other Verilog")
        return 1 if names else 0
    if args.measure is not None:
        known = designs()
        for name in args.measure or known:
            if name not in known:
                raise cli.UserError(f"no design is called {name!r}; they are {', '.join(known)}")
            paths.keep_design(
                known[name], paths.measure(known[name], paths.synthesised(known[name]))
            )
    clocks.FILE.write_text(json.dumps(content(models()), indent=1) + "\n")
    clocks.reload()
    write_pages()
    cli.give(boards_table())
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
