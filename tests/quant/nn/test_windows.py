# SPDX-License-Identifier: Apache-2.0
"""Windows as PyTorch places them: its own poolings of integers are the reference."""

import pytest
import torch
from torch import nn

from quant.nn.windows import window_maxima, window_sums, windows_of

SIZES = [(7, 9), (16, 5), (8, 8)]
REGULAR = [
    {"kernel_size": k, "stride": s, "padding": p, "ceil_mode": ceil}
    for k, s, p in [(2, 2, 0), (3, 2, 1), ((3, 4), (2, 3), (1, 2)), (2, 2, 1), (4, 3, 0), (5, 1, 2)]
    for ceil in (False, True)
]


def codes(seed: int, size: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (2, 3, *size), generator=generator)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", REGULAR, ids=str)
def test_maxima(seed, size, options) -> None:
    pool, x = nn.MaxPool2d(**options), codes(seed, size)
    assert torch.equal(window_maxima(x, *windows_of(pool, size)).double(), pool(x.double()))


@pytest.mark.parametrize("counted", [{}, {"count_include_pad": False}, {"divisor_override": 3}])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", REGULAR, ids=str)
def test_means(seed, size, options, counted) -> None:
    pool, x = nn.AvgPool2d(**options, **counted), codes(seed, size)
    rows, columns = windows_of(pool, size)
    area = torch.tensor([[float(r.count * c.count) for c in columns] for r in rows]).double()
    if "divisor_override" in counted:
        assert len(area.unique()) == 1  # codes have one step
        area = torch.full_like(area, 3)
    assert torch.equal(window_sums(x, rows, columns) / area, pool(x.double()))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("out", [1, 2, (3, 5), (None, 4), (9, 11)])
def test_adaptive(seed, size, out) -> None:
    x = codes(seed, size)
    largest, mean = nn.AdaptiveMaxPool2d(out), nn.AdaptiveAvgPool2d(out)
    assert torch.equal(window_maxima(x, *windows_of(largest, size)), largest(x.double()).long())
    rows, columns = windows_of(mean, size)
    area = torch.tensor([[r.count * c.count for c in columns] for r in rows])
    torch.testing.assert_close(window_sums(x, rows, columns) / area.double(), mean(x.double()))


def test_dilation_is_refused() -> None:
    with pytest.raises(ValueError, match="dilated"):
        windows_of(nn.MaxPool2d(2, dilation=2), (8, 8))
