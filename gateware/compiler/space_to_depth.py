# SPDX-License-Identifier: Apache-2.0
"""Space-to-depth for images of few channels: neighbouring pixels become channels of one word.

A word has k channels; an image of three would leave most of its lanes without work. So the host
stores, at each position of a grid, a patch of pixels as channels, and the convolution is rewritten
to read that. Per axis a patch is one pixel (as it is), as many as the stride (each pixel once, the
kernel shrinks by the stride) or as many as the kernel (pixels repeat, the kernel shrinks to one).
"""

import dataclasses
import itertools
import math

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.compiler.layout import MAX_GROUPS, TensorLayout


@dataclasses.dataclass(frozen=True)
class Axis:
    """Patches along an axis: position i of ``size`` holds the pixels ``origin + i * step`` to
    ``... + patch - 1``."""

    patch: int
    step: int
    origin: int
    size: int

    def pixels(self) -> np.ndarray:
        """Indices (size, patch), int64, into the image, which may lie outside."""
        return self.origin + np.arange(self.size)[:, None] * self.step + np.arange(self.patch)


@dataclasses.dataclass(frozen=True)
class SpaceToDepth:
    """Rearrangement that the host makes of an image before it stores it: patches become channels.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of the image.
    y, x : Axis
        Patches along the axes.
    zero_point : int
        Code of pixels outside the image.
    border : tuple of int
        Codes of each channel's own for them, or ().
    """

    shape: tuple[int, int, int]
    y: Axis
    x: Axis
    zero_point: int
    _: dataclasses.KW_ONLY
    border: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, fields: dict) -> "SpaceToDepth":
        """Arrangement from what ``dataclasses.asdict`` and JSON made of it."""
        return cls(
            tuple(fields["shape"]),
            Axis(**fields["y"]),
            Axis(**fields["x"]),
            fields["zero_point"],
            border=tuple(fields["border"]),
        )

    def gather(self, image: np.ndarray) -> np.ndarray:
        """Tensor (patch_y * patch_x * C, size_y, size_x) of an integer image (C, H, W)."""
        ys, xs = self.y.pixels(), self.x.pixels()
        inside = ((ys >= 0) & (ys < image.shape[1]))[:, :, None, None] & (
            (xs >= 0) & (xs < image.shape[2])
        )[None, None]
        found = image[:, ys.clip(0, image.shape[1] - 1)][:, :, :, xs.clip(0, image.shape[2] - 1)]
        outside = np.reshape(self.border or self.zero_point, (-1, 1, 1, 1, 1))
        found = np.where(inside, found, outside)  # C, size_y, patch_y, size_x, patch_x
        return found.transpose(2, 4, 0, 1, 3).reshape(-1, self.y.size, self.x.size)


def identity(shape: tuple[int, int, int], zero_point: int) -> SpaceToDepth:
    """Arrangement that leaves the image as it is."""
    return SpaceToDepth(shape, Axis(1, 1, 0, shape[1]), Axis(1, 1, 0, shape[2]), zero_point)


@dataclasses.dataclass(frozen=True)
class _Choice:
    """One axis of a rewritten convolution; ``taps[kernel position, pixel of the patch]`` is the
    tap of the original kernel, or -1."""

    axis: Axis
    taps: np.ndarray
    stride: int
    padding: int

    def stored(self, out: int) -> "_Choice":
        """The same for ``out`` results, with the padding in the tensor that is stored."""
        size = (out - 1) * self.stride + len(self.taps)
        origin = self.axis.origin - self.padding * self.axis.step
        return _Choice(
            dataclasses.replace(self.axis, origin=origin, size=size), self.taps, self.stride, 0
        )


def _choices(size: int, kernel: int, stride: int, padding: int, out: int) -> list[_Choice]:
    found = [_Choice(Axis(1, 1, 0, size), np.arange(kernel)[:, None], stride, padding)]
    if stride > 1:
        before = -(-padding // stride)
        after = (kernel - 1 - padding) // stride
        taps = np.arange(-before, after + 1)[:, None] * stride + np.arange(stride) + padding
        taps = np.where((taps >= 0) & (taps < kernel), taps, -1)
        found.append(_Choice(Axis(stride, stride, 0, -(-size // stride)), taps, 1, before))
    if kernel > 1:
        found.append(_Choice(Axis(kernel, stride, -padding, out), np.arange(kernel)[None], 1, 0))
    return found


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """Convolution on patches.

    The other fields are those of :class:`~gateware.compiler.operations.Gemm`.
    """

    space_to_depth: SpaceToDepth
    values: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]


def rewrite(
    values: np.ndarray,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    source: TensorLayout,
    target: TensorLayout,
    config: AccelConfig,
    border: tuple[int, ...] = (),
    whole: bool = True,
) -> Rewritten:
    """Cheapest form of a first convolution: cycles of the array plus those of the load.

    A tensor that has to be ``whole`` in the activation buffer takes half of it at most.

    ``values`` is (rows, C, kernel_y, kernel_x); ``padding`` is top, bottom, left, right. Codes of a
    ``border`` are stored, because the array pads all channels with one code.
    """
    rows, channels, *kernel = values.shape
    along_y, along_x = (
        _choices(size, kernel[axis], stride[axis], padding[2 * axis], out)
        for axis, (size, out) in enumerate(
            ((source.height, target.height), (source.width, target.width))
        )
    )
    if border:
        along_y = [choice.stored(target.height) for choice in along_y]
        along_x = [choice.stored(target.width) for choice in along_x]
    y, x = min(
        itertools.product(along_y, along_x),
        key=lambda way: _cost(way, rows, channels, source, target, config, whole),
    )
    taps_y, taps_x = y.taps[:, None, :, None], x.taps[None, :, None, :]
    picked = values[:, :, taps_y, taps_x]  # rows, C, kernel_y, kernel_x, patch_y, patch_x
    picked = np.where((taps_y >= 0) & (taps_x >= 0), picked, 0).transpose(0, 4, 5, 1, 2, 3)
    return Rewritten(
        SpaceToDepth(
            (channels, source.height, source.width),
            y.axis,
            x.axis,
            source.zero_point,
            border=border,
        ),
        picked.reshape(rows, -1, len(y.taps), len(x.taps)),
        (y.stride, x.stride),
        (y.padding, 0, x.padding, 0),
    )


def _cost(
    way: tuple[_Choice, _Choice],
    rows: int,
    channels: int,
    source: TensorLayout,
    target: TensorLayout,
    config: AccelConfig,
    whole: bool,
) -> tuple[float, int]:
    """Cycles, and what decides where they are equal: words of the kernel; of the tensor where no
    form fits."""
    y, x = way
    groups = -(-channels * y.axis.patch * x.axis.patch // config.k)
    words = len(y.taps) * len(x.taps) * groups
    stored = dataclasses.replace(
        source, channels=groups * config.k, height=y.axis.size, width=x.axis.size
    )
    if (
        words > config.weight_depth
        or groups * source.planes > MAX_GROUPS
        or (whole and stored.words > config.act_depth // 2)
    ):
        return math.inf, stored.words
    tiles = -(-rows // config.rows)
    drain = -(-min(rows, config.rows) // config.requant_lanes) * config.pixels * target.planes
    array = (
        tiles
        * target.height
        * -(-target.width // config.pixels)
        * max(words * source.planes, drain)
    )
    return array + y.axis.size * x.axis.size * groups * source.planes, words
