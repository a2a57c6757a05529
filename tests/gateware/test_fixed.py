# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The bound of the packed lanes and the constructor's checks; the rest is in test_row_engines."""

import pytest

from gateware.pe.fixed import LANE_SHIFT, FixedEngine, max_cascade
from quant.numerics import NIBBLE_MAX, Scheme, weight_values


def lanes_of(total: int) -> tuple[int, int]:
    """The two lanes of a 48-bit sum, as the engine reads them."""
    low = total & (1 << LANE_SHIFT) - 1
    sign = low >> LANE_SHIFT - 1
    return low - (sign << LANE_SHIFT), (total >> LANE_SHIFT) + sign


@pytest.mark.parametrize("scheme, depth", [(Scheme.FIXED4, 4993), (Scheme.FIXED8, 275)])
def test_cascade_bound_is_exact(scheme: Scheme, depth: int) -> None:
    assert max_cascade(scheme) == depth
    low, high = weight_values(scheme)[[0, -1]]
    for weight in (int(low), int(high)):
        for other in (0, NIBBLE_MAX):
            product = weight * ((other << LANE_SHIFT) + NIBBLE_MAX)
            expected = (weight * NIBBLE_MAX * depth, weight * other * depth)
            assert lanes_of(product * depth) == expected
    beyond = int(high) * NIBBLE_MAX * (depth + 1)
    assert lanes_of(beyond) != (beyond, 0)


def test_every_packed_product() -> None:
    for weight in weight_values(Scheme.FIXED8).tolist():
        for a0 in range(NIBBLE_MAX + 1):
            for a1 in range(NIBBLE_MAX + 1):
                assert lanes_of(weight * ((a1 << LANE_SHIFT) + a0)) == (weight * a0, weight * a1)


def test_latency() -> None:
    assert FixedEngine(scheme=Scheme.FIXED4, k=16, pixels=2).latency == 20
    assert FixedEngine(scheme=Scheme.FIXED8, k=16, pixels=2).skewed


def test_init_wrong_scheme() -> None:
    with pytest.raises(ValueError, match=r"scheme must be FIXED4 or FIXED8, not <Scheme.POT4: 0>"):
        FixedEngine(scheme=Scheme.POT4, k=4, pixels=2)


def test_init_odd_pixels() -> None:
    with pytest.raises(ValueError, match=r"pixels must be even, two share a DSP48E1, not 3"):
        FixedEngine(scheme=Scheme.FIXED4, k=4, pixels=3)


def test_init_k_beyond_the_lanes() -> None:
    FixedEngine(scheme=Scheme.FIXED8, k=275, pixels=2)
    with pytest.raises(ValueError, match=r"k must be at most 275 for FIXED8, not 276"):
        FixedEngine(scheme=Scheme.FIXED8, k=276, pixels=2)
