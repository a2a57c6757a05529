# SPDX-License-Identifier: Apache-2.0
"""Synthesise a built accelerator with Yosys for 7-series and hold the estimate against it.

python -m bench.synthesis                  build/zc706; takes minutes
python -m bench.synthesis build/zedboard --json
"""

import collections
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import yosys
from gateware import estimate
from gateware.config import AccelConfig
from gateware.verilog import MODULE
from quant import cli


def synthesise(folder: Path) -> collections.Counter:
    """Cells of ``folder/accelerator.v`` by type. Raises UserError when Yosys fails."""
    if not (folder / "accelerator.v").is_file():
        raise cli.UserError(f"no accelerator.v in {folder}: run python -m gateware.build first")
    return yosys.synthesise(folder / "accelerator.v", MODULE)


def compare(cells: collections.Counter, config: AccelConfig) -> dict[str, dict[str, float]]:
    """Measured, estimated and the estimate's error in percent, per resource."""
    measured = yosys.summary(cells)
    guess = estimate.resources(config)
    return {
        name: {
            "measured": value,
            "estimated": getattr(guess, name),
            "error_percent": round(100 * (getattr(guess, name) / value - 1), 1) if value else 0.0,
        }
        for name, value in measured.items() if hasattr(guess, name)
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
