# SPDX-License-Identifier: Apache-2.0
"""Borders of the image with a code of each channel's own, which the host stores around it.

The array pads all channels with one code. Layers with less padding than others get zeros around
their kernels, so that all read the same stored image.
"""

import dataclasses

import numpy as np

from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import CompileError, Gemm, Pool, TensorKey, operands
from gateware.compiler.space_to_depth import Axis, SpaceToDepth


def store_border(
    operations: list,
    forms: dict[TensorKey, TensorLayout],
    image: TensorKey,
    border: tuple[int, ...],
) -> SpaceToDepth:
    """Arrangement of the image with its border; its readers in ``operations`` and its form change,
    in place.

    Raises CompileError for a reader that is no layer.
    """
    form, readers = forms[image], [_layer(o, image) for o in operations if image in operands(o)]
    top, left = (max(reader.padding[side] for reader in readers) for side in (0, 2))
    bottom, right = (
        max(0, *(_missing(reader, forms[reader.target], form, axis) for reader in readers))
        for axis in (0, 1)
    )
    for index, operation in enumerate(operations):
        if image in operands(operation):
            operations[index] = _widened(_layer(operation, image), top, left)
    y = Axis(1, 1, -top, top + form.height + bottom)
    x = Axis(1, 1, -left, left + form.width + right)
    forms[image] = dataclasses.replace(form, height=y.size, width=x.size)
    return SpaceToDepth(form.shape, y, x, form.zero_point, border=border)


def _layer(reader: Gemm | Pool, image: TensorKey) -> Gemm:
    if not isinstance(reader, Gemm) or reader.residual == image:
        raise CompileError(
            f"layer {reader.name!r} reads the image, whose border is not its zero point"
        )
    return reader


def _missing(gemm: Gemm, target: TensorLayout, source: TensorLayout, axis: int) -> int:
    """Rows or columns behind the image that ``gemm`` reads."""
    out, size = ((target.height, source.height), (target.width, source.width))[axis]
    reached = (out - 1) * gemm.stride[axis] + gemm.kernel[axis] - gemm.padding[2 * axis]
    return reached - size


def _widened(gemm: Gemm, top: int, left: int) -> Gemm:
    """``gemm`` without padding, for an image with ``top`` rows and ``left`` columns before it."""
    zeros = (top - gemm.padding[0], 0), (left - gemm.padding[2], 0)
    values = np.pad(gemm.values, ((0, 0), (0, 0), *zeros))
    return dataclasses.replace(gemm, values=values, padding=(0, 0, 0, 0))
