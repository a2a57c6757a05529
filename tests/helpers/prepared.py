# SPDX-License-Identifier: Apache-2.0
"""Prepared networks with random scales and schemes, and their integer graphs."""

import torch
from torch import nn

from ir.graph import IntGraph
from ir.ratio import Ratio
from quant.lowering.align import align_scales
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.models import build
from quant.nn.layers import quantised_layers

RATIO = Ratio.parse("50:30:20")


def random_model(seed: int, shape: tuple[int, int, int] = (1, 8, 8)) -> nn.Module:
    """A prepared network with random batch-norm, gammas of both signs and one of zero."""
    torch.manual_seed(seed)
    model = build("tiny", shape=shape, classes=5, width=6)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.uniform_(module.bias, -0.5, 1)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.2, 2)
            module.weight.data[0] = 0
            module.weight.data[1:3].abs_().mul_(torch.tensor([-1.0, 1.0]))
    prepared = prepare(model.eval(), torch.rand(2, *shape))
    calibrate(prepared, torch.rand(64, *shape))
    for layer in quantised_layers(prepared).values():
        counts = torch.tensor(RATIO.rows(len(layer.weight), 8))
        layer.assign(torch.repeat_interleave(torch.arange(3), counts).to(torch.uint8))
    align_scales(prepared)
    return prepared.eval()


def lower(model: nn.Module, shape=(1, 8, 8)) -> IntGraph:
    return export(model, torch.rand(1, *shape), name="test", ratio=RATIO, tile_rows=8)
