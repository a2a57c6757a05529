# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's padding, which a layer of the accelerator has as its own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rmsmp
from ir.graph import Conv
from quant.models.padding import SameConv2d, conv, norm


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "zeros"),
    [
        ((8, 9), (3, 3), (2, 2), (1, 1, 0, 1)),
        ((8, 8), (5, 5), (2, 2), (1, 2, 1, 2)),
        ((7, 8), (1, 3), (2, 3), (0, 1, 0, 0)),
        ((8, 8), (3, 5), (1, 1), (2, 2, 1, 1)),
    ],
)
def test_zeros(seed, size, kernel, stride, zeros) -> None:
    """Left, right, top and bottom."""
    torch.manual_seed(seed)
    layer, x = SameConv2d(2, 3, kernel, stride), torch.rand(2, 2, *size)
    wanted = F.conv2d(F.pad(x, zeros), layer.weight, layer.bias, stride)
    assert torch.equal(layer(x), wanted)
    assert wanted.shape[2:] == tuple(-(-n // s) for n, s in zip(size, stride, strict=True))


def test_layer_of_the_accelerator_pads_itself(seed, tmp_path) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(
        conv(1, 8, 3, 2, tf=True), norm(8, tf=True), nn.ReLU6(), conv(8, 8, 5, 2, 8, tf=True),
        norm(8, tf=True), nn.ReLU6(), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip
    images = torch.rand(8, 1, 8, 8)
    graph = rmsmp.export(rmsmp.quantise(net, images), tmp_path / "a.safetensors", images=images)
    convs = [node for node in graph.nodes if isinstance(node, Conv)]
    assert [node.padding for node in convs] == [(0, 1, 0, 1), (1, 2, 1, 2)]
    assert [node.op for node in graph.nodes[2:]] == ["flatten", "linear"]
