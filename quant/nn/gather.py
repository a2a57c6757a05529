# SPDX-License-Identifier: Apache-2.0
"""Channels of one or more tensors in any order: what concatenation, split and shuffle come to."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Gather(nn.Module):
    """Channels of tensors (N, C, H, W) or (N, C), to (N, O, H', W') or (N, O).

    Parameters
    ----------
    picks : of each output channel its number among the channels of all inputs, one input after the
        other; -1 for zeros
    stride : of the pixels that are taken, from the first one on
    """

    index: Tensor

    def __init__(self, picks: Sequence[int], stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.picks, self.stride = tuple(picks), stride
        self.register_buffer("index", torch.tensor(self.picks), persistent=False)

    def extra_repr(self) -> str:
        """Number of channels, and the stride."""
        return f"{len(self.picks)} channels, stride={self.stride}"

    def forward(self, *inputs: Tensor) -> Tensor:
        """Chosen channels of ``inputs``, which have one height and width."""
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
        if x.dim() == 4:
            x = x[:, :, :: self.stride[0], :: self.stride[1]]
        if self.picks == tuple(range(x.shape[1])):
            return x
        if -1 not in self.picks:
            return x[:, self.index]
        return torch.cat([x, torch.zeros_like(x[:, :1])], 1)[:, self.index]
