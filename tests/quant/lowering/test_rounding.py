# SPDX-License-Identifier: Apache-2.0
"""Offsets in the middle between two sums: same outputs, and nothing near a tie."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import numerics
from quant.lowering import rounding


@st.composite
def rows(draw) -> dict[str, object]:
    """A requantisation with its residual operand, as :func:`ir.numerics.encode_row` makes it."""
    factor = draw(
        st.one_of(
            st.just(0.0), st.floats(2**-9, 3.99), st.sampled_from([0.25, 0.5, 1.0, 1 / 3, 3.0])
        )
    )
    offset = draw(st.one_of(st.floats(-40, 40), st.sampled_from([0.0, 0.5, -7.5, 1e4])))
    m, b, s = numerics.encode_row(factor, offset)
    low, high = draw(st.sampled_from([(0, 15), (-8, 7), (0, 255), (-128, 127)]))
    n = draw(st.one_of(st.just(0), st.integers(1, (1 << numerics.RESIDUAL_BITS) - 1)))
    residuals = draw(st.sampled_from([(0, 15), (-8, 7), (-128, 127)])) if n else (0, 0)
    return {
        "multiplier": m,
        "bias": b,
        "shift": s,
        "outputs": (low, high),
        "n": n,
        "residuals": residuals,
    }


def sums(row: dict[str, object]) -> np.ndarray:
    """``acc*M + r*N + B`` for every r, and every acc whose output is not clamped or nearly so."""
    m, s, (low, high) = row["multiplier"], row["shift"], row["outputs"]
    r = np.arange(row["residuals"][0], row["residuals"][1] + 1)[:, None]
    added = r * (row["n"] << s - numerics.SHIFT_MIN) + row["bias"]
    reach = ((high - low + 3) << s) // max(m, 1) if m else 1
    start = ((low - 1) << s) - added
    acc = (start // m if m else 0 * start) + np.arange(reach + 3)
    return numerics.accumulate(acc, m, row["bias"], s, r, row["n"])


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(row=rows())
def test_outputs_stay_and_no_sum_is_nearer_to_a_tie(row) -> None:
    moved, s, (low, high) = (
        rounding.centre_rounding_margin(**row) - row["bias"],
        row["shift"],
        row["outputs"],
    )
    assert abs(moved) <= 1 << s - 1
    before = sums(row)
    after = before + moved
    assert np.array_equal(np.clip(before >> s, low, high), np.clip(after >> s, low, high))
    unclamped = (before >= low << s) & (before < (high + 1) << s)
    near, clear = (
        np.minimum(t & (1 << s) - 1, -t & (1 << s) - 1)[unclamped] for t in (before, after)
    )
    assert not near.size or clear.min() >= near.min()


def test_sum_at_a_tie_is_moved_away() -> None:
    """With M and S of a trained network's channel that had one."""
    m, s = 36218, 19
    b = (2 << s) - 5 * m
    assert b + 5 * m == 2 << s  # a tie that 2^-24 turns over
    moved = rounding.centre_rounding_margin(m, b, s, (0, 15))
    sums = np.arange(-100, 400) * m + moved
    inside = sums[(sums >= 0) & (sums < 16 << s)]
    rest = inside & ((1 << s) - 1)
    assert min(rest.min(), ((1 << s) - rest).min()) > 2**s / 1000
    assert (5 * m + moved) >> s == 2


def test_more_sums_than_are_looked_at(monkeypatch) -> None:
    row = numerics.encode_row(0.01, 0.3)
    monkeypatch.setattr(rounding, "MAX_SUMS", 1000)
    assert rounding.centre_rounding_margin(*row, (0, 15)) == row[1]
    assert rounding.centre_rounding_margin(*row, (0, 7)) != row[1]


@pytest.mark.parametrize("offset", [0.0, 0.2, -0.4])
def test_dead_row_lies_between_two_codes(offset) -> None:
    m, b, s = numerics.encode_row(0.0, offset)
    assert rounding.centre_rounding_margin(m, b, s, (0, 15)) == 1 << s - 1
