# SPDX-License-Identifier: Apache-2.0
"""Networks of one dimension: the captured graph computes them, and they run down to the program."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.constructs import Fn, chain
from quant.capture.trace import capture


def _residual(s: Fn, x: Tensor) -> Tensor:
    y = F.max_pool1d(F.relu(s.b(s.a(x))), 2)
    z = F.relu(y + s.c(y))
    z = torch.cat([z, F.relu(s.d(z))], 1)
    left, right = z.chunk(2, 1)
    return s.e((left + right).mean(-1))


NETS = {
    "residual": lambda: Fn(
        _residual,
        a=nn.Conv1d(3, 16, 5, 2, 2),
        b=nn.BatchNorm1d(16),
        c=nn.Conv1d(16, 16, 3, padding="same"),
        d=nn.Conv1d(16, 8, 1),
        e=nn.Linear(12, 5),
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv1d(3, 16, 9, 4, 4),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3, 1, 1, groups=16),
        nn.SiLU(),
        nn.AvgPool1d(2),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(80, 6),
    ),
    "a line as result": lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 4, 1)),
    "enlarged": lambda: nn.Sequential(
        nn.Conv1d(3, 8, 3),
        nn.Upsample(scale_factor=2),
        nn.Conv1d(8, 4, 3),
        nn.Upsample(scale_factor=2, mode="linear"),
        nn.Conv1d(4, 4, 3),
        nn.Flatten(),
    ),
    "dilated and transposed": lambda: nn.Sequential(
        nn.Conv1d(3, 8, 3, dilation=2, padding=2),
        nn.ReLU(),
        nn.ConvTranspose1d(8, 8, 2, 2),
        nn.ReLU(),
        nn.MaxPool1d(3, 2, 1, ceil_mode=True),
        nn.AdaptiveMaxPool1d(3),
        nn.Flatten(),
        nn.Linear(24, 4),
        nn.Softmax(1),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_the_network(name, seed):
    torch.manual_seed(seed)
    net, x = NETS[name]().eval(), torch.rand(3, 3, 40)
    flat = capture(net, x)
    torch.testing.assert_close(flat(x), net(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(flat(x[:1]), net(x[:1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_integers_down_to_the_program(name, seed):
    graph = chain(NETS[name], (3, 40), seed=seed)
    assert graph.input.shape == (3, 1, 40)
