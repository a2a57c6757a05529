# SPDX-License-Identifier: Apache-2.0
"""Zeros around a map, in front of whatever does not pad itself, run to the bit.

Mirrors no module: it is about prepare's copies of padded maps.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.constructs import Fn, cbr, chain, head
from gateware.arch.config import AccelConfig
from ir.ratio import Ratio
from quant.lowering.prepare import calibrate, prepare
from quant.nn.layers import CopyLayer, float_mode

SHAPE = (3, 6, 6)
LARGE = AccelConfig.from_ratio(Ratio(65, 30, 5), 32, pixels=4, requant_lanes=4, act_depth=1024)


def pad(x: Tensor) -> Tensor:
    return F.pad(x, (1, 0, 2, 1))


READERS: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "nothing": lambda s, x: pad(s.c(x)),
    "average": lambda s, x: s.h(F.avg_pool2d(pad(s.c(x)), 3, 2)),
    "flatten": lambda s, x: s.w(pad(s.c(x)).flatten(1)),
    "maximum of signed codes": lambda s, x: s.h(F.max_pool2d(pad(s.d(s.c(x))), 3)),
    "addition": lambda s, x: s.h(F.relu(pad(s.c(x)) + s.e(pad(s.c(x))))),
    "batch-norm": lambda s, x: s.h(F.relu(s.b(pad(s.c(x))))),
    "convolution and a result": lambda s, x: (lambda y: (y, s.e(y)))(pad(s.c(x))),
    "the image's": lambda s, x: s.h(F.relu(s.n(pad(x)))),
}


def network(name: str) -> nn.Module:
    return Fn(
        READERS[name],
        b=nn.BatchNorm2d(8),
        c=cbr(3, 8),
        d=nn.Conv2d(8, 8, 1),
        e=nn.Conv2d(8, 8, 3, padding=1),
        h=head(8),
        n=nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1)),
        w=nn.Linear(8 * 9 * 7, 4),
    )


@pytest.mark.parametrize("name", READERS)
def test_zeros_in_front_of(name: str, seed: int) -> None:
    chain(lambda: network(name), SHAPE, seed=seed)


@pytest.mark.parametrize("name", ["average", "nothing"])
def test_zeros_on_another_array(name: str, seed: int) -> None:
    chain(lambda: network(name), SHAPE, LARGE, seed)


@pytest.mark.parametrize("name", READERS)
def test_copies_change_nothing(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    net, images = network(name).eval(), torch.rand(4, *SHAPE)
    model = prepare(net, images)
    calibrate(model, images)
    assert any(isinstance(m, CopyLayer) for m in model.modules())
    with float_mode(model), torch.no_grad():
        torch.testing.assert_close(model(images), net(images), rtol=1e-4, atol=1e-5)


def test_a_convolution_pads_by_itself() -> None:
    net = Fn(lambda s, x: s.h(s.d(pad(s.c(x)))), c=cbr(3, 8), d=cbr(8, 8), h=head(8))
    assert not any(isinstance(m, CopyLayer) for m in prepare(net, torch.rand(2, *SHAPE)).modules())
