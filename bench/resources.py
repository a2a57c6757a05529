# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Synthesise every row engine for 7-series and print what a multiplication costs.

python -m bench.resources                  engines and their baselines, K = 8, 16, 32; minutes
python -m bench.resources --k 16 --json
python -m bench.resources --arrays         the full-size arrays of both chips; many minutes

Yosys' synth_xilinx with the same script for all (gateware/flow/yosys.py), not placed. A LUT with
two outputs counts as one. Baselines (bench/baselines.py) are what the accelerator does not use."""

import concurrent.futures
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from amaranth.lib import wiring

import boards
from bench.baselines import BASELINES
from gateware.arch.config import AccelConfig
from gateware.flow import yosys
from gateware.pe.base import RowEngine
from gateware.pe.fixed4_dsp import Fixed4DspEngine
from gateware.pe.fixed4_lut import Fixed4LutEngine
from gateware.pe.fixed4_pair import Fixed4PairEngine
from gateware.pe.fixed8 import Fixed8Engine
from gateware.pe.pot4 import Pot4Engine
from gateware.pe.series7 import Series7, to_verilog
from gateware.rtl.array import GemmArray
from ir import cli

ENGINES = (Pot4Engine, Fixed4PairEngine, Fixed4DspEngine, Fixed4LutEngine, Fixed8Engine)
PIXELS = 8
RESULTS = Path(__file__).parent / "results"
#: From the paper's Table 6 (RMSMP-1, RMSMP-2): MACs per DSP and cycle, LUTs per PoT MAC with a
#: share of the control logic.
PAPER = {"dsp48e1": "1.22 (0.82 MAC per DSP)", "lut": "63-77"}
#: The largest arrays of whole row tiles, by board.
ARRAYS = {
    "zc706": AccelConfig(pot4_rows=42, fixed4_rows=19, fixed8_rows=3, pixels=8),
    "zedboard": AccelConfig(pot4_rows=20, fixed4_rows=11, fixed8_rows=1, pixels=4),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """Measured cells of one design, and the multiplications that it does in a cycle."""

    name: str
    k: int
    macs: int
    cells: dict[str, float]
    estimated: dict[str, float] | None = None

    def per_mac(self, cell: str) -> float:
        return self.cells[cell] / self.macs


def measure(design: wiring.Component, name: str, *, flatten: bool) -> dict[str, float]:
    """Cells of a component with 7-series primitives."""
    with tempfile.TemporaryDirectory(prefix="rmsmp-") as folder:
        source = Path(folder) / "design.v"
        source.write_text(to_verilog(design, name, Series7()))
        return yosys.summary(yosys.synthesise(source, name, flatten=flatten).cells)


def engine_row(engine: type[RowEngine], k: int) -> Row:
    cells = measure(engine(k=k, pixels=PIXELS), "engine", flatten=True)
    estimated = (
        None if engine in BASELINES else dataclasses.asdict(engine.resources(k=k, pixels=PIXELS))
    )
    return Row(
        name=engine.__name__, k=k, macs=engine.rows * k * PIXELS, cells=cells, estimated=estimated
    )


def array_row(board: str, config: AccelConfig) -> Row:
    array = GemmArray(config)
    cells = measure(array, "array", flatten=False)
    lanes = ":".join(map(str, config.lanes))
    name = f"{boards.get(board).device.part} {lanes} x {config.k} x {config.pixels}"
    estimated = dataclasses.asdict(GemmArray.resources(config))
    return Row(name=name, k=config.k, macs=config.macs_per_cycle, cells=cells, estimated=estimated)


def engine_table(rows: Sequence[Row]) -> str:
    lines = [
        "| engine | K | LUT / MAC | estimated | FF / MAC | CARRY4 / MAC | DSP48E1 / MAC |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        guess = f"{row.estimated['lut'] / row.macs:.2f}" if row.estimated else ""
        lines.append(
            f"| {row.name} | {row.k} | {row.per_mac('lut'):.2f} | {guess} | "
            f"{row.per_mac('ff'):.1f} | {row.per_mac('carry4'):.2f} | "
            f"{row.per_mac('dsp48e1'):.3f} |"
        )
    lines.append(f"| paper, Table 6 (whole design) | | {PAPER['lut']} | | | | {PAPER['dsp48e1']} |")
    return "\n".join(lines)


def array_table(rows: Sequence[Row], parts: Sequence[dict[str, int]]) -> str:
    lines = [
        "| array | resource | measured | estimated | of | share |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row, limits in zip(rows, parts, strict=True):
        for cell in ("lut", "ff", "dsp48e1"):
            lines.append(
                f"| {row.name} | {cell.upper()} | {row.cells[cell]:.0f} | "
                f"{row.estimated[cell]:.0f} | {limits[cell]} | "
                f"{100 * row.cells[cell] / limits[cell]:.1f} % |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.resources", description=__doc__)
    p.add_argument("--k", default="8,16,32", metavar="A,B", help="channels (default: %(default)s)")
    p.add_argument("--arrays", action="store_true", help="whole arrays instead of engines")
    p.add_argument(
        "--jobs",
        type=int,
        default=2,
        metavar="N",
        help="syntheses at a time (default: %(default)s)",
    )
    p.add_argument("--out", type=Path, metavar="FILE", help="write the rows there as JSON")
    p.add_argument("--json", action="store_true", help="print the rows as one JSON document")
    args = p.parse_args(argv)
    if args.arrays:
        work = [(array_row, board, config) for board, config in ARRAYS.items()]
    else:
        try:
            sizes = [int(k) for k in args.k.split(",")]
        except ValueError:
            raise cli.UserError(f"--k takes numbers such as 8,16, not {args.k!r}") from None
        work = [(engine_row, engine, k) for k in sizes for engine in (*ENGINES, *BASELINES)]
    with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
        started = [pool.submit(*item) for item in work]
        rows = []
        for future in started:
            rows.append(future.result())
            cli.say(f"{rows[-1].name}, K = {rows[-1].k}: {rows[-1].per_mac('lut'):.2f} LUT per MAC")
    document = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
    if args.out:
        args.out.write_text(document + "\n")
    if args.json:
        cli.give(document)
    elif args.arrays:
        cli.give(array_table(rows, [boards.get(board).device.limits for board in ARRAYS]))
    else:
        cli.give(engine_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
