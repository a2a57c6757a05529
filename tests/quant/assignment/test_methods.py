# SPDX-License-Identifier: Apache-2.0
"""Methods by name, and the levels of the one that only training knows."""

import itertools

import pytest

from ir import numerics
from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.assignment import methods
from quant.nn import apot


@pytest.mark.parametrize(
    ("name", "shares", "base"),
    [
        ("fixed4", (0, 100, 0), 0),
        ("pot4", (100, 0, 0), 0),
        ("apot4", (100, 0, 0), 3),
        ("pot4+fixed4", (50, 50, 0), 0),
        ("apot4+fixed4", (60, 40, 0), 3),
        ("fixed4+fixed8", (0, 95, 5), 0),
        ("rmsmp", (65, 30, 5), 0),
    ],
)
def test_methods_of_table_1(name, shares, base) -> None:
    found = methods.method(name)
    assert (found.name, found.ratio, found.base) == (name, Ratio(*shares), base)


def test_there_are_no_others() -> None:
    assert len(methods.METHODS) == 7
    with pytest.raises(ValueError, match=r"unknown method 'pot5'; known are fixed4, pot4, .*rmsmp"):
        methods.method("pot5")


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("rmsmp", "60:35:5"),
        ("rmsmp", "0:100:0"),
        ("rmsmp", "0:0:100"),
        ("pot4+fixed4", "67:33:0"),
        ("apot4+fixed4", "0:100:0"),
        ("fixed4+fixed8", "0:50:50"),
        ("pot4", "100:0:0"),
    ],
)
def test_ratio_replaces_that_of_the_method(name, ratio) -> None:
    found = methods.method(name, ratio)
    assert str(found.ratio) == ratio
    assert (found.name, found.base) == (name, methods.METHODS[name].base)


@pytest.mark.parametrize(
    ("name", "ratio", "scheme"),
    [
        ("fixed4", "65:30:5", "POT4"),
        ("pot4", "50:50:0", "FIXED4"),
        ("pot4+fixed4", "65:30:5", "FIXED8"),
        ("apot4+fixed4", "0:95:5", "FIXED8"),
        ("fixed4+fixed8", "1:94:5", "POT4"),
    ],
)
def test_ratio_with_a_scheme_that_the_name_does_not_promise(name, ratio, scheme) -> None:
    with pytest.raises(
        ValueError,
        match=rf"'{name}' has no {scheme} rows, a ratio of {ratio} has".replace("+", r"\+"),
    ):
        methods.method(name, ratio)


def test_ratio_of_a_wrong_form() -> None:
    with pytest.raises(ValueError, match="not of the form"):
        methods.method("rmsmp", "65:30")


def test_apot_levels_are_the_sums_of_the_paper() -> None:
    sums = {a + b for a, b in itertools.product((0, 1 / 2, 1 / 4, 1 / 16), (0, 1 / 8))}
    levels = {s / max(sums) for s in sums} | {-s / max(sums) for s in sums}
    values = apot.apot4_values()
    assert values.tolist() == [-10, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10]
    assert [v / 10 for v in values.tolist()] == pytest.approx(sorted(levels))


def test_apot_is_unknown_to_the_hardware() -> None:
    assert apot.APOT4 not in list(Scheme)
    with pytest.raises(ValueError):
        numerics.Scheme(apot.APOT4)
