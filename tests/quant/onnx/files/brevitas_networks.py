# SPDX-License-Identifier: Apache-2.0
"""Networks of Brevitas as QONNX files, with what Brevitas computes: made once, kept beside.

python brevitas_networks.py 1      by this seed; brevitas 0.13.4, onnxoptimizer 0.4, torch 2.13
"""

import sys
import warnings
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.export import export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFloatMinMaxInit,
    Int8WeightPerChannelFloat,
    Uint8ActPerTensorFloatMaxInit,
)
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
WEIGHTS = {"weight_quant": Int8WeightPerChannelFloat, "bias": False}


def relu() -> nn.Module:
    return qnn.QuantReLU(
        act_quant=Uint8ActPerTensorFloatMaxInit, bit_width=4, max_val=3.0, return_quant_tensor=True
    )


class Plain(nn.Module):
    """A first layer of 8-bit weights, then 4 bits: depthwise, pool, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.image = qnn.QuantIdentity(
            act_quant=Uint8ActPerTensorFloatMaxInit, bit_width=8, max_val=1.0
        )
        self.conv1 = qnn.QuantConv2d(1, 8, 3, padding=1, weight_bit_width=8, **WEIGHTS)
        self.bn1, self.relu1 = nn.BatchNorm2d(8), relu()
        self.conv2 = qnn.QuantConv2d(8, 8, 3, padding=1, groups=8, weight_bit_width=4, **WEIGHTS)
        self.bn2, self.relu2 = nn.BatchNorm2d(8), relu()
        self.fc = qnn.QuantLinear(128, 10, weight_bit_width=4, **WEIGHTS | {"bias": True})

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(self.image(x))))
        x = nn.functional.max_pool2d(self.relu2(self.bn2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


class Residual(nn.Module):
    """A residual block, both of whose operands are rounded before they are added, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = qnn.QuantConv2d(1, 8, 3, padding=1, weight_bit_width=4, **WEIGHTS)
        self.bn1, self.relu1 = nn.BatchNorm2d(8), relu()
        self.conv2 = qnn.QuantConv2d(8, 8, 3, padding=1, weight_bit_width=4, **WEIGHTS)
        self.bn2 = nn.BatchNorm2d(8)
        self.sum = qnn.QuantIdentity(
            act_quant=Int8ActPerTensorFloatMinMaxInit, bit_width=8, min_val=-4.0, max_val=4.0
        )
        self.relu2 = relu()
        self.fc = qnn.QuantLinear(8, 10, weight_bit_width=4, **WEIGHTS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.sum(self.bn2(self.conv2(x))) + self.sum(x))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def main(seed: int) -> None:
    for kind in (Plain, Residual):
        torch.manual_seed(seed)
        model = kind()
        for _ in range(3):
            model(torch.rand(16, 1, 8, 8))  # statistics of batch-norm
        images = torch.randint(256, (16, 1, 8, 8)) / 255
        with torch.no_grad():
            logits = model.eval()(images)
        logits = getattr(logits, "value", logits)
        name = kind.__name__.lower()
        export_qonnx(model, torch.rand(1, 1, 8, 8), HERE / f"{name}.onnx", dynamo=False)
        np.savez_compressed(HERE / f"{name}.npz", images=images.numpy(), logits=logits.numpy())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]))
