# SPDX-License-Identifier: Apache-2.0
"""Supported boards: :data:`BOARDS` by name and :func:`get`. A new one is a file and a line here."""

import difflib

from boards.arty_z7 import ARTY_Z7
from boards.board import Board, Device, MemorySystem
from boards.ecpix5_85 import ECPIX5_85
from boards.pynq_z1 import PYNQ_Z1
from boards.pynq_z2 import PYNQ_Z2
from boards.ulx3s_85f import ULX3S_85F
from boards.zc706 import ZC706
from boards.zedboard import ZEDBOARD

__all__ = ["BOARDS", "Board", "Device", "MemorySystem", "UnknownBoard", "get"]

BOARDS: dict[str, Board] = {
    board.name: board
    for board in (ARTY_Z7, ECPIX5_85, PYNQ_Z1, PYNQ_Z2, ULX3S_85F, ZC706, ZEDBOARD)
}


class UnknownBoard(ValueError):
    """Error for a name that no board has; the message lists those that exist."""


def get(name: str) -> Board:
    """Board called ``name``; raises UnknownBoard, one line, with the valid names."""
    if name in BOARDS:
        return BOARDS[name]
    # A person types "ZC-706" or "Arty Z7": compare without case and punctuation.
    plain = {_plain(known): known for known in BOARDS}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.5)
    hint = f"; did you mean {plain[close[0]]}?" if close else ""
    raise UnknownBoard(f"no board is called {name!r}; boards are {', '.join(BOARDS)}{hint}")


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
