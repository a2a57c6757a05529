# SPDX-License-Identifier: Apache-2.0
"""Means, sums and maxima over axes: the captured graph computes them, down to the program."""

import pytest
import torch
from torch import Tensor, nn

from bench.constructs import Fn, cbr, chain, head
from quant.capture.trace import capture
from quant.capture.writer import UnsupportedLayer


def _spatial_attention(s: Fn, x: Tensor) -> Tensor:
    """Of CBAM, as its authors wrote it."""
    y = s.a(x)
    pooled = torch.cat([torch.max(y, 1)[0].unsqueeze(1), torch.mean(y, 1).unsqueeze(1)], 1)
    return s.h(y * torch.sigmoid(s.c(pooled)))


def _net(f, **modules: nn.Module):
    return lambda: Fn(f, a=cbr(3, 8), **modules)


NETS = {
    "spatial attention": _net(_spatial_attention, c=nn.Conv2d(2, 1, 3, padding=1), h=head(8)),
    "grey image": lambda: Fn(lambda s, x: s.b(x.mean(1, keepdim=True)), b=head(1)),
    "sum of the channels": _net(lambda s, x: s.h(s.a(x).sum(1, keepdim=True)), h=head(1)),
    "sum of the map": _net(lambda s, x: s.h(s.a(x).sum((2, 3))), h=nn.Linear(8, 3)),
    "rows": _net(lambda s, x: s.h(s.a(x).mean(2).flatten(1)), h=nn.Linear(64, 3)),
    "one axis after the other": _net(lambda s, x: s.h(s.a(x).mean(-1).amax(-1)), h=nn.Linear(8, 3)),
    "columns kept": _net(lambda s, x: s.h(s.a(x).amax(3, keepdim=True)), h=head(8)),
    "larger of two": _net(
        lambda s, x: s.h(torch.max(s.a(x), s.b(x))), b=nn.Conv2d(3, 8, 3, 1, 1), h=head(8)
    ),
    "smaller of two": _net(
        lambda s, x: s.h(torch.minimum(s.a(x), s.b(x))), b=nn.Conv2d(3, 8, 3, 1, 1), h=head(8)
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_the_network(name, seed):
    torch.manual_seed(seed)
    net, x = NETS[name]().eval(), torch.rand(3, 3, 6, 8)
    flat = capture(net, x)
    for images in (x, x[:1]):
        torch.testing.assert_close(flat(images), net(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_integers_down_to_the_program(name, seed):
    chain(NETS[name], (3, 6, 8), seed=seed)


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda s, x: s.a(x).mean((1, 2, 3)), "over channels alone, or over height and width"),
        (lambda s, x: s.a(x).mean(0, keepdim=True), "over channels, height or width"),
        (lambda s, x: s.a(x).mean(1).relu(), "give keepdim=True"),
        (lambda s, x: s.a(x).mean(2), "give keepdim=True"),
        (lambda s, x: s.a(x).mean(1).mean(2), "over what is left"),
        (lambda s, x: s.a(x).mean(2).contiguous().relu(), "give keepdim=True"),
        (lambda s, x: s.a(x).mean(2).unsqueeze(-1), "give keepdim=True"),
        (lambda s, x: torch.max(s.a(x), 2)[1], "only the values of a maximum"),
    ],
)
def test_the_rest_is_refused_by_name(f, reason):
    with pytest.raises(UnsupportedLayer, match=reason):
        capture(_net(f)().eval(), torch.rand(2, 3, 6, 8))
