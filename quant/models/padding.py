# SPDX-License-Identifier: Apache-2.0
"""Convolutions padded as PyTorch's networks pad, and as TensorFlow's."""

import torch.nn.functional as F
from torch import Tensor, nn

TF_EPSILON = 1e-3  #: of batch-norm in networks that were trained in TensorFlow


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's padding "SAME": zeros that divide the size by the stride.

    An odd number of zeros has one more below and on the right, so an even image whose size is
    halved has none above and on the left, where PyTorch's networks have them.
    """

    def forward(self, input: Tensor) -> Tensor:
        sides = []
        for size, kernel, stride in zip(
            input.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            zeros = max(kernel - (size % stride or stride), 0)
            sides += [zeros // 2, zeros - zeros // 2]
        return super().forward(F.pad(input, sides))


def conv(
    channels: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, tf: bool = False
) -> nn.Conv2d:
    """Convolution without bias that keeps the size, but for the stride; ``tf`` pads as "SAME"."""
    if tf and stride > 1:
        return SameConv2d(channels, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


def norm(channels: int, *, tf: bool = False) -> nn.BatchNorm2d:
    """Batch-norm, with TensorFlow's epsilon for its networks."""
    return nn.BatchNorm2d(channels, eps=TF_EPSILON) if tf else nn.BatchNorm2d(channels)
