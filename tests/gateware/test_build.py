# SPDX-License-Identifier: Apache-2.0
"""What the build refuses before it generates anything."""

import dataclasses

import pytest

import boards
from gateware.build import configure
from quant.cli import UserError


def test_more_ports_than_the_board_has() -> None:
    board = boards.get("zc706")
    small = dataclasses.replace(board, memory=dataclasses.replace(board.memory, hp_ports=1))
    options = {"ratio": None, "rows": 16, "clock_hz": None}
    assert configure(board, None, **options, ports=4).ports == 4
    with pytest.raises(UserError, match="has 1 memory ports, --ports 2 asks for more"):
        configure(small, None, **options, ports=2)
