# SPDX-License-Identifier: Apache-2.0
"""The numeric contract against Python's own integers and fractions, exhaustively where possible."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ir import numerics
from ir.numerics import BIAS_BITS, MULTIPLIER_BITS, SHIFT_MAX, SHIFT_MIN, Scheme

schemes = pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.name)
quick = settings(deadline=None, max_examples=100)

UNUSED = {Scheme.POT4: 0b1000, Scheme.FIXED4: 0b1000, Scheme.FIXED8: 0b1000_0000}


def used_codes(scheme: Scheme) -> np.ndarray:
    codes = np.arange(1 << scheme.bits)
    return codes[codes != UNUSED[scheme]]


# Weight sets and codes


def test_fixed_sets_are_equation_1():
    for scheme, m in ((Scheme.FIXED4, 4), (Scheme.FIXED8, 8)):
        top = 2 ** (m - 1) - 1
        levels = {sign * Fraction(k, top) for k in range(top + 1) for sign in (1, -1)}
        assert [
            Fraction(int(v), scheme.denominator) for v in numerics.weight_values(scheme)
        ] == sorted(levels)


def test_pot_set_is_equation_4():
    top = 2 ** (4 - 1) - 2
    levels = {Fraction(0)} | {sign * Fraction(1, 2**e) for e in range(top + 1) for sign in (1, -1)}
    assert [Fraction(int(v), 64) for v in numerics.weight_values(Scheme.POT4)] == sorted(levels)


@schemes
def test_every_code(scheme):
    codes = used_codes(scheme)
    values = numerics.decode_weights(scheme, codes)
    assert sorted(values.tolist()) == numerics.weight_values(scheme).tolist()
    again = numerics.encode_weights(scheme, values)
    assert again.dtype == np.uint8
    assert np.array_equal(again, codes)


def test_layout_of_the_codes():
    for code in used_codes(Scheme.POT4).tolist():
        sign, exponent = -1 if code & 8 else 1, code & 7
        expected = sign * 2 ** (exponent - 1) if exponent else 0
        assert numerics.decode_weights(Scheme.POT4, code) == expected
    for scheme in (Scheme.FIXED4, Scheme.FIXED8):
        for code in used_codes(scheme).tolist():
            negative = code >> scheme.bits - 1
            expected = code - negative * 2**scheme.bits
            assert numerics.decode_weights(scheme, code) == expected


@schemes
def test_invalid_codes_are_refused(scheme):
    for code in (UNUSED[scheme], 1 << scheme.bits, -1):
        with pytest.raises(ValueError, match=f"not a {scheme.name} weight code"):
            numerics.decode_weights(scheme, [0, code, 1])


@schemes
def test_invalid_values_are_refused(scheme):
    allowed = set(numerics.weight_values(scheme).tolist())
    for value in [v for v in range(-300, 301) if v not in allowed] + [0.5, -1.5, 2**40]:
        with pytest.raises(ValueError, match=f"^{value} is not a {scheme.name} weight value$"):
            numerics.encode_weights(scheme, [0, value, 1])


@schemes
@pytest.mark.parametrize("bits", [4, 8])
def test_every_code_times_every_activation(scheme, bits):
    """What an engine computes from the code, once directly and once by two nibble planes."""
    activations = np.arange(numerics.act_max(bits) + 1)
    assert len(activations) == 2**bits
    low, high = activations & numerics.NIBBLE_MAX, activations >> numerics.ACT_BITS
    for code in used_codes(scheme).tolist():
        value = int(numerics.decode_weights(scheme, code))

        def engine(a, code=code):
            if scheme is Scheme.POT4:
                exponent = code & 7
                magnitude = np.where(exponent > 0, a << max(exponent - 1, 0), 0)
                return -magnitude if code & 8 else magnitude
            top = code >> scheme.bits - 1
            rest = code & ((1 << scheme.bits - 1) - 1)
            return a * rest - (a * top << scheme.bits - 1)

        expected = [value * a for a in range(2**bits)]
        assert engine(activations).tolist() == expected
        assert (16 * engine(high) + engine(low)).tolist() == expected


# Nearest levels


def exact_midpoints(scheme: Scheme) -> list[Fraction]:
    values = numerics.weight_values(scheme).tolist()
    return [Fraction(a + b, 2 * scheme.denominator) for a, b in itertools.pairwise(values)]


def nearest(scheme: Scheme, v: float) -> int:
    """Index of the level nearest to ``v``, of two the lower, without a rounding error."""
    over, under = float(v).as_integer_ratio()
    target = over * scheme.denominator
    distances = [abs(w * under - target) for w in numerics.weight_values(scheme).tolist()]
    return distances.index(min(distances))


@schemes
def test_thresholds_are_the_midpoints_rounded_down(scheme):
    table = numerics.thresholds(scheme)
    assert table.dtype == np.float32
    assert len(table) == len(numerics.weight_values(scheme)) - 1
    for threshold, midpoint in zip(table, exact_midpoints(scheme), strict=True):
        above = np.nextafter(threshold, np.float32(2))
        assert Fraction(float(threshold)) <= midpoint < Fraction(float(above))


def probes(scheme: Scheme) -> np.ndarray:
    """Every threshold and level with its neighbours to two ulps, and the far outside."""
    centres = np.concatenate(
        [
            numerics.thresholds(scheme),
            (numerics.weight_values(scheme) / scheme.denominator).astype(np.float32),
        ]
    )
    points, up, down = [centres], centres, centres
    for _ in range(2):
        up, down = np.nextafter(up, np.float32(9)), np.nextafter(down, np.float32(-9))
        points += [up, down]
    return np.concatenate([*points, np.array([-1e30, -2, -0.0, 0.0, 2, 1e30], np.float32)])


@schemes
def test_numpy_and_torch_give_the_nearest_level_around_every_threshold(scheme):
    points, table = probes(scheme), numerics.thresholds(scheme)
    expected = [nearest(scheme, v) for v in points]
    by_torch = torch.bucketize(torch.from_numpy(points), torch.from_numpy(table))
    assert np.searchsorted(table, points).tolist() == expected
    assert by_torch.tolist() == expected
    values = numerics.quantise_weights(points, np.float32(1), scheme)
    assert values.tolist() == numerics.weight_values(scheme)[expected].tolist()


@quick
@given(st.sampled_from(Scheme), st.floats(-1.25, 1.25, width=32))
def test_any_weight_goes_to_the_nearest_level(scheme, v):
    expected = numerics.weight_values(scheme)[nearest(scheme, v)]
    assert numerics.quantise_weights(np.float32(v), np.float32(1), scheme) == expected


@schemes
def test_quantisation_mirrors_the_sign_except_at_exact_midpoints(scheme):
    points = probes(scheme)
    midpoints = set(exact_midpoints(scheme))
    points = points[[Fraction(float(v)) not in midpoints for v in points]]
    one = np.float32(1)
    assert np.array_equal(
        numerics.quantise_weights(-points, one, scheme),
        -numerics.quantise_weights(points, one, scheme),
    )


@schemes
def test_each_row_has_its_own_scale(scheme):
    values = numerics.weight_values(scheme)
    alpha = np.array([[0.25], [1.0], [3.0]], np.float32)
    weight = alpha * (values / scheme.denominator).astype(np.float32)
    assert np.array_equal(numerics.quantise_weights(weight, alpha, scheme), np.stack([values] * 3))


# Why the projections are not computed as printed


def equation_2(w: float, m: int = 4) -> Fraction:
    h = Fraction(w) / 2 + Fraction(1, 2)
    return 2 * Fraction(round((2**m - 1) * h), 2**m - 1) - 1


def equation_5(w: float, m: int = 4) -> float:
    h = w / 2 + 0.5
    return 2 * 2.0 ** round(math.log2(h)) - 1 if h > 2.0 ** (-(2**m) + 1) else -1.0


def test_equation_2_as_printed_has_16_levels_and_no_zero():
    levels = {equation_2(k / 1000) for k in range(-1000, 1001)}
    assert len(levels) == 16
    assert 0 not in levels
    assert levels != {Fraction(k, 7) for k in range(-7, 8)}


def test_equation_5_as_printed_breaks_sign_symmetry():
    positive = {equation_5(k / 10000) for k in range(1, 10001)}
    negative = {equation_5(-k / 10000) for k in range(1, 10001)}
    assert positive == {0.0, 1.0}
    assert len(negative) > 8
    of_equation_4 = {v / 64 for v in numerics.weight_values(Scheme.POT4).tolist()}
    assert not negative <= of_equation_4


def test_rounding_in_the_log_domain_is_another_quantiser(seed):
    v = np.random.default_rng(seed).normal(0, 1 / 3, 20000).clip(-1, 1)
    magnitude = np.maximum(np.abs(v), 2.0**-20)
    exponent = np.maximum(np.round(np.log2(magnitude)), -7)
    logarithmic = np.where(exponent < -6, 0, np.sign(v) * 64 * 2.0**exponent)
    ours = numerics.quantise_weights(v, np.float32(1), Scheme.POT4)
    assert 0.08 < (logarithmic != ours).mean() < 0.10


# Activations


@quick
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1),
    st.floats(2.0**-10, 16, width=32),
    st.sampled_from([4, 8]),
    st.data(),
)
def test_activations_numpy_equals_torch(x, scale, bits, data):
    zero_point = data.draw(st.integers(0, numerics.act_max(bits)))
    x = np.array(x, np.float32)
    steps = torch.floor(torch.from_numpy(x) / scale + 0.5) + zero_point
    expected = torch.clamp(steps, 0, numerics.act_max(bits)).to(torch.int64)
    got = numerics.quantise_activations(x, scale, zero_point, bits)
    assert got.dtype == np.int64
    assert got.tolist() == expected.tolist()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero_point", [0, 5])
@pytest.mark.parametrize("scale", [1.0, 0.125, 0.1])
def test_activation_ties_round_up(bits, zero_point, scale):
    top = numerics.act_max(bits)
    ties = (np.arange(-2 * top, 2 * top) + np.float32(0.5)) * np.float32(scale)
    ties = ties.astype(np.float32)
    got = numerics.quantise_activations(ties, scale, zero_point, bits)
    torched = torch.clamp(torch.floor(torch.from_numpy(ties) / scale + 0.5) + zero_point, 0, top)
    assert got.tolist() == torched.to(torch.int64).tolist()
    if scale != 0.1:  # these ties are exact
        assert got.tolist() == [
            min(max(k + 1 + zero_point, 0), top) for k in range(-2 * top, 2 * top)
        ]


@schemes
@quick
@given(data=st.data())
def test_acc_bounds_are_reached_and_never_exceeded(scheme, data):
    bits = data.draw(st.sampled_from([4, 8]))
    top = numerics.act_max(bits)
    row = data.draw(
        st.lists(st.sampled_from(numerics.weight_values(scheme).tolist()), min_size=1, max_size=20)
    )
    low, high = (int(bound[0]) for bound in numerics.acc_bounds([row], top))
    assert sum(w * (top if w < 0 else 0) for w in row) == low
    assert sum(w * (top if w > 0 else 0) for w in row) == high
    activations = data.draw(st.lists(st.integers(0, top), min_size=len(row), max_size=len(row)))
    assert low <= sum(w * a for w, a in zip(row, activations, strict=True)) <= high


# Multipliers


@quick
@given(st.floats(0, 4, exclude_max=True))
@example(0.49999999999999994 * 2.0**-45)
@example(5e-324)
@example(2.0**-30)
@example(math.nextafter(2.0**-30, 0))
@example(65535.4 / 2**14)
def test_multiplier_is_the_nearest_and_normalised(real):
    assume(real < 65535.5 / 2**14)
    multiplier, shift = numerics.encode_multiplier(real)
    assert abs(Fraction(real) * 2**shift - multiplier) <= Fraction(1, 2)
    assert 0 <= multiplier < 1 << MULTIPLIER_BITS
    assert SHIFT_MIN <= shift <= SHIFT_MAX
    if real >= 2.0**-30:
        assert multiplier >= 1 << MULTIPLIER_BITS - 1
    elif real:
        assert shift == SHIFT_MAX
    assert isinstance(multiplier, int) and isinstance(shift, int)


@pytest.mark.parametrize("exponent", range(-29, 3))
def test_multiplier_that_rounds_up_to_2_to_the_16_is_renormalised(exponent):
    real = 2.0**exponent * (1 - 2.0**-17)  # 65535.5 at the shift of its binade
    if exponent == 2:
        with pytest.raises(ValueError, match="too large for 16 bits at shift 14"):
            numerics.encode_multiplier(real)
    else:
        assert numerics.encode_multiplier(real) == (1 << 15, 15 - exponent)
        assert numerics.encode_multiplier(math.nextafter(real, 0)) == (65535, 16 - exponent)


def test_multiplier_ends():
    assert numerics.encode_multiplier(0) == (0, SHIFT_MIN)
    assert numerics.encode_multiplier(2.0**-46) == (1, SHIFT_MAX)
    assert numerics.encode_multiplier(math.nextafter(2.0**-46, 0)) == (0, SHIFT_MAX)
    assert numerics.encode_multiplier(65535 / 2**14) == (65535, SHIFT_MIN)
    for real in (4.0, 1e300):
        with pytest.raises(ValueError, match="too large for 16 bits at shift 14"):
            numerics.encode_multiplier(real)
    for real in (-1e-9, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            numerics.encode_multiplier(real)


@quick
@given(st.floats(0, 3.9999))
def test_residual_multiplier_is_the_nearest(real):
    n = numerics.encode_residual(real)
    assert isinstance(n, int)
    assert abs(Fraction(real) * 2**14 - n) <= Fraction(1, 2)


def test_residual_multiplier_ends():
    assert numerics.encode_residual(0) == 0
    assert numerics.encode_residual(1) == 1 << 14
    assert numerics.encode_residual(65535.49 / 2**14) == 65535
    for real in (65535.5 / 2**14, 1e300, -1e-9, float("inf"), float("-inf"), float("nan")):
        with pytest.raises(ValueError, match=r"residual scale ratio .* is outside 0\.\.4"):
            numerics.encode_residual(real)


# Requantisation


def by_fractions(acc, m, b, s, low, high, r=0, n=0) -> int:
    """The formula over rational numbers: floor of the real quotient, then the clamp."""
    t = Fraction(acc * m + b) + Fraction(r * n) * Fraction(2) ** (s - 14)
    return min(max(math.floor(t / 2**s), low), high)


BOUNDARY_CASES = [
    (32768, 15),
    (65535, 14),
    (40000, 20),
    (51234, 24),
    (33333, 31),
    (65535, 45),
    (1, 14),
    (7, 16),
]


@pytest.mark.parametrize(("m", "s"), BOUNDARY_CASES)
@pytest.mark.parametrize("high", [15, 255])
def test_requantise_steps_exactly_where_the_formula_says(m, s, high):
    """The first accumulator of every output, and the one before it; also below and above."""
    for b in (1 << s - 1, 0, -12345, 1 << 20, -(1 << 40)):
        for y in range(-3, high + 4):
            first = -((b - (y << s)) // m)  # smallest acc with acc*m + b >= y << s
            acc = np.array([first - 1, first])
            got = numerics.requantise(acc, m, b, s, 0, high)
            assert first * m + b >= y << s > (first - 1) * m + b
            assert got.tolist() == [by_fractions(int(a), m, b, s, 0, high) for a in acc]
            if 1 <= y <= high:
                assert got[0] < y <= got[1]
                assert got[1] == y or m > 1 << s  # only then an output can be skipped


def test_requantise_clamps_and_rounds_a_tie_up():
    half = 1 << 14
    assert (
        numerics.requantise(np.arange(-2, 19), 1 << 15, half, 15, 2, 12).tolist()
        == np.clip(np.arange(-2, 19), 2, 12).tolist()
    )
    ties = numerics.requantise(np.arange(0, 10), 1 << 14, half, 15, 0, 15)
    assert ties.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]


terms = {
    "acc": st.integers(-(1 << 23), (1 << 23) - 1),
    "m": st.integers(0, (1 << MULTIPLIER_BITS) - 1),
    "b": st.integers(-(1 << BIAS_BITS - 2), (1 << BIAS_BITS - 2) - 1),
    "s": st.integers(SHIFT_MIN, SHIFT_MAX),
    "r": st.integers(0, 255),
    "n": st.integers(0, (1 << numerics.RESIDUAL_BITS) - 1),
}


@quick
@given(**terms)
@example(acc=(1 << 23) - 1, m=65535, b=(1 << 46) - 1, s=45, r=255, n=65535)
@example(acc=-(1 << 23), m=65535, b=-(1 << 46), s=45, r=255, n=65535)
@example(acc=-1, m=1, b=0, s=14, r=0, n=0)
def test_requantise_equals_big_integers(acc, m, b, s, r, n):
    t = acc * m + b + r * n * 2 ** (s - 14)
    assert int(numerics.accumulate(acc, m, b, s, r, n)) == t
    for low, high in ((0, 15), (3, 15), (0, 255), (-(1 << 60), 1 << 60)):
        got = int(numerics.requantise(acc, m, b, s, low, high, r, n))
        assert got == min(max(t // 2**s, low), high) == by_fractions(acc, m, b, s, low, high, r, n)


@quick
@given(**terms)
def test_hardware_may_shift_twice(acc, m, b, s, r, n):
    wide = acc * m + b
    assert -(1 << BIAS_BITS - 1) <= wide < 1 << BIAS_BITS - 1
    y = (wide >> (s - SHIFT_MIN)) + r * n >> SHIFT_MIN
    assert y == int(numerics.requantise(acc, m, b, s, -(1 << 60), 1 << 60, r, n))


def test_requantise_broadcasts_rows_against_pixels(seed):
    rng = np.random.default_rng(seed)
    acc, residual = rng.integers(-9999, 9999, (3, 4)), rng.integers(0, 256, (3, 4))
    m, b, s = rng.integers(2**15, 2**16, (3, 1)), rng.integers(0, 999, (3, 1)), [[20], [22], [14]]
    got = numerics.requantise(acc, m, b, s, 0, 15, residual, 77)
    expected = [
        [
            by_fractions(
                *(int(v) for v in (acc[i, j], m[i, 0], b[i, 0], s[i][0])),
                0,
                15,
                int(residual[i, j]),
                77,
            )
            for j in range(4)
        ]
        for i in range(3)
    ]
    assert got.tolist() == expected
