# SPDX-License-Identifier: Apache-2.0
"""Pixels in blocks: what makes maps larger without a weight. Codes stay codes."""

import torch.nn.functional as F
from torch import Tensor, nn


class DepthToSpace(nn.Module):
    """Channels (dy, dx, c) as pixels: (N, by*bx*C, H, W) to (N, C, by*H, bx*W)."""

    def __init__(self, block: tuple[int, int]) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Map with the pixels of ``x`` in blocks."""
        rows, columns = self.block
        count, _, height, width = x.shape
        phases = x.unflatten(1, (rows, columns, -1)).permute(0, 3, 4, 1, 5, 2)
        return phases.reshape(count, -1, height * rows, width * columns)

    def extra_repr(self) -> str:
        """Size of a block."""
        return f"block={self.block}"


class Repeat(nn.Module):
    """Each pixel ``block`` times, down and across: nearest neighbour; (N, C, H, W).

    ``border`` rows above and below, and columns left and right, repeat the first and last ones.
    """

    def __init__(self, block: tuple[int, int], border: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.block, self.border = block, border

    def forward(self, x: Tensor) -> Tensor:
        """Larger map of the pixels of ``x``."""
        x = x.repeat_interleave(self.block[0], 2).repeat_interleave(self.block[1], 3)
        if not any(self.border):
            return x
        rows, columns = self.border
        return F.pad(x, (columns, columns, rows, rows), "replicate")

    def extra_repr(self) -> str:
        """Size of a block, and of the border."""
        return f"block={self.block}, border={self.border}"


class Spread(nn.Module):
    """Zeros between pixels, ``stride`` apart, and ``more`` rows and columns of them at the end.

    A transposed convolution is a convolution of stride 1 behind this.
    """

    def __init__(self, stride: tuple[int, int], more: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.stride, self.more = stride, more

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, (H - 1) * stride + 1 + more, likewise) of ``x`` (N, C, H, W)."""
        sizes = [
            (size - 1) * stride + 1 + more
            for size, stride, more in zip(x.shape[2:], self.stride, self.more, strict=True)
        ]
        result = x.new_zeros((*x.shape[:2], *sizes))
        ends = [size - more for size, more in zip(sizes, self.more, strict=True)]
        result[:, :, : ends[0] : self.stride[0], : ends[1] : self.stride[1]] = x
        return result

    def extra_repr(self) -> str:
        """Stride, and zeros at the end."""
        return f"stride={self.stride}, more={self.more}"
