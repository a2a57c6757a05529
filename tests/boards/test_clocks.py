# SPDX-License-Identifier: Apache-2.0
"""Clocks of the processing system, the rule of defaults, and the driver's way to the same clock."""

import pytest

import boards
from boards import clocks
from boards.driver.slcr import Slcr

ZYNQS = [board for board in boards.BOARDS.values() if board.ps_clock_hz]


def test_clocks_are_whole_parts_of_the_pll() -> None:
    made = clocks.zynq7_clocks()
    assert made == tuple(sorted(set(made))) and made[-1] == 250_000_000
    for hz in (100_000_000, 125_000_000, 200_000_000, 142_857_143, 83_333_334):
        assert hz in made
    assert 150_000_000 not in made
    # 67 is a prime above both dividers' limit of 63, 65 is 5 x 13.
    assert -(-clocks.IO_PLL_HZ // 67) not in made and -(-clocks.IO_PLL_HZ // 65) in made


@pytest.mark.parametrize("board", ZYNQS, ids=lambda board: board.name)
def test_the_driver_makes_every_one_of_them(board) -> None:
    """By its own search for divisors, with the crystal of the board."""
    multiplier = round(clocks.IO_PLL_HZ / board.ps_clock_hz)
    pll = board.ps_clock_hz * multiplier
    for hz in clocks.zynq7_clocks():
        first, second = Slcr.divisors(pll, hz)
        assert abs(pll / (first * second) - hz) <= 2 + 1e-7 * hz


def test_next_lower() -> None:
    assert clocks.next_lower(150e6) == 142_857_143
    assert clocks.next_lower(200e6) == 200_000_000
    assert clocks.next_lower(83_333_333) == 83_333_334  # the same clock, written down otherwise
    assert clocks.next_lower(1e9) == 250_000_000
    with pytest.raises(ValueError, match=r"no clock of 0\.1 MHz or less"):
        clocks.next_lower(1e5)


@pytest.mark.parametrize(
    ("modelled", "clock"),
    [(114.9e6, 90_909_091), (115.1e6, 100_000_000), (1e9 / 4.25, 200_000_000), (60e6, 50_000_000)],
)
def test_fifteen_percent_are_left_for_routing(modelled: float, clock: int) -> None:
    assert clocks.supported(modelled) == clock


def test_every_board_has_a_default() -> None:
    for board in boards.BOARDS.values():
        assert board.clock_hz == clocks.default_hz(board.name)
    for board in ZYNQS:
        assert board.clock_hz in clocks.zynq7_clocks()
