# SPDX-License-Identifier: Apache-2.0
"""Ratios by name: those of the paper, and of arrays that :mod:`gateware.explore.search` found."""

import dataclasses
from pathlib import Path

from boards.board import Board
from gateware.arch.config import SIZES, AccelConfig
from ir.board_arrays import BoardArray, board_array, board_files, user_folder
from ir.ratio import Ratio

#: Ratios of the paper by device (Table 6: RMSMP-1, RMSMP-2).
PAPER = {"xc7z020": Ratio(60, 35, 5), "xc7z045": Ratio(65, 30, 5)}
NAMES = ("auto", "paper")


def paper(board: Board) -> Ratio:
    """Ratio of the paper for a board, that of RMSMP-2 for devices that it says nothing about."""
    return PAPER.get(board.device.part[:7], PAPER["xc7z045"])


def auto(board: Board) -> BoardArray:
    """Array that the search found for a board. Raises ValueError where there is none."""
    if board.name not in board_files():
        raise ValueError(
            f"ratio auto has no answer for {board.title}; it has for "
            f"{', '.join(sorted(board_files()))}"
        )
    return board_array(board.name)


def keep(board: str, ratio: Ratio, config: AccelConfig) -> Path:
    """Registration of ``config`` as the answer for a board on this machine; returns its file."""
    fields = dataclasses.asdict(config)
    sizes = {name: fields[name] for name in SIZES}
    return BoardArray(ratio, config.rows, sizes).save(user_folder(), board)
