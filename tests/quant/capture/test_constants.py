# SPDX-License-Identifier: Apache-2.0
"""Weights that a model computes of its parameters are those of the moment."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bench.constructs import Fn, chain, head
from quant.capture.trace import capture
from quant.capture.writer import UnsupportedLayer


class Standardised(nn.Conv2d):
    """Convolution with rows of mean 0 and deviation 1, as of BiT."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-5)
        return F.conv2d(x, rows.view_as(self.weight), self.bias, padding=self.padding)


class Blurred(nn.Module):
    """Depthwise convolution with a buffer, as of an anti-aliased network."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = (row[:, None] * row / 16).expand(channels, 1, 3, 3)
        self.register_buffer("kernel", kernel.clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2, padding=1, groups=len(self.kernel))


def _cosine(s: Fn, x: Tensor) -> Tensor:
    return F.linear(s.a(x).relu().mean((2, 3)), F.normalize(s.w.weight))


def _product(s: Fn, x: Tensor) -> Tensor:
    return s.a(x).relu().mean((2, 3)) @ s.w.weight.t() + s.w.bias


def _conv() -> nn.Conv2d:
    return nn.Conv2d(3, 8, 3, padding=1)


NETS = {
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(_conv()), nn.ReLU(), head(8)),
    "spectral norm": lambda: nn.Sequential(
        parametrizations.spectral_norm(_conv()), nn.ReLU(), head(8)
    ),
    "standardised": lambda: nn.Sequential(Standardised(3, 8, 3, padding=1), nn.ReLU(), head(8)),
    "buffer": lambda: nn.Sequential(_conv(), nn.ReLU(), Blurred(8), head(8)),
    "cosine": lambda: Fn(_cosine, a=_conv(), w=nn.Linear(8, 3)),
    "matrix": lambda: Fn(_product, a=_conv(), w=nn.Linear(8, 3)),
    "the model's own": _conv,
}


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_the_network(name, seed):
    torch.manual_seed(seed)
    net, x = NETS[name]().eval(), torch.rand(3, 3, 8, 8)
    flat = capture(net, x)
    torch.testing.assert_close(flat(x), net(x), rtol=0, atol=1e-5)
    assert not any("parametrizations" in key for key in flat.state_dict())


@pytest.mark.parametrize("name", NETS)
def test_integers_down_to_the_program(name, seed):
    chain(NETS[name], (3, 8, 8), seed=seed)


def test_a_line_has_weights_that_are_computed(seed):
    torch.manual_seed(seed)
    conv = parametrizations.weight_norm(nn.Conv1d(3, 4, 3))
    net, x = nn.Sequential(conv, nn.Flatten()).eval(), torch.rand(3, 3, 10)
    torch.testing.assert_close(capture(net, x)(x), net(x), rtol=0, atol=1e-6)


def test_only_what_was_trained_is_trained():
    net = nn.Sequential(parametrizations.weight_norm(_conv()), Blurred(8))
    flat = capture(net, torch.rand(2, 3, 8, 8))
    trained = {name: parameter.requires_grad for name, parameter in flat.named_parameters()}
    assert trained == {"0.conv2d.weight": True, "0.conv2d.bias": True, "1.weight": False}


def test_weights_in_place_are_refused():
    class InPlace(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight.clone().mul_(2), self.bias)

    with pytest.raises(UnsupportedLayer, match="its weights are computed in place"):
        capture(nn.Sequential(InPlace(3, 4, 3)), torch.rand(2, 3, 8, 8))
