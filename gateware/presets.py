# SPDX-License-Identifier: Apache-2.0
"""Ratios by name: the paper's, and the answers of :mod:`gateware.search` that are kept."""

import dataclasses
import json

from boards.board import Board
from gateware.config import SIZES, AccelConfig
from ir.ratio import BOARD_ARRAYS, Ratio, board_arrays

#: The paper's ratios by device (Table 6: RMSMP-1, RMSMP-2).
PAPER = {"xc7z020": Ratio(60, 35, 5), "xc7z045": Ratio(65, 30, 5)}
NAMES = ("auto", "paper")


def paper(board: Board) -> Ratio:
    """The paper's ratio for a board, that of RMSMP-2 for devices that it says nothing about."""
    return PAPER.get(board.device.part[:7], PAPER["xc7z045"])


def auto(board: Board) -> tuple[Ratio, int, dict[str, int]]:
    """Ratio, rows and sizes of the array that the search answered for a board. Raises ValueError
    where there is no answer."""
    arrays = board_arrays()
    if board.name not in arrays:
        raise ValueError(
            f"ratio auto has no answer for {board.title}; it has for {', '.join(arrays)}"
        )
    entry = arrays[board.name]
    return Ratio.parse(entry["ratio"]), entry["rows"], entry["sizes"]


def keep(board: str, ratio: Ratio, config: AccelConfig) -> None:
    """Make ``config`` the answer for a board."""
    arrays = board_arrays()
    fields = dataclasses.asdict(config)
    arrays[board] = {
        "ratio": str(ratio),
        "rows": config.rows,
        "sizes": {name: fields[name] for name in SIZES},
    }
    BOARD_ARRAYS.write_text(json.dumps(dict(sorted(arrays.items())), indent=1) + "\n")
