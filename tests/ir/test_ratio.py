# SPDX-License-Identifier: Apache-2.0
"""Row counts: one function for training and hardware, and what both rely on."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir.ratio import Ratio, largest_remainder

quick = settings(deadline=None, max_examples=60)

ratios = st.tuples(st.integers(0, 100), st.integers(0, 100)).map(
    lambda cut: Ratio(min(cut), max(cut) - min(cut), 100 - max(cut))
)


@quick
@given(
    st.integers(0, 5000),
    st.lists(st.integers(0, 200), min_size=1, max_size=6).filter(any).map(tuple),
)
def test_largest_remainder_keeps_the_sum_and_the_quota(total, weights):
    parts = largest_remainder(total, weights)
    assert sum(parts) == total
    quotas = [Fraction(total * w, sum(weights)) for w in weights]
    for part, quota in zip(parts, quotas, strict=True):
        assert part in (int(quota), -int(-quota // 1))
    up = [q - int(q) for p, q in zip(parts, quotas, strict=True) if p > q]
    down = [q - int(q) for p, q in zip(parts, quotas, strict=True) if p < q]
    assert min(up, default=1) >= max(down, default=0)


def test_equal_remainders_go_to_the_more_precise_scheme():
    assert largest_remainder(1, (1, 1, 1)) == (0, 0, 1)
    assert largest_remainder(2, (1, 1, 1)) == (0, 1, 1)
    assert largest_remainder(3, (1, 1, 0)) == (1, 2, 0)
    assert largest_remainder(1, (50, 50, 0)) == (0, 1, 0)


def test_lanes_of_the_papers_ratios():
    assert Ratio.parse("65:30:5").lanes(64) == (42, 19, 3)
    assert Ratio.parse("60:35:5").lanes(32) == (19, 11, 2)
    assert Ratio(100, 0, 0).lanes(16) == (16, 0, 0)


@quick
@given(ratios, st.integers(1, 64))
def test_every_layer_fits_its_tiles(ratio, tile_rows):
    lanes = ratio.lanes(tile_rows)
    assert sum(lanes) == tile_rows
    for n in range(1, 601):
        rows = ratio.rows(n, tile_rows)
        rest = [row - n // tile_rows * lane for row, lane in zip(rows, lanes, strict=True)]
        assert sum(rows) == n
        assert sum(rest) == n % tile_rows
        assert all(0 <= part <= lane for part, lane in zip(rest, lanes, strict=True))


def test_rounding_the_percentages_of_a_whole_layer_would_not_fit():
    """Why rows() follows the lanes: two tiles of 16 rows carry 20 PoT rows, not 21."""
    ratio = Ratio(65, 30, 5)
    assert ratio.lanes(16) == (10, 5, 1)
    assert largest_remainder(32, ratio.shares) == (21, 9, 2)
    assert ratio.rows(32, 16) == (20, 10, 2)
    assert ratio.rows(24, 16) == (15, 7, 2)


@pytest.mark.parametrize("text", ["65:30:5", "0:0:100", " 1:2:97 "])
def test_parse(text):
    assert str(Ratio.parse(text)) == text.strip()


@pytest.mark.parametrize("text", ["", "65", "65:30", "65:30:5:0", "a:b:c", "65;30;5", "1.5:8:9"])
def test_parse_wrong_form(text):
    with pytest.raises(ValueError, match="is not of the form PoT4:Fixed4:Fixed8 such as 65:30:5"):
        Ratio.parse(text)


def test_init_wrong_shares():
    with pytest.raises(ValueError, match=r"^ratio 105:-10:5 has a negative share; use PoT4:"):
        Ratio(105, -10, 5)
    with pytest.raises(ValueError, match=r"^ratio 65:30:6 sums to 101, not 100; use PoT4:"):
        Ratio.parse("65:30:6")
