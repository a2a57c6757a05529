# SPDX-License-Identifier: Apache-2.0
"""Convolutions with weights that nobody trains, exact in every scheme."""

from typing import Self

import torch
from torch import Tensor, nn

from quant.nn.layers import CopyLayer
from quant.nn.quantizers import denominators


class FixedConv2d(CopyLayer):
    """Convolution with given weights, whose ratios are powers of two, mostly a depthwise one."""

    @classmethod
    def of_weights(cls, weight: Tensor, channels: int, stride: tuple[int, int] = (1, 1)) -> Self:
        """Layer of ``weight`` (O, 1, ky, kx) over so many channels, O a multiple of them, or of
        ``weight`` (O, C, ky, kx) that sums over all of them."""
        layer = nn.Conv2d(
            channels,
            len(weight),
            (weight.shape[2], weight.shape[3]),
            stride,
            groups=channels // weight.shape[1],
            bias=False,
            device="meta",
        )
        layer.weight = nn.Parameter(weight)
        made = cls.from_float(layer).requires_grad_(False)
        made._leave_room()
        return made

    @classmethod
    def smoothing(cls, channels: int, block: tuple[int, int]) -> Self:
        """Layer that interpolates linearly between pixels that were repeated ``block`` times."""
        y, x = map(_triangle, block)
        return cls.of_weights((y[:, None] * x).expand(channels, 1, -1, -1).contiguous(), channels)

    @classmethod
    def phases(cls, channels: int, side: int) -> Self:
        """The pixels of each square of ``side`` as channels (c, dy, dx) of one."""
        weight = torch.eye(side * side).view(-1, 1, side, side).repeat(channels, 1, 1, 1)
        return cls.of_weights(weight, channels, (side, side))

    @classmethod
    def mixing(cls, channels: int, factor: float) -> Self:
        """One channel, ``factor`` times the sum of all."""
        return cls.of_weights(torch.full((1, channels, 1, 1), factor), channels)

    @classmethod
    def crop(cls, channels: int, *, first: tuple[int, int], kernel: tuple[int, int]) -> Self:
        """The pixel ``first`` of each window of ``kernel``: a map without its border."""
        weight = torch.zeros(channels, 1, *kernel)
        weight[:, :, first[0], first[1]] = 1
        return cls.of_weights(weight, channels)

    @torch.no_grad()
    def _leave_room(self) -> None:
        """Change of ``alpha``, in place, to where each weight is a value of its row's scheme."""
        rows = self.weight.flatten(1)
        peak = rows.amax(1)
        least = torch.where(rows > 0, rows, peak[:, None]).amin(1)
        ratio = torch.round(peak / least)
        steps = denominators(self.scheme).to(peak)
        self.alpha.copy_(peak * steps / (torch.floor(steps / ratio) * ratio))


def _triangle(size: int) -> Tensor:
    """Weights whose sum is 1: equal ones, or with halves at the ends, so that they are odd."""
    if size % 2:
        return torch.full((size,), 1 / size)
    weights = torch.full((size + 1,), 1 / size)
    weights[0] = weights[-1] = 1 / (2 * size)
    return weights
