# SPDX-License-Identifier: Apache-2.0
"""Windows of poolings, as PyTorch places them, and integer maxima and means over them.

PyTorch's windows differ at the border: padding counts for a mean or not, ``ceil_mode`` adds a
window that reaches beyond the padding, and adaptive pools have windows of different sizes.
"""

import functools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import numerics
from ir.nodes import Window

Pool = nn.AvgPool2d | nn.MaxPool2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d


def windows_of(pool: Pool, size: tuple[int, int]) -> tuple[tuple[Window, ...], tuple[Window, ...]]:
    """Windows of the rows and of the columns of a map of ``size``.

    Raises ValueError for a window that lies in the padding alone, and for maxima with dilation.
    """
    if isinstance(pool, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        sizes = [s if o is None else o for s, o in zip(size, pair(pool.output_size), strict=True)]
        rows, columns = (_adaptive(s, o) for s, o in zip(size, sizes, strict=True))
        return rows, columns
    if isinstance(pool, nn.MaxPool2d) and pair(pool.dilation) != (1, 1):
        raise ValueError("the windows of a dilated pooling have gaps")
    counted = (
        isinstance(pool, nn.AvgPool2d) and pool.count_include_pad and pool.divisor_override is None
    )
    rows, columns = (
        _regular(s, k, stride, p, pool.ceil_mode, counted)
        for s, k, stride, p in zip(
            size, pair(pool.kernel_size), pair(pool.stride), pair(pool.padding), strict=True
        )
    )
    if isinstance(pool, nn.AvgPool2d) and pool.divisor_override is not None:
        # The divisor is the same everywhere: as if all windows had the whole kernel.
        kernel = pair(pool.kernel_size)
        rows, columns = (
            tuple(w.model_copy(update={"count": k}) for w in windows)
            for windows, k in zip((rows, columns), kernel, strict=True)
        )
    return rows, columns


def _adaptive(size: int, out: int) -> tuple[Window, ...]:
    found = []
    for i in range(out):
        first, last = i * size // out, -(-(i + 1) * size // out)
        found.append(Window(first=first, last=last, count=last - first))
    return tuple(found)


def _regular(
    size: int, kernel: int, stride: int, padding: int, ceil: bool, counted: bool
) -> tuple[Window, ...]:
    reach = size + 2 * padding - kernel
    out = (-(-reach // stride) if ceil else reach // stride) + 1
    if ceil and (out - 1) * stride >= size + padding:
        out -= 1  # a window must begin in the map or in the padding before it
    found = []
    for i in range(out):
        begin = i * stride - padding
        end = min(begin + kernel, size + padding)
        first, last = max(begin, 0), min(begin + kernel, size)
        if first >= last:
            raise ValueError("it has a window that lies in the padding alone")
        found.append(Window(first=first, last=last, count=end - begin if counted else last - first))
    return tuple(found)


def stride_of(windows: Sequence[Window]) -> int | None:
    """Stride of windows of one size that begin with the map and are not padded, or None."""
    size = windows[0].size
    stride = windows[1].first if len(windows) > 1 else size
    regular = all(
        w.size == w.count == size and w.first == i * stride for i, w in enumerate(windows)
    )
    return stride if regular and size and stride else None


def window_maxima(x: Tensor, rows: Sequence[Window], columns: Sequence[Window]) -> Tensor:
    """Maxima (N, C, rows, columns) of ``x`` (N, C, H, W), in its type."""
    lines = [x[:, :, w.first : w.last].amax(2) for w in rows]
    x = torch.stack(lines, 2)
    return torch.stack([x[:, :, :, w.first : w.last].amax(3) for w in columns], 3)


def window_sums(x: Tensor, rows: Sequence[Window], columns: Sequence[Window]) -> Tensor:
    """Sums (N, C, rows, columns), int64, of integers ``x`` (N, C, H, W)."""
    integral = F.pad(x.to(torch.int64), (1, 0, 1, 0)).cumsum(2).cumsum(3)
    y0, y1, x0, x1 = (
        torch.tensor(ends, device=x.device)
        for windows in (rows, columns)
        for ends in ([w.first for w in windows], [w.last for w in windows])
    )
    below, above = integral[:, :, y1], integral[:, :, y0]
    return below[..., x1] - below[..., x0] - above[..., x1] + above[..., x0]


def window_means(
    x: Tensor,
    rows: Sequence[Window],
    columns: Sequence[Window],
    zero_point: int,
    steps: int,
    high: int,
) -> Tensor:
    """Codes (N, C, rows, columns), int64, of a :class:`ir.nodes.WindowPool` of codes ``x``."""
    constants = _constants(tuple(rows), tuple(columns), steps)
    multiplier, bias, shift, missing = (torch.tensor(c, device=x.device) for c in constants)
    total = window_sums(x, rows, columns) + missing * zero_point
    return ((total * multiplier + bias) >> shift).clamp(0, high)


@functools.cache
def _constants(
    rows: tuple[Window, ...], columns: tuple[Window, ...], steps: int
) -> tuple[list[list[int]], ...]:
    """M, B, S and the number of places that are counted and not there, (rows, columns) each."""
    found: tuple[list[list[int]], ...] = ([], [], [], [])
    for row in rows:
        for values in found:
            values.append([])
        for column in columns:
            count = row.count * column.count
            missing = count - row.size * column.size
            for values, value in zip(
                found, (*numerics.encode_mean(steps, count), missing), strict=True
            ):
                values[-1].append(value)
    return found


def pair(value: int | tuple[int | None, ...] | None) -> tuple[int, int]:
    """Size as PyTorch takes it, which may be one number for both directions, as two."""
    first, last = (value[0], value[-1]) if isinstance(value, tuple) else (value, value)
    return cast(int, first), cast(int, last)  # None is a size of adaptive pools alone
