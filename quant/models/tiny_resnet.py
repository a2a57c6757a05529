# SPDX-License-Identifier: Apache-2.0
"""A small residual network for small images."""

from quant.models.resnet import BasicBlock, TinyResNet

__all__ = ["BasicBlock", "TinyResNet"]
