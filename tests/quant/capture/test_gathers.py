# SPDX-License-Identifier: Apache-2.0
"""What only moves channels: the captured graph computes the model, and has Gathers for it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bench.constructs import Fn, cbr, chain
from quant.capture.trace import capture
from quant.capture.writer import UnsupportedLayer
from quant.nn.gather import Gather


class Net(nn.Module):
    """Two convolutions of 12 channels, and ``f`` of their results."""

    def __init__(self, f):
        super().__init__()
        self.f = f
        self.a, self.b = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 1)

    def forward(self, x):
        y = self.f(self.a(x), self.b(x))
        return F.max_pool2d(y, 1) if y.dim() == 4 else y  # no view at the end, which is the host's


def _shuffle(x, groups):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def _ghost(x, groups):
    n, c, h, w = x.shape
    return x.reshape(n, c // groups, groups, h, w).permute(0, 2, 1, 3, 4).flatten(1, 2)


CASES = {
    "cat": lambda a, b: torch.cat([a, b], 1),
    "cat along a negative axis": lambda a, b: torch.cat((b, a), dim=-3),
    "twice the same": lambda a, b: torch.cat([a, b, a], 1),
    "concat": lambda a, b: torch.concat([a, b], 1),
    "chunk": lambda a, b: a.chunk(3, 1)[1] + b.chunk(3, 1)[-1],
    "chunk that leaves less": lambda a, _: a.chunk(5, 1)[-1],
    "split": lambda a, b: torch.cat(list(reversed(a.split(5, 1))), 1) + b,
    "split by sizes": lambda a, _: torch.split(a, [2, 7, 3], dim=1)[1],
    "slice": lambda a, b: a[:, 2:9] + b[:, :7],
    "every other channel": lambda a, _: a[:, 1::2],
    "last channels": lambda a, _: a[:, -5:],
    "narrow": lambda a, _: a.narrow(1, 3, 4),
    "every other pixel": lambda a, _: a[:, :, ::2, ::2],
    "every third line": lambda a, _: a[..., ::3, :],
    "native shuffle": lambda a, _: F.channel_shuffle(a, 3),
    "shuffle by views": lambda a, _: _shuffle(a, 4),
    "shuffle by permute and flatten": lambda a, _: _ghost(a, 3),
    "chosen by numbers": lambda a, _: a[:, [3, 0, 11, -1]],
    "index_select": lambda a, _: torch.index_select(a, 1, torch.tensor([5, 5, 1])),
    "channels of zeros": lambda a, _: F.pad(a, (0, 0, 0, 0, 2, 3)),
    "channels and pixels of zeros": lambda a, _: F.pad(a, (1, 0, 2, 0, 2, 3)),
    "fewer channels by padding": lambda a, _: F.pad(a, (0, 0, 0, 0, -2, -3)),
    "option A": lambda a, b: (
        F.pad(a[:, :, ::2, ::2], (0, 0, 0, 0, 6, 6)) + F.pad(b[:, :, ::2, ::2], (0, 0, 0, 0, 0, 12))
    ),
    "vectors": lambda a, b: torch.cat([a.mean((2, 3)), b.mean((2, 3))], 1),
    "part of a vector": lambda a, _: a.mean((2, 3))[:, 3:7],
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_computes_the_model(name, seed):
    torch.manual_seed(seed)
    net, x = Net(CASES[name]).eval(), torch.rand(3, 3, 9, 7)
    flat = capture(net, x)
    for images in (x, x[:2]):
        torch.testing.assert_close(flat(images), net(images), rtol=0, atol=1e-6)
    assert any(isinstance(module, Gather) for module in flat.modules())


def test_what_changes_nothing_is_no_operation(seed):
    torch.manual_seed(seed)
    flat = capture(Net(lambda a, b: a[:, :12] + b[:, 0:]).eval(), torch.rand(2, 3, 8, 8))
    assert not any(isinstance(module, Gather) for module in flat.modules())


REFUSED = {
    "along height": (lambda a, b: torch.cat([a, b], 2), "only channels can be joined"),
    "of the batch": (lambda a, b: torch.cat([a, b]), "batch cannot be mixed"),
    "hardly anything": (lambda a, _: F.interpolate(a, scale_factor=8)[:, :, 40:], "cuts off 40"),
    "transposed": (lambda a, _: a.transpose(2, 3).relu(), "more than a choice of channels"),
    "parts of the height": (lambda a, _: a.chunk(2, 2)[0], "only channels can be parted"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_by_name(name):
    net, reason = REFUSED[name]
    with pytest.raises(UnsupportedLayer, match=reason):
        capture(Net(net).eval(), torch.rand(2, 3, 8, 8))


CROPS = {
    "above": lambda a, _: a[:, :, 2:],
    "below and right": lambda a, _: a[:, :, :-1, :-3],
    "negative padding": lambda a, _: F.pad(a, (-1, -2, -1, 0)),
    "focus": lambda a, _: torch.cat([a[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1),
    "every third from the second on": lambda a, _: a[:, :, 1::3],
    "shifted": lambda a, _: F.pad(a[..., 1:], (0, 1)),
    "border repeated": lambda a, _: F.pad(a, (1, 1, 2, 2), mode="replicate"),
    "more on one side": lambda a, _: F.pad(a, (3, 0, 1, 2), mode="replicate"),
}


@pytest.mark.parametrize("name", CROPS)
def test_parts_of_a_map(name, seed):
    torch.manual_seed(seed)
    net, x = Net(CROPS[name]).eval(), torch.rand(3, 3, 8, 10)
    torch.testing.assert_close(capture(net, x)(x), net(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CROPS)
def test_parts_of_a_map_down_to_the_program(name, seed):
    f = CROPS[name]
    channels = f(torch.zeros(1, 4, 8, 10), None).shape[1]

    def make() -> nn.Module:
        return Fn(lambda s, x: s.b(f(s.a(x), None)), a=cbr(3, 4), b=nn.Conv2d(channels, 5, 3))

    chain(make, (3, 8, 10), seed=seed)
