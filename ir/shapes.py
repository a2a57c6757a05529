# SPDX-License-Identifier: Apache-2.0
"""Shape of what a node computes, and what windows, weights and sums must be for it."""

import numpy as np

from ir import numerics
from ir.arrays import GraphError, LayerArrays
from ir.nodes import (
    MAX_BORDER,
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Linear,
    MaxPool,
    Mul,
    Node,
    TensorSpec,
    Upsample,
    Window,
    WindowPool,
)
from ir.numerics import Scheme

#: Nodes with one input, and maybe a residual operand or a factor.
Single = Conv | Linear | MaxPool | AvgPool | WindowPool | Mul | Flatten | DepthToSpace | Upsample
#: Of these, what has the codes of its input.
KEEPS_CODES = MaxPool | Flatten | DepthToSpace | Upsample


def output_shape(
    node: Single, source: TensorSpec, layers: dict[str, LayerArrays], most: int
) -> tuple[int, int, int]:
    """Shape of what a ``node`` computes of codes up to ``most``; raises GraphError for windows,
    groups and weights that do not go with its input, and for sums beyond the accumulator."""
    channels, height, width = source.shape
    if isinstance(node, Flatten):
        return channels * height * width, 1, 1
    if isinstance(node, Mul):
        return source.shape
    if isinstance(node, DepthToSpace | Upsample):
        down, across = node.block
        phases, more = 1, (0, 0)
        if isinstance(node, DepthToSpace):
            phases, more = down * across, (-node.crop[0], -node.crop[1])
            sides = [(0, down - 1), (0, across - 1)]
            given = node.crop
        else:
            more = 2 * node.border[0], 2 * node.border[1]
            sides, given = [(0, MAX_BORDER)] * 2, node.border
        inside = all(low <= n <= high for n, (low, high) in zip(given, sides, strict=True))
        if min(node.block) < 1 or channels % phases or not inside:
            raise GraphError(
                f"node {node.name!r} makes blocks of {node.block} of {channels} channels, with "
                f"{given} pixels at the border"
            )
        return channels // phases, height * down + more[0], width * across + more[1]
    if isinstance(node, Linear):
        rows = _check_layer(node, source, (channels * height * width,), layers, most)
        if (height, width) != (1, 1):
            raise GraphError(
                f"linear {node.name!r} needs a flat input, {node.input!r} is {source.shape}"
            )
        return rows, 1, 1
    if isinstance(node, WindowPool):
        _check_windows(node, source, most)
        return channels, len(node.rows), len(node.columns)
    pads = (0, 0, 0, 0) if isinstance(node, AvgPool) else node.padding
    if min(*node.kernel, *node.stride) < 1 or min(pads) < 0:
        raise GraphError(
            f"node {node.name!r} has kernel {node.kernel}, stride {node.stride}, padding {pads}"
        )
    rows, columns = (
        _window(size, node.kernel[i], node.stride[i], pads[2 * i], pads[2 * i + 1])
        for i, size in enumerate((height, width))
    )
    if isinstance(node, Conv):
        if node.groups < 1 or channels % node.groups:
            raise GraphError(f"conv {node.name!r}: {channels} channels in {node.groups} groups")
        channels = _check_layer(node, source, (channels // node.groups, *node.kernel), layers, most)
        if channels % node.groups:
            raise GraphError(f"conv {node.name!r}: {channels} rows in {node.groups} groups")
    elif isinstance(node, AvgPool):
        _check_acc(node, node.kernel[0] * node.kernel[1] * most)
    return channels, rows, columns


def _window(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    return (size + before + after - kernel) // stride + 1


def is_maximum(node: Single) -> bool:
    return isinstance(node, WindowPool) and not node.mean


def _check_windows(node: WindowPool, source: TensorSpec, most: int) -> None:
    def holds(window: Window, size: int) -> bool:
        least = 0 if node.mean else 1
        return least <= window.size <= window.count and window.last <= size

    for windows, size in ((node.rows, source.shape[1]), (node.columns, source.shape[2])):
        if not all(holds(window, size) for window in windows):
            raise GraphError(f"node {node.name!r} has a window that is not in {source.shape}")
    if node.mean:
        areas = [row.count * column.count for row in node.rows for column in node.columns]
        _check_acc(node, max(areas) * most)


def _check_acc(node: Node, most: int) -> None:
    if most >= 1 << numerics.ACC_BITS - 1:
        raise GraphError(
            f"node {node.name!r} can reach {most}, the accumulator has {numerics.ACC_BITS} bits"
        )


def _check_layer(
    node: Conv | Linear,
    source: TensorSpec,
    row_shape: tuple[int, ...],
    layers: dict[str, LayerArrays],
    most: int,
) -> int:
    """Check arrays and value ranges of a layer; returns its rows."""
    layer = layers.get(node.name)
    if layer is None:
        raise GraphError(f"layer {node.name!r} has no weights")
    rows = len(layer.values)
    if not rows or layer.values.shape[1:] != row_shape:
        raise GraphError(
            f"layer {node.name!r} has {rows} rows of {layer.values.shape[1:]}, "
            f"its input needs {row_shape}"
        )
    per_row = (layer.scheme, layer.multiplier, layer.bias, layer.shift)
    if any(array.shape != (rows,) for array in per_row):
        raise GraphError(f"layer {node.name!r}: one M, B, S and scheme per row are needed")
    if not np.isin(layer.scheme, list(Scheme)).all():
        raise GraphError(f"layer {node.name!r} has an unknown scheme number")
    for scheme in Scheme:
        of_scheme = layer.rows[layer.scheme == scheme]
        if not np.isin(of_scheme, numerics.weight_values(scheme)).all():
            raise GraphError(f"layer {node.name!r} has a weight value outside {scheme.name}")
    low, high = numerics.acc_bounds(layer.rows, most)
    _check_acc(node, max(-low.min(), high.max()))
    ranges = (
        ("multiplier", 0, (1 << numerics.MULTIPLIER_BITS) - 1),
        ("shift", numerics.SHIFT_MIN, numerics.SHIFT_MAX),
        ("bias", -numerics.BIAS_LIMIT, numerics.BIAS_LIMIT - 1),
    )
    for field, least, most in ranges:
        array = getattr(layer, field)
        if array.min() < least or array.max() > most:
            raise GraphError(f"layer {node.name!r} has a {field} outside {least}..{most}")
    return rows
