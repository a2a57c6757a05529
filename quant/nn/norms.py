# SPDX-License-Identifier: Apache-2.0
"""Batch-norm whose statistics stay as they are, in training, too."""

from typing import Self

from torch import nn


class _Frozen(nn.Module):
    """Mixin of a module that is always in evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Does nothing for ``mode``: what the user's model froze stays frozen."""
        return super().train(False)


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d):
    """Batch-norm of (N, C) with fixed statistics."""


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):
    """Batch-norm of (N, C, H, W) with fixed statistics."""
