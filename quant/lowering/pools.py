# SPDX-License-Identifier: Apache-2.0
"""Poolings and zero padding in the integer graph."""

from torch import nn

from ir import numerics
from ir.graph import AvgPool, MaxPool, TensorSpec, Window, WindowPool
from quant.nn.activations import QuantAvgPool
from quant.nn.windows import pair, stride_of, windows_of

Node = MaxPool | AvgPool | WindowPool


def lower_pool(
    name: str, pool: nn.MaxPool2d | nn.AdaptiveMaxPool2d | QuantAvgPool, source: TensorSpec
) -> tuple[TensorSpec, Node]:
    """Result and node of a pooling that reads ``source``, both called ``name``."""
    if isinstance(pool, QuantAvgPool):
        return _average(name, pool, source)
    channels, height, width = source.shape
    rows, columns = windows_of(pool, (height, width))
    result = source.model_copy(update={"name": name, "shape": (channels, len(rows), len(columns))})
    if isinstance(pool, nn.AdaptiveMaxPool2d):
        node = WindowPool(
            name=name, input=source.name, output=name, mean=False, rows=rows, columns=columns
        )
        return result, node
    kernel, stride, (top, left) = pair(pool.kernel_size), pair(pool.stride), pair(pool.padding)
    bottom, right = top, left
    if pool.ceil_mode:
        bottom = max(0, (len(rows) - 1) * stride[0] + kernel[0] - height - top)
        right = max(0, (len(columns) - 1) * stride[1] + kernel[1] - width - left)
    node = MaxPool(
        name=name,
        input=source.name,
        output=name,
        kernel=kernel,
        stride=stride,
        padding=(top, bottom, left, right),
    )
    return result, node


def _average(name: str, pool: QuantAvgPool, source: TensorSpec) -> tuple[TensorSpec, Node]:
    rows, columns = pool.rows, pool.columns
    shape = (source.shape[0], len(rows), len(columns))
    result = TensorSpec(
        name=name,
        shape=shape,
        bits=8 if pool.bits == 8 else 4,
        scale=pool.scale.item(),
        zero_point=pool.zero_point,
    )
    stride = stride_of(rows), stride_of(columns)
    if stride[0] is None or stride[1] is None:
        node = WindowPool(
            name=name,
            input=source.name,
            output=name,
            mean=True,
            rows=rows,
            columns=columns,
            steps=pool.steps,
            high=pool.high,
        )
        return result, node
    m, b, s = numerics.encode_mean(pool.steps, rows[0].size * columns[0].size)
    node = AvgPool(
        name=name,
        input=source.name,
        output=name,
        kernel=(rows[0].size, columns[0].size),
        stride=(stride[0], stride[1]),
        multiplier=m,
        bias=b,
        shift=s,
        high=pool.high,
    )
    return result, node


def lower_zeros(
    name: str, padding: tuple[int, int, int, int], source: TensorSpec
) -> tuple[TensorSpec, WindowPool]:
    """Tensor with zeros around ``source``: a mean over windows of one pixel, or of none.

    padding : rows above and below, columns left and right
    """
    channels, height, width = source.shape
    top, bottom, left, right = padding
    shape = (channels, top + height + bottom, left + width + right)
    node = WindowPool(
        name=name,
        input=source.name,
        output=name,
        mean=True,
        rows=_pixels(top, height, bottom),
        columns=_pixels(left, width, right),
        high=numerics.act_max(source.bits),
    )
    return source.model_copy(update={"name": name, "shape": shape}), node


def _pixels(before: int, size: int, behind: int) -> tuple[Window, ...]:
    def window(i: int) -> Window:
        inside = 0 <= i < size
        first = i if inside else 0
        return Window(first=first, last=first + inside, count=1)

    return tuple(window(i) for i in range(-before, size + behind))
