# SPDX-License-Identifier: Apache-2.0
"""The numeric contract: what every integer of this project means.

Torch quantisers, the golden model, the compiler, the Amaranth generators, the test benches and
the tables in ``docs/numerics.md`` all read their numbers from here. Only stdlib and numpy.

Weights (RMSMP, Eq. 1 and Eq. 4): ``w_real = alpha[row] * value / denominator(scheme)`` with
``value`` an integer of :func:`weight_values`. Activations: ``x_real = scale * (a - zero_point)``
with ``a`` an unsigned 4-bit or 8-bit integer. A layer computes the exact dot product ``acc`` of
values and activations and then *requantises* it, see :func:`requantise`.
"""

import enum
import functools
import math

import numpy as np

ACT_BITS = 4  #: bits of one activation nibble, what the array multiplies with
NIBBLE_MAX = (1 << ACT_BITS) - 1  #: largest nibble, 15
MULTIPLIER_BITS = 16  #: M is unsigned and, where the range allows, in [2^15, 2^16)
SHIFT_MIN = 14  #: smallest S; also the fraction bits of the residual multiplier
SHIFT_MAX = 45  #: largest S
RESIDUAL_BITS = 16  #: bits of the unsigned residual multiplier n, N = n * 2^(S-14)
BIAS_BITS = 48  #: acc*M + B is a signed 48-bit integer
BIAS_LIMIT = 1 << BIAS_BITS - 2  #: B lies in [-BIAS_LIMIT, BIAS_LIMIT)
IMAGE_SCALE = 1 / 255  #: step of an 8-bit image, whose real values lie in 0..1
ACC_BITS = 24  #: bits of the largest accumulator, signed
SUM_LIMIT = (1 << ACC_BITS - 1) - 1  #: largest sum of a layer, and least one with a minus
TABLE_BITS = 8  #: of the codes that a table is looked up with, and of its entries
TABLE_SIZE = 1 << TABLE_BITS  #: entries of a table
PRODUCT_SHIFT_MIN = 6  #: smallest shift of a product of two codes
PRODUCT_SHIFT_MAX = 14  #: and the largest
PRODUCT_BIAS_LIMIT = 1 << 24  #: what is added to a product is smaller
_NO_VALUE = 128  #: no scheme has such a weight value


#: An integer, or an int64 array of them.
Integers = int | np.ndarray


class Scheme(enum.IntEnum):
    """Quantisation scheme of one row (filter) of a layer."""

    POT4 = 0  #: sign and power of two: 0, +-1, +-2, ... +-64 (Eq. 4 with m = 4)
    FIXED4 = 1  #: -7..7 (Eq. 1 with m = 4)
    FIXED8 = 2  #: -127..127 (Eq. 1 with m = 8)

    @property
    def bits(self) -> int:
        """Bits of one stored weight code, 4 or 8."""
        return 8 if self is Scheme.FIXED8 else 4

    @property  # int's own is the constant 1
    def denominator(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Value of the largest level: ``level = value / denominator`` lies in [-1, 1]."""
        return {Scheme.POT4: 64, Scheme.FIXED4: 7, Scheme.FIXED8: 127}[self]


def weight_values(scheme: Scheme) -> np.ndarray:
    """Weight values of ``scheme``, ascending, int64: 15 for 4 bits, 255 for 8 bits."""
    if scheme is Scheme.POT4:
        powers = [1 << e for e in range(7)]
        return np.array([-p for p in reversed(powers)] + [0] + powers, dtype=np.int64)
    return np.arange(-scheme.denominator, scheme.denominator + 1, dtype=np.int64)


def thresholds(scheme: Scheme) -> np.ndarray:
    """Decision thresholds between neighbouring levels, float32, ascending, ``len(values) - 1``.

    ``v = w / alpha`` (float32) belongs to level ``i`` when ``t[i-1] < v <= t[i]``, which is what
    ``np.searchsorted(t, v)`` and ``torch.bucketize(v, t)`` both compute. A threshold
    is the largest float32 that is not above the exact midpoint, so this is the projection onto the
    *nearest* level for every float32 ``v`` (the lower one where ``v`` is the midpoint itself).
    Rounding in the log domain instead moves about 9 % of normally distributed POT4 weights.
    """
    values = weight_values(scheme)
    sums, whole = values[1:] + values[:-1], 2 * scheme.denominator
    rounded = (sums / whole).astype(np.float32)
    above = rounded.astype(np.float64) * whole > sums  # exact: 24-bit times 8-bit integers
    return np.where(above, np.nextafter(rounded, np.float32(-2)), rounded)


def quantise_weights(weight: np.ndarray, alpha: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Nearest weight values of ``weight / alpha``, int64, same shape as ``weight``.

    ``alpha`` must broadcast against ``weight``; both are taken as float32, as in training.
    """
    ratio = np.asarray(weight, np.float32) / np.asarray(alpha, np.float32)
    return weight_values(scheme)[np.searchsorted(thresholds(scheme), ratio)]


@functools.cache
def _codes(scheme: Scheme) -> np.ndarray:
    """Code of each weight value at that index, which may be negative, int64; -1 for no value."""
    values, codes = weight_values(scheme), np.full(2 * _NO_VALUE, -1)
    if scheme is Scheme.POT4:
        exponents = np.frexp(np.abs(values))[1]  # 0 for 0, e + 1 for 2^e
        codes[values] = exponents | np.where(values < 0, 8, 0)
    else:
        codes[values] = values & (1 << scheme.bits) - 1
    return codes


def encode_weights(scheme: Scheme, values: np.ndarray) -> np.ndarray:
    """Stored codes (uint8, ``scheme.bits`` wide) of weight values.

    POT4: bit 3 is the sign, bits 2..0 are 0 for zero and ``e + 1`` for ``2^e``. FIXED4 and FIXED8:
    two's complement. Raises ValueError for a value that the scheme does not have.
    """
    values = np.asarray(values)
    whole, most = values.astype(np.int64), scheme.denominator
    inside = (whole == values) & (whole >= -most) & (whole <= most)
    codes = _codes(scheme)[np.where(inside, whole, _NO_VALUE)]
    if (codes < 0).any():
        raise ValueError(f"{values[codes < 0].flat[0]} is not a {scheme.name} weight value")
    return codes.astype(np.uint8)


def decode_weights(scheme: Scheme, codes: np.ndarray) -> np.ndarray:
    """Weight values (int64) of stored codes; raises ValueError for a code that means nothing.

    The unused codes are POT4 ``0b1000`` (minus zero), FIXED4 -8 and FIXED8 -128.
    """
    codes = np.asarray(codes, np.int64)
    unused = 1 << (scheme.bits - 1)
    if ((codes < 0) | (codes >> scheme.bits != 0) | (codes == unused)).any():
        raise ValueError(f"not a {scheme.name} weight code")
    if scheme is Scheme.POT4:
        exponent = codes & 7
        magnitude = np.where(exponent == 0, 0, 1 << np.maximum(exponent - 1, 0))
        return np.where(codes & 8, -magnitude, magnitude)
    return np.where(codes >= unused, codes - 2 * unused, codes)


def act_max(bits: int) -> int:
    """Largest unsigned activation of ``bits`` bits: 15 for 4, 255 for 8."""
    return (1 << bits) - 1


def quantise_activations(x: np.ndarray, scale: float, zero_point: int, bits: int) -> np.ndarray:
    """Codes ``clamp(floor(x / scale + 0.5) + zero_point, 0, 2^bits - 1)``, int64, of ``x``'s shape.

    The division and the addition are float32 operations, as in training.
    """
    steps = np.floor(np.asarray(x, np.float32) / np.float32(scale) + np.float32(0.5))
    return np.clip(steps + zero_point, 0, act_max(bits)).astype(np.int64)


def acc_bounds(values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest dot product of each row with activations in ``0..most``.

    ``values`` is (rows, terms); both results are int64 (rows,) and are reached, hence tight.
    """
    values = np.asarray(values, np.int64)
    return np.minimum(values, 0).sum(1) * most, np.maximum(values, 0).sum(1) * most


def encode_multiplier(real: float) -> tuple[int, int]:
    """``(M, S)`` with ``M / 2^S`` nearest to ``real`` >= 0 and M normalised to 16 bits.

    Below ``2^(15 - SHIFT_MAX)`` M loses bits instead of S growing, down to M = 0. Raises ValueError
    for a negative ``real``, for not-a-number and for ``real`` too large for S = SHIFT_MIN.
    """
    if not 0 <= real < float("inf"):
        raise ValueError(f"multiplier must be finite and not negative, not {real!r}")
    if real == 0:
        return 0, SHIFT_MIN
    shift = min(MULTIPLIER_BITS - math.frexp(real)[1], SHIFT_MAX)
    multiplier = round_scaled(real, shift)
    if multiplier >> MULTIPLIER_BITS:  # rounded up to 2^16: renormalise
        multiplier, shift = multiplier >> 1, shift - 1
    if shift < SHIFT_MIN:
        raise ValueError(
            f"multiplier {real!r} is too large for {MULTIPLIER_BITS} bits at shift {SHIFT_MIN}"
        )
    return multiplier, shift


def round_scaled(real: float, shift: int) -> int:
    """Integer ``floor(real * 2^shift + 1/2)``, exact; ValueError unless ``real`` is finite."""
    if not math.isfinite(real):
        raise ValueError(f"{real!r} is not finite")
    scaled = math.ldexp(real, shift)
    whole = math.floor(scaled)
    return whole + (scaled - whole >= 0.5)


def encode_row(factor: float, offset: float) -> tuple[int, int, int]:
    """``(M, B, S)`` with ``(acc*M + B) >> S`` nearest to ``factor * acc + offset``.

    A row with a factor near zero would have a shift at which B does not fit; M loses bits instead.
    Raises ValueError as :func:`encode_multiplier` does, and for an offset that does not fit B.
    """
    multiplier, shift = encode_multiplier(factor)
    while shift > SHIFT_MIN:
        if abs(round_scaled(offset + 0.5, shift)) < BIAS_LIMIT:
            break
        shift -= 1
        multiplier = round_scaled(factor, shift)
    bias = round_scaled(offset, shift) + (1 << (shift - 1))
    if abs(bias) >= BIAS_LIMIT:
        raise ValueError(f"bias of {offset:g} steps does not fit {BIAS_BITS} bits")
    return multiplier, bias, shift


def row_offset(bias: int, shift: int) -> float:
    """Offset that :func:`encode_row` makes ``bias`` of, in steps of the output."""
    return math.ldexp(bias - (1 << shift - 1), -shift)


def encode_mean(steps: int, area: int) -> tuple[int, int, int]:
    """``(M, B, S)`` with ``(total*M + B) >> S`` the nearest integer to ``total * steps / area``.

    M is rounded up, so that halves round up although a third, say, is not exact. Exact for windows
    of up to 14x14 codes of 4 bits and 8x8 of 8 bits; beyond, few totals come out one too large.
    """
    multiplier, shift = encode_multiplier(steps / area)
    multiplier += multiplier * area < steps << shift
    return multiplier, 1 << (shift - 1), shift


def encode_residual(real: float) -> int:
    """Residual multiplier ``n = round(real * 2^14)``; ``real = scale_residual / scale_out``.

    Raises ValueError for a negative ``real``, for not-a-number and when ``n`` does not fit
    RESIDUAL_BITS unsigned bits.
    """
    limit = 1 << RESIDUAL_BITS
    if not 0 <= real < limit or round_scaled(real, SHIFT_MIN) >= limit:
        raise ValueError(f"residual scale ratio {real!r} is outside 0..{limit / 2**SHIFT_MIN:g}")
    return round_scaled(real, SHIFT_MIN)


def map_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape (C, H, W) of the tensor for an input (C,), (C, L) or (C, H, W): a line is one row."""
    channels, *rest = shape
    height, width = (1, *rest)[-2:] if rest else (1, 1)
    return channels, height, width


def accumulate(
    acc: Integers,
    multiplier: Integers,
    bias: Integers,
    shift: Integers,
    residual: Integers = 0,
    n: int = 0,
) -> np.ndarray:
    """``t = acc*M + B + r*N`` with ``N = n * 2^(S-14)``: the raw, exact value before the shift.

    Logits leave the accelerator as this ``t``, a signed integer of BIAS_BITS bits.

    Parameters
    ----------
    acc : dot products, signed, of ACC_BITS bits
    multiplier : M, 0 to 2^16 - 1
    bias : B in [-BIAS_LIMIT, BIAS_LIMIT)
    shift : S, SHIFT_MIN to SHIFT_MAX
    residual : codes r of the residual operand, 0 to 255
    n : of that operand, of RESIDUAL_BITS bits unsigned

    Arrays broadcast; int64 in, int64 out.
    """
    acc, multiplier, bias = (np.asarray(v, np.int64) for v in (acc, multiplier, bias))
    shift, residual = np.asarray(shift, np.int64), np.asarray(residual, np.int64)
    return acc * multiplier + bias + residual * (np.int64(n) << (shift - SHIFT_MIN))


def multiply(
    codes: Integers,
    factors: Integers,
    zero_points: tuple[int, int],
    bias: int,
    shift: int,
    low: int,
    high: int,
) -> np.ndarray:
    """Product ``y = clamp(((a - z_a) * (f - z_f) + bias) >> shift, low, high)`` of two codes.

    Parameters
    ----------
    codes, factors : a and f, 0 to 255
    zero_points : z_a and z_f
    bias : with the rounding constant, of less than PRODUCT_BIAS_LIMIT either way
    shift : PRODUCT_SHIFT_MIN to PRODUCT_SHIFT_MAX
    low, high : codes, 0 to 255

    Arrays broadcast; gives int64.
    """
    a, f = np.asarray(codes, np.int64), np.asarray(factors, np.int64)
    return np.clip((a - zero_points[0]) * (f - zero_points[1]) + bias >> shift, low, high)


def requantise(
    acc: Integers,
    multiplier: Integers,
    bias: Integers,
    shift: Integers,
    low: int,
    high: int,
    residual: Integers = 0,
    n: int = 0,
) -> np.ndarray:
    """``y = clamp(t >> S, low, high)``, the one formula of requantisation; ``>>`` is arithmetic.

    ``t``, its arguments and their ranges are those of :func:`accumulate`; ``low`` and ``high`` are
    codes, 0 to 15 or 255. Gives int64.

    ``bias`` already holds the rounding constant ``2^(S-1)`` and every zero-point term; ReLU is
    ``low`` equal to the output's zero point. Because r*N is a multiple of ``2^(S-14)``, hardware
    may shift ``acc*M + B`` right by S-14 first, add ``r*n`` and shift by 14: the same integer.
    """
    t = accumulate(acc, multiplier, bias, shift, residual, n)
    return np.clip(t >> np.asarray(shift, np.int64), low, high)
