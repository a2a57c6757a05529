# SPDX-License-Identifier: Apache-2.0
"""The estimate of a second clock counts slices as the estimates of arrays do, and the page prints
what the command does."""

import dataclasses
from pathlib import Path

import pytest

import boards
from bench import second_clock
from bench.clocks import config_of_board
from gateware.model import estimate

PAGE = Path(__file__).resolve().parents[1] / "docs" / "second_clock.md"


@pytest.mark.parametrize("name", second_clock.BOARDS)
def test_slices_of_the_engines(name: str) -> None:
    for _, config in second_clock.variants(boards.get(name)):
        engines = second_clock.engine_slices(config)
        bare = dataclasses.replace(config, pot4_rows=config.rows, fixed4_rows=0, fixed8_rows=0)
        used = estimate.resources(config).dsp48e1
        assert used - engines == estimate.resources(bare).dsp48e1 > 0
        assert second_clock.doubled(config) == used - engines // 2


def test_no_array_of_twice_the_multiplications_fits() -> None:
    for row in second_clock.rows():
        fits = max(row["doubled"], row["share"]["lut"], row["share"]["bram36"]) <= 1
        assert fits == (row["variant"] in ("as it is", "more Fixed-4 rows"))


def test_the_page_has_the_table() -> None:
    assert second_clock.table(second_clock.rows()) in PAGE.read_text()
    assert config_of_board(boards.get("zc706")).lanes == (40, 21, 3)
