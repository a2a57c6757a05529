# SPDX-License-Identifier: Apache-2.0
"""Normalisation inside the model becomes part of the first layers, with the exact border."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.constructs import RATIO, Fn, cbr, chain, head
from gateware.arch.config import AccelConfig
from ir import golden
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.models.weights import IMAGENET_MEAN, IMAGENET_STD, normalise
from quant.nn.border import BorderPad
from quant.nn.layers import float_mode

SHAPE = (3, 12, 12)
CODES = (124, 116, 104)  #: nearest to ImageNet's mean
MEAN = torch.tensor(CODES)[:, None, None] / 255  #: so that the border is the mean itself
STD = torch.tensor(IMAGENET_STD)[:, None, None]
LARGE = AccelConfig.from_ratio(RATIO, 32, pixels=4, requant_lanes=4, act_depth=1024)


class Normalize(nn.Module):
    """As torchvision has it."""

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.as_tensor(CODES, dtype=x.dtype, device=x.device) / 255
        std = torch.as_tensor(IMAGENET_STD, dtype=x.dtype, device=x.device)
        return x.clone().sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


def norm(x: Tensor) -> Tensor:
    return (x - MEAN) / STD


def convolutions(forward: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    return Fn(
        forward,
        c=cbr(3, 16, 3, 2, 1),
        d=nn.Conv2d(3, 16, 1, 2, padding=0),
        g=nn.Conv2d(3, 6, 5, padding=2, groups=3),
        n=Normalize(),
        h=head(16),
        k=head(6),
        w=nn.Linear(432, 5),
    )


NETWORKS = {
    "arithmetic": lambda: convolutions(lambda s, x: s.h(s.c(norm(x)))),
    "torchvision": lambda: convolutions(lambda s, x: s.h(s.c(s.n(x)))),
    "scaled": lambda: convolutions(lambda s, x: s.h(s.c((x * 2 - 0.8) * 3))),
    "two readers": lambda: convolutions(lambda s, x: (lambda y: s.h(s.c(y) + s.d(y)))(norm(x))),
    "groups": lambda: convolutions(lambda s, x: s.k(F.relu(s.g(norm(x))))),
    "zeros around": lambda: convolutions(lambda s, x: s.h(s.c(F.pad(norm(x), (0, 1, 2, 0))))),
    "linear": lambda: convolutions(lambda s, x: s.w(norm(x).flatten(1))),
}


def with_statistics(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_network_computes_the_same(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    net, images = with_statistics(NETWORKS[name]()), torch.randint(256, (6, *SHAPE)) / 255
    before = {k: v.clone() for k, v in net.state_dict().items()}
    model = prepare(net, images[:2])
    calibrate(model, images)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    with float_mode(model), torch.no_grad():
        torch.testing.assert_close(model(images), net(images), rtol=1e-4, atol=1e-4)
    graph = export(model, images, name="x", ratio=RATIO, tile_rows=16)
    padded = any(isinstance(m, BorderPad) for m in model.modules())
    assert bool(graph.header.border) == padded == (name != "linear")
    if name not in ("scaled", "linear"):
        assert graph.header.border == CODES
    codes = (images * 255).round().to(torch.int64).numpy()
    logits = golden.logits(graph, codes) * graph.output.scale
    with torch.no_grad():
        fake = model(images).numpy()
    np.testing.assert_allclose(logits, fake, atol=1e-3 * fake.std())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("config", [None, LARGE], ids=["small", "large"])
def test_through_the_emulator(name: str, config: AccelConfig | None, seed: int) -> None:
    chain(NETWORKS[name], SHAPE, config, seed)


def test_checkpoint_of_normalised_images(seed: int) -> None:
    """The border is the mean, to half a code."""
    torch.manual_seed(seed)
    net, images = with_statistics(nn.Sequential(cbr(3, 8), head(8))), torch.rand(4, *SHAPE)
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = net((images - mean) / std)
    normalise(net, IMAGENET_MEAN, IMAGENET_STD)
    model = prepare(net, images)
    calibrate(model, images)
    assert [m.codes for m in model.modules() if isinstance(m, BorderPad)] == [CODES]
    with float_mode(model), torch.no_grad():
        torch.testing.assert_close(model(images), expected, rtol=1e-2, atol=1e-2)


OTHERS = {
    "a pool reads it": lambda s, x: s.h(s.c(F.max_pool2d(norm(x), 2))),
    "the image is read, too": lambda s, x: s.h(s.c(norm(x)) + s.d(x)),
    "a mean that no pixel has": lambda s, x: s.h(s.c(x + 0.5)),
    "black around the image": lambda s, x: s.h(s.c(norm(F.pad(x, (1, 1, 1, 1))))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_layer_of_its_own_where_the_first_cannot_take_it(name: str, seed: int) -> None:
    graph = chain(lambda: convolutions(OTHERS[name]), SHAPE, seed=seed)
    assert not graph.header.border
    if name != "a pool reads it":
        assert graph.tensor(graph.nodes[0].output).bits == 8  # as the image has


def test_batch_norm_on_the_image_keeps_its_bits(seed: int) -> None:
    graph = chain(lambda: nn.Sequential(nn.BatchNorm2d(3), cbr(3, 8), head(8)), SHAPE, seed=seed)
    assert graph.tensor(graph.nodes[0].output).bits == 8


def test_padding_that_stays_black_has_no_border(seed: int) -> None:
    graph = chain(lambda: convolutions(lambda s, x: s.h(s.c(x * 3))), SHAPE, seed=seed)
    assert graph.header.border == ()
