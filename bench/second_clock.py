# SPDX-License-Identifier: Apache-2.0
"""What DSP columns at twice the clock of the rest would win and cost; docs/second_clock.md.

python -m bench.second_clock     seconds; nothing is synthesised

Cells are estimated (gateware/model/estimate.py), cycles are the lower bound that the search of
arrays uses: multiplications, weights and results of each layer of ResNet-18, and no waiting.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import boards
from bench.clocks import config_of_board
from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.explore import search
from gateware.explore.shapes import resnet18
from gateware.model import estimate
from ir import cli
from ir.ratio import Ratio

BOARDS = ("zc706", "zedboard")
#: Lanes of the same 64 rows whose Fixed-4 and Fixed-8 rows fit half of the DSP slices.
FIXED_LANES = (15, 46, 3)


def variants(board: Board) -> Iterator[tuple[str, AccelConfig]]:
    """The board's array, two of twice its multiplications, and one of more Fixed-4 rows."""
    config = config_of_board(board)
    yield "as it is", config
    words = {"slot_depth": 128, "wide_depth": 256}
    yield (
        "twice the pixels",
        dataclasses.replace(
            config, pixels=2 * config.pixels, act_depth=config.act_depth // 2, **words
        ),
    )
    ratio = Ratio(62, 33, 5)
    pot4, fixed4, fixed8 = ratio.lanes(2 * config.rows)
    rows = {"pot4_rows": pot4, "fixed4_rows": fixed4, "fixed8_rows": fixed8}
    yield "twice the rows", dataclasses.replace(config, **rows, **words)
    pot4, fixed4, fixed8 = FIXED_LANES
    rows = {"pot4_rows": pot4, "fixed4_rows": fixed4, "fixed8_rows": fixed8}
    yield "more Fixed-4 rows", dataclasses.replace(config, **rows)


def doubled(config: AccelConfig) -> int:
    """DSP slices of an array whose engines run at twice the clock; requantisers do not."""
    slices = estimate.resources(config).dsp48e1
    requantisers = slices - engine_slices(config)
    return requantisers - (-engine_slices(config) // 2)


def engine_slices(config: AccelConfig) -> int:
    """DSP slices of the row engines: four multiplications of Fixed-4 in each, two of Fixed-8; an
    odd row of Fixed-4 has none."""
    macs = config.k * config.pixels
    return config.fixed4_rows // 2 * 2 * macs // 4 + config.fixed8_rows * macs // 2


def rows() -> list[dict[str, Any]]:
    """Every variant on every board."""
    graph, found = resnet18(), []
    for name in BOARDS:
        board = boards.get(name)
        for title, config in variants(board):
            used = dataclasses.asdict(estimate.resources(config))
            share = {cell: used[cell] / board.device.limits[cell] for cell in used}
            found.append(
                {
                    "board": name,
                    "variant": title,
                    "lanes": config.lanes,
                    "pixels": config.pixels,
                    "cycles": search.least_cycles(graph, board, config),
                    "share": share,
                    "doubled": doubled(config) / board.device.limits["dsp48e1"],
                }
            )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """The variants in Markdown."""
    lines = [
        "| board | array | lanes x pixels | cycles, at least | LUT | BRAM36 | DSP48E1 | DSP48E1 at "
        "twice the clock |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['board']} | {row['variant']} | {':'.join(map(str, row['lanes']))} x "
        f"{row['pixels']} | {row['cycles']:,} | {row['share']['lut']:.0%} | "
        f"{row['share']['bram36']:.0%} | {row['share']['dsp48e1']:.0%} | {row['doubled']:.0%} |"
        for row in found
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    p = cli.Parser(prog="python -m bench.second_clock", description=__doc__)
    p.add_argument("--json", action="store_true", help="print one JSON document")
    args = p.parse_args(argv)
    found = rows()
    cli.give(json.dumps(found) if args.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
