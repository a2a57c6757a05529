# SPDX-License-Identifier: Apache-2.0
"""Cells of whole accelerators: what Yosys made of them, beside what is estimated.

python -m bench.synthesis                  the kept figures and today's estimates
python -m bench.synthesis --measure        synthesise them all again; many minutes
python -m bench.synthesis --measure xc7z020 --json

``python -m gateware.build --synth yosys`` measures any other one, by the same function.
"""

import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import boards
from gateware.arch.config import AccelConfig
from gateware.flow.target import TARGETS
from gateware.flow.verilog import MODULE, accelerator_verilog
from gateware.model import estimate
from ir import cli
from ir.ratio import Ratio

RESULTS = Path(__file__).parent / "results" / "synthesis.json"
CELLS = ("lut", "ff", "dsp48e1", "bram36")
_LARGE = {"act_depth": 4096, "wide_depth": 1024}
#: Accelerators by name, and the board whose device they are for.
DESIGNS: dict[str, tuple[str, AccelConfig]] = {
    "default": ("zc706", AccelConfig.from_ratio(Ratio(65, 30, 5), 16)),
    "xc7z020": (
        "zedboard",
        AccelConfig(
            pot4_rows=20,
            fixed4_rows=11,
            fixed8_rows=1,
            pixels=4,
            ports=2,
            act_copies=1,
            weight_depth=1024,
            **_LARGE,
        ),
    ),
    "xc7z045": (
        "zc706",
        AccelConfig.from_ratio(
            Ratio(65, 30, 5), 64, pixels=8, ports=4, requant_lanes=16, weight_depth=2048, **_LARGE
        ),
    ),
}


def measure(config: AccelConfig) -> dict[str, object]:
    """Synthesise an accelerator for 7-series; JSON-able: configuration, cells, modules, time."""
    target = TARGETS["xc7"]
    with tempfile.TemporaryDirectory(prefix="rmsmp-") as name:
        folder = Path(name)
        text = accelerator_verilog(config, target.primitives())
        (folder / f"{MODULE}.v").write_text(text)
        began = time.monotonic()
        found = target.synthesiser()(folder)
        seconds = time.monotonic() - began
    return {
        "config": dataclasses.asdict(config),
        "measured": found.resources,
        "modules": list(found.modules),
        "seconds": round(seconds),
        "verilog": hashlib.blake2s(text.encode(), digest_size=8).hexdigest(),
    }


def kept() -> dict[str, dict[str, object]]:
    """What :func:`measure` once found, by the name of the design. Raises UserError."""
    try:
        return json.loads(RESULTS.read_text())
    except (OSError, ValueError) as error:
        raise cli.UserError(
            f"{RESULTS} cannot be read ({error}): run python -m bench.synthesis --measure"
        ) from error


def compare(measured: Mapping[str, float], config: AccelConfig) -> dict[str, dict[str, float]]:
    """Measured, estimated and the estimate's error in percent, per resource."""
    guess = dataclasses.asdict(estimate.resources(config))
    return {
        name: {
            "measured": measured[name],
            "estimated": guess[name],
            "error_percent": round(100 * (guess[name] / measured[name] - 1), 1)
            if measured[name]
            else 0.0,
        }
        for name in CELLS
    }


def table(rows: Mapping[str, dict[str, object]]) -> str:
    """The figures for people, in Markdown."""
    lines = [
        "| accelerator | resource | measured | estimated | error | of | share |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        config = AccelConfig(**row["config"])
        board = boards.get(DESIGNS[name][0])
        title = (
            f"{':'.join(map(str, config.lanes))} x {config.k} x {config.pixels}, "
            f"{board.device.part[:7].upper()}"
        )
        for cell, found in compare(row["measured"], config).items():
            limit = board.device.limits[cell]
            lines.append(
                f"| {title} | {cell.upper()} | {found['measured']:g} | {found['estimated']:g} | "
                f"{found['error_percent']:+.1f} % | {limit} | "
                f"{100 * found['measured'] / limit:.1f} % |"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.synthesis", description=__doc__)
    p.add_argument(
        "--measure",
        nargs="*",
        metavar="NAME",
        help=f"synthesise these and keep what comes out, of {', '.join(DESIGNS)} (default: all)",
    )
    p.add_argument("--json", action="store_true", help="print one JSON document")
    args = p.parse_args(argv)
    rows = {} if args.measure is not None and not RESULTS.exists() else kept()
    for name in DESIGNS if args.measure == [] else args.measure or ():
        if name not in DESIGNS:
            raise cli.UserError(f"--measure takes {', '.join(DESIGNS)}, not {name!r}")
        rows[name] = measure(DESIGNS[name][1])
        cli.say(f"{name}: {rows[name]['seconds']} s")
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    cli.give(json.dumps(rows) if args.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
