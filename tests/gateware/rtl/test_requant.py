# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Requantiser against the numeric contract: every shift, every edge of rounding and clamping."""

from collections.abc import Sequence

import numpy as np
import pytest

from gateware.rtl.requant import RequantInput, RequantLane
from ir.numerics import SHIFT_MAX, SHIFT_MIN, accumulate
from sim.benches.stimulus import simulate

FIELDS = tuple(RequantInput().members)


def run(
    operations: Sequence[dict[str, int]], *, products: bool = False, wide_wait: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """One operation per cycle against the model, in every cycle; returns ``(y, wide)``."""
    lane = RequantLane(products=products, wide_wait=wide_wait)
    layout, late = RequantInput(products), lane.latency - 1
    stimulus = [{"i": layout.const(operation).as_value().value} for operation in operations]
    seen = simulate(lane, stimulus + [stimulus[-1]] * (late + 1 + wide_wait), ["y", "wide"])
    y = np.array(seen["y"][late:][: len(operations)], np.int64)
    wide = np.array(
        [(value ^ 1 << 47) - (1 << 47) for value in seen["wide"][late + wide_wait :]], np.int64
    )[: len(operations)]
    columns = {
        field: np.array([operation[field] for operation in operations], np.int64)
        for field in FIELDS
    }
    expected_y, expected_wide = lane.model(**columns)
    for got, expected in ((y, expected_y), (wide, expected_wide)):
        bad = np.flatnonzero(got != expected)
        assert not len(bad), f"{operations[bad[0]]}: got {got[bad[0]]}, expected {expected[bad[0]]}"
    return y, wide


def operation(**fields: int) -> dict[str, int]:
    return {
        "acc": 0,
        "multiplier": 0,
        "bias": 0,
        "shift": SHIFT_MIN,
        "low": 0,
        "high": 255,
        "residual": 0,
        "n": 0,
    } | fields


@pytest.mark.parametrize("shift", range(SHIFT_MIN, SHIFT_MAX + 1))
def test_every_boundary_of_a_shift(shift: int) -> None:
    # t one below, at and above the first value of each output, half of it coming from acc*M.
    bounds = {1: (0, 15), 2: (3, 11), 3: (0, 255), 4: (128, 128)}
    operations = []
    for low, high in bounds.values():
        for y in sorted({-1, 0, 1, low, low + 1, high, high + 1, 256, 257, -255, -256, -257}):
            for step in (-1, 0, 1):
                t = (y << shift) + step
                acc = max(-(1 << 24), min((1 << 24) - 1, t // 2 // 40503))
                bias = t - acc * 40503
                if -(1 << 47) <= bias < 1 << 47 and -(1 << 47) <= t < 1 << 47:
                    operations.append(
                        operation(
                            acc=acc, multiplier=40503, bias=bias, shift=shift, low=low, high=high
                        )
                    )
    assert len(operations) >= 12
    y, _ = run(operations)
    assert {0, 3, 128} <= set(y.tolist())
    assert shift >= 44 or {11, 15} <= set(y.tolist())  # beyond, t would need more than 48 bits


@pytest.mark.parametrize("shift", range(SHIFT_MIN, SHIFT_MAX + 1))
def test_residual_reaches_the_rounding_boundary(shift: int, seed: int) -> None:
    # The residual term and the rest of t meet exactly at, one below and one above y << S.
    rng = np.random.default_rng(seed + shift)
    operations = []
    for residual, n in [
        (255, 65535),
        (255, 1),
        (1, 65535),
        (128, 16384),
        *rng.integers(0, (256, 65536), (20, 2)).tolist(),
    ]:
        term = residual * n << shift - SHIFT_MIN
        for y in (0, 1, 15, 16, 255, 256):
            for step in (-1, 0, 1):
                bias = (y << shift) + step - term
                if -(1 << 47) <= bias < 1 << 47:
                    operations.append(operation(bias=bias, shift=shift, residual=residual, n=n))
    assert len(operations) > 9
    run(operations)


def test_extremes() -> None:
    # Every corner whose acc*M + B fits 48 bits; t with a residual may be beyond them.
    operations = [
        operation(
            acc=acc,
            multiplier=multiplier,
            bias=bias,
            shift=shift,
            low=low,
            high=high,
            residual=residual,
            n=n,
        )
        for acc in (-(1 << 24), -1, 0, 1, (1 << 24) - 1)
        for multiplier in (0, 1, 32768, 65535)
        for bias in (-(1 << 47), -1, 0, (1 << 47) - 1)
        for shift in (SHIFT_MIN, 31, SHIFT_MAX)
        for low, high in ((0, 255), (0, 15), (255, 255), (0, 0))
        for residual, n in ((0, 0), (255, 65535))
        if -(1 << 47) <= acc * multiplier + bias < 1 << 47
    ]
    _, wide = run(operations)
    assert wide.max() == (1 << 47) - 1 and wide.min() == -(1 << 47)


def test_random(seed: int) -> None:
    rng = np.random.default_rng(seed)
    operations = []
    for _ in range(3000):
        shift = int(rng.integers(SHIFT_MIN, SHIFT_MAX + 1))
        acc = int(rng.integers(-(1 << 24), 1 << 24)) >> int(rng.integers(0, 20))
        multiplier = int(rng.integers(32768, 65536))
        # A bias that brings y near the range of the clamp, where something can go wrong.
        target = int(rng.integers(-20, 280) << shift) + int(rng.integers(0, 1 << shift))
        bias = target - acc * multiplier
        bias = max(-(1 << 46), min((1 << 46) - 1, bias))
        low, high = sorted(rng.integers(0, 256, 2).tolist())
        operations.append(
            operation(
                acc=acc,
                multiplier=multiplier,
                bias=bias,
                shift=shift,
                low=low,
                high=high,
                residual=int(rng.integers(0, 256)),
                n=int(rng.integers(0, 65536)),
            )
        )
    y, _ = run(operations)
    inside = [
        fields["low"] < value < fields["high"]
        for fields, value in zip(operations, y.tolist(), strict=True)
    ]
    assert sum(inside) > 200  # or the biases no longer bring anything between the clamps


def test_every_residual_product() -> None:
    # y is bits 14 and up of r*n; the bias moves each byte of the product there.
    operations = [
        operation(residual=residual, n=n, bias=-((residual * n >> 14) - 77 << 14))
        for residual in range(256)
        for n in (1, 255, 16384, 40503, 65535)
    ]
    y, _ = run(operations)
    assert set(y.tolist()) == {77}


def test_wide_has_no_residual() -> None:
    fields = operation(acc=-3, multiplier=40000, bias=1 << 40, shift=20, residual=255, n=65535)
    _, wide = run([fields])
    assert wide[0] == accumulate(-3, 40000, 1 << 40, 20) == (1 << 40) - 120000


def test_products_have_negative_multipliers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    operations = [
        operation(
            acc=int(rng.integers(256)),
            multiplier=int(rng.integers(-255, 256)) << 8,
            bias=int(rng.integers(-(1 << 26), 1 << 26)),
            shift=int(rng.integers(SHIFT_MIN, 23)),
            residual=int(rng.integers(256)),
            n=int(rng.integers(65536)),
        )
        for _ in range(2000)
    ]
    y, _ = run(operations, products=True, wide_wait=2)
    assert len(set(y.tolist())) > 200
