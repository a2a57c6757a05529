# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Longest paths of an accelerator by unit, from its netlist: what clock a model of delays predicts.

python -m bench.paths                      the default array; a minute
python -m bench.paths --board zedboard     the array of a board; minutes
python -m bench.paths build/zc706          what python -m gateware.build wrote
python -m bench.paths --small --check      fail where a path is longer than the kept one, or a net
                                           has too many inputs
python -m bench.paths --detail sequencer   every cell of the longest path into a unit
python -m bench.paths --report             the kept figures, nothing synthesised
python -m bench.paths --routed             the model of ECP5 beside what nextpnr routed; minutes

Yosys' synth_xilinx by the same script as everywhere (gateware/flow/yosys.py), nothing placed.
Delays: gateware/model/fabrics_xc7.py, with their sources; those of nets are assumed. A unit is
where a path ends.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boards
from bench import paths_ecp5, synthesis
from bench.paths_report import (
    detail,
    full_report,
    grade,
    report,
    routed_tables,
    shape,
)
from boards.board import Board
from boards.clocks import ROUTING_MARGIN
from gateware.arch.config import AccelConfig
from gateware.explore import presets
from gateware.flow import yosys
from gateware.flow.clock import sizes_digest, verilog_digest
from gateware.flow.manifest import ACCELERATOR
from gateware.flow.verilog import MODULE, accelerator_verilog
from gateware.model.delays_xc7 import Series7Delays
from gateware.model.fabrics_xc7 import fabric_of
from gateware.model.netlist import JoinedNetlist
from gateware.model.paths import TimingGraph, TimingPath
from gateware.pe.series7 import Series7
from ir import cli

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "paths.json"
REPORT = RESULTS.with_suffix(".md")
PARTS = ("xc7z020clg484-1", "xc7z045ffg900-2")  #: of arrays without a board
TOLERANCE = 0.01  #: by which a path may be longer than the kept one
NETS = 8
MAX_PINS = 200  #: that a net of data or of enables may feed; larger ones get copies
LIMITS_NS = (4.25, 5.7, 6.67, 8.0, 10.0)
#: An accelerator that a test synthesises.
SMALL = AccelConfig(
    pot4_rows=2,
    fixed4_rows=1,
    fixed8_rows=1,
    bus_bits=32,
    requant_lanes=1,
    act_depth=64,
    weight_depth=64,
    slot_depth=16,
    wide_depth=16,
)


@dataclasses.dataclass(frozen=True)
class Design:
    """An accelerator and the parts that it is for, the first of which the paths are reported of.

    text : its Verilog where that is at hand
    """

    name: str
    parts: tuple[str, ...]
    config: AccelConfig
    text: str | None = None

    @property
    def factor(self) -> float:
        """Delays of the first part by those of its fabric as measured."""
        return fabric_of(self.parts[0]).factors[grade(self.parts[0])]


def small() -> Design:
    """The array of the tests."""
    return Design("small", PARTS, SMALL)


def default() -> Design:
    """The array of ``gateware.build`` without options."""
    return Design("default", PARTS, synthesis.DESIGNS["default"][1])


def design_of_board(name: str) -> Design:
    """The array of a board alone. Raises UserError for one that has none, or is no Zynq."""
    try:
        board = boards.get(name)
        found = presets.auto(board)
        config = AccelConfig.from_ratio(
            found.ratio, found.rows, **{"clock_hz": board.clock_hz, **found.sizes}
        )
    except ValueError as error:
        raise cli.UserError(str(error)) from error
    return Design(name, (_part(board),), config)


def design_of_build(folder: Path) -> Design:
    """What a build folder holds. Raises UserError."""
    try:
        config = AccelConfig.from_json((folder / "config.json").read_text())
        board = boards.get(json.loads((folder / ACCELERATOR).read_text())["board"])
        text = (folder / f"{MODULE}.v").read_text()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise cli.UserError(f"{folder} is no build folder of gateware.build ({error})") from error
    return Design(str(folder), (_part(board),), config, text)


def _part(board: Board) -> str:
    if board.device.family != "xc7":
        raise cli.UserError(
            f"{board.title} has no 7-series device; its clock is routed: "
            f"python -m gateware.build --board {board.name}"
        )
    return board.device.part


def synthesised(design: Design) -> JoinedNetlist:
    """The netlist of a design. Raises UserError where Yosys fails."""
    with tempfile.TemporaryDirectory(prefix="rmsmp-") as name:
        source = Path(name) / f"{MODULE}.v"
        source.write_text(design.text or accelerator_verilog(design.config, Series7(sources=True)))
        cli.say(f"{design.name}: {shape(design.config)}, Yosys runs")
        yosys.synthesise(source, MODULE, netlist=True)
        document = json.loads((source.parent / yosys.NETLIST).read_text())
    return JoinedNetlist(document, MODULE, ROOT)


def timed(netlist: JoinedNetlist, part: str) -> TimingGraph:
    """In the grade that the delays of the part's fabric were measured in."""
    cli.say(f"{len(netlist.cells)} cells, paths are timed for {part}")
    fabric = fabric_of(part)
    return TimingGraph(netlist, Series7Delays(fabric, fabric.grade))


def measure(design: Design, netlist: JoinedNetlist) -> dict[str, Any]:
    """What :func:`report` prints and what is kept, JSON-able.

    ``units`` and ``over_ns`` are of the first part in its grade, ``clock`` has all.
    """
    graphs = {part: timed(netlist, part) for part in design.parts}
    graph, factor = graphs[design.parts[0]], design.factor
    return {
        "name": design.name,
        "parts": list(design.parts),
        "config": dataclasses.asdict(design.config),
        "clock": {part: _clocks(part, each) for part, each in graphs.items()},
        "endpoints": graph.endpoints,
        "over_ns": {str(ns): graph.count_over(ns / factor) for ns in LIMITS_NS},
        "units": [_unit(path, factor) for path in graph.longest_by_unit()],
        "nets": [
            {"fanout": fanout, "name": name, "source": source}
            for fanout, name, source in graph.largest_nets(NETS)
        ],
        "data_nets": [
            {"fanout": fanout, "name": name, "source": source}
            for fanout, name, source in graph.largest_nets(NETS, resets=False)
        ],
    }


def _clocks(part: str, graph: TimingGraph) -> dict[str, dict[str, float]]:
    """Predicted clock by grade."""
    longest = graph.longest()
    if longest is None:
        raise ValueError("the design has no path")
    factors = sorted(fabric_of(part).factors.items())
    return {str(grade): _clock(longest.ns * factor) for grade, factor in factors}


def _clock(ns: float) -> dict[str, float]:
    mhz = 1000 / ns
    return {
        "ns": round(ns, 2),
        "mhz": round(mhz, 1),
        "with_margin_mhz": round(mhz / (1 + ROUTING_MARGIN), 1),
    }


def _unit(path: TimingPath, factor: float) -> dict[str, Any]:
    fields = {
        field.name: getattr(path, field.name)
        for field in dataclasses.fields(path)
        if field.name != "points"
    }
    return {**fields, "ns": round(path.ns * factor, 3)}


def kept() -> dict[str, dict[str, Any]]:
    """What ``--keep`` wrote, by the name of the design. Raises UserError."""
    try:
        return json.loads(RESULTS.read_text())
    except (OSError, ValueError) as error:
        raise cli.UserError(
            f"{RESULTS} cannot be read ({error}): run python -m bench.paths --keep"
        ) from error


def over_pins(found: Mapping[str, Any]) -> list[str]:
    """Nets of more than :data:`MAX_PINS` inputs, a line each; resets of flip-flops do not count."""
    return [
        f"{net['name']}: {net['fanout']} inputs, {MAX_PINS} at most: it needs copies"
        for net in found.get("data_nets", [])
        if net["fanout"] > MAX_PINS
    ]


def longer(found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Units whose longest path is longer than it was, a line each; new ones as well."""
    bounds = {unit["end_unit"]: unit["ns"] for unit in before["units"]}
    lines = []
    for unit in found["units"]:
        name, ns = unit["end_unit"], unit["ns"]
        if name not in bounds:
            lines.append(f"{name}: {ns:.2f} ns, and no bound is kept")
        elif ns > (1 + TOLERANCE) * bounds[name]:
            lines.append(f"{name}: {ns:.2f} ns, kept {bounds[name]:.2f} ns, from {unit['start']}")
    return lines


def keep_design(design: Design, found: dict[str, Any]) -> None:
    """Keep what :func:`measure` found of a design, with the digest of its Verilog."""
    text = design.text or accelerator_verilog(design.config, Series7())
    digest = verilog_digest(design.config, text)
    _keep(designs={design.name: {**found, "verilog": digest}})


def _keep(**entry: Any) -> None:
    """Put entries into the kept results."""
    results = kept() if RESULTS.exists() else {"designs": {}}
    designs = results["designs"] | entry.pop("designs", {})
    results |= {"designs": designs, **entry}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    REPORT.write_text(full_report(results) + "\n")


def _chosen(args: argparse.Namespace) -> Design:
    if args.build is not None:
        return design_of_build(args.build)
    if args.board:
        return design_of_board(args.board)
    return small() if args.small else default()


def _bounds(design: Design) -> dict[str, Any]:
    """What is kept of a design. Raises UserError where nothing is, or of another array."""
    before = kept()["designs"].get(design.name)
    if before is None:
        raise cli.UserError(f"no paths of {design.name} are kept: run with --keep first")
    if sizes_digest(AccelConfig(**before["config"])) != sizes_digest(design.config):
        raise cli.UserError(f"the kept paths of {design.name} are of another array: --keep anew")
    return before


def parser() -> cli.Parser:
    p = cli.Parser(prog="python -m bench.paths", description=__doc__)
    p.add_argument("build", nargs="?", type=Path, metavar="BUILD", help="build folder")
    which = p.add_mutually_exclusive_group()
    which.add_argument("--board", metavar="NAME", help="the array of this board alone")
    which.add_argument("--small", action="store_true", help="the array of the tests")
    which.add_argument("--routed", action="store_true", help="ECP5: the model beside nextpnr")
    which.add_argument("--report", action="store_true", help="print what is kept, and end")
    p.add_argument("--detail", metavar="UNIT", help="print each cell of the longest path into it")
    p.add_argument(
        "--check",
        action="store_true",
        help=f"exit with 1 where a unit's path is longer than kept, or a net feeds over {MAX_PINS}",
    )
    p.add_argument("--keep", action="store_true", help="keep it in bench/results/paths.json")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.build and (args.board or args.small or args.routed or args.report):
        raise cli.UserError("a build folder is all that is asked for: leave out the other options")
    if args.report:
        results = kept()
        cli.give(json.dumps(results) if args.json else full_report(results))
        return 0
    if args.routed:
        rows = {"ecp5": paths_ecp5.routed(), "ecp5_held_out": paths_ecp5.held_out()}
        if args.keep:
            _keep(**rows)
        cli.give(json.dumps(rows) if args.json else routed_tables(rows))
        return 0
    design = _chosen(args)
    before = _bounds(design) if args.check else None
    began = time.monotonic()
    netlist = synthesised(design)
    if args.detail:
        cli.give(detail(timed(netlist, design.parts[0]), args.detail, design.factor))
        return 0
    found = measure(design, netlist)
    cli.say(f"{design.name}: {time.monotonic() - began:.0f} s")
    if args.keep:
        keep_design(design, found)
    cli.give(json.dumps(found) if args.json else report(found))
    over = [*longer(found, before), *over_pins(found)] if before else []
    for line in over:
        cli.say(line)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
