# SPDX-License-Identifier: Apache-2.0
"""Batch-norm, sums, scalars and layers in any place: from PyTorch to the compiled program."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.constructs import RATIO, TILE_ROWS, Fn, cbr, chain, conv_bn, head
from gateware.arch.config import AccelConfig
from quant.assignment.assign import assign
from quant.assignment.methods import method
from quant.assignment.sensitivity import row_scores
from quant.lowering.align import align_scales
from quant.lowering.prepare import calibrate, prepare
from quant.nn.layers import CopyLayer, float_mode, quantised_layers
from tests.helpers.seeds import suite_seed

SHAPE = (3, 10, 10)


def images() -> Tensor:
    """Four images, values in 0..1."""
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(suite_seed()))


class Constants(nn.Module):
    """Parameters and buffers of the model's own in sums and products."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = cbr(3, 16), conv_bn(16, 16), head(16)
        self.gamma, self.scale = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(()))
        self.register_buffer("offset", torch.rand(1, 16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.block(x) * self.gamma.view(1, -1, 1, 1)
        x = F.relu((x + self.offset) * self.scale.exp())
        return self.head(1 - x)


class Tied(nn.Module):
    """Two layers with one weight, and a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = cbr(3, 16), head(16)
        self.one, self.two = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.relu(self.one(self.stem(x))))))


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def around(f: Callable[[nn.Module, Tensor], Tensor], bn: bool = False) -> nn.Module:
    """``head(f(stem))`` with a convolution ``d`` and another ``e`` at hand."""
    block = conv_bn if bn else lambda i, o: nn.Conv2d(i, o, 3, padding=1)
    stem, layers = cbr(3, 16), {"d": block(16, 16), "e": conv_bn(16, 16)}
    return Fn(lambda s, x: s.h(f(s, s.c(x))), c=stem, h=head(16), b=nn.BatchNorm2d(16), **layers)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batch-norms in a row": lambda: nn.Sequential(
        cbr(3, 16), nn.BatchNorm2d(16), nn.BatchNorm2d(16, affine=False), cbr(16, 16), head(16)
    ),
    "batch-norm behind a pool": lambda: nn.Sequential(
        cbr(3, 16), nn.MaxPool2d(2), nn.BatchNorm2d(16), cbr(16, 16), head(16)
    ),
    "batch-norm without gamma": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16, affine=False), nn.ReLU(), head(16)
    ),
    "batch-norm of vectors": lambda: nn.Sequential(
        *(nn.Flatten(), nn.Linear(300, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 16)),
        *(nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4), nn.Dropout(0.1)),
    ),
    "batch-norm in front of the layer": lambda: around(
        lambda s, x: (lambda y: F.relu(s.b(y)) + y)(x + s.d(F.relu(s.b(x))))
    ),
    "dropout before ReLU": lambda: nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.Dropout(0.3), nn.BatchNorm2d(16), nn.Dropout2d(0.3), nn.ReLU()),
        *(cbr(16, 8), head(8)),
    ),
    "average before ReLU": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.AvgPool2d(2), nn.ReLU(), cbr(16, 8), head(8)
    ),
    "average before batch-norm": lambda: nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.AvgPool2d(2), nn.BatchNorm2d(16), nn.ReLU6(), cbr(16, 8)),
        head(8),
    ),
    "one layer for two tensors": lambda: around(
        lambda s, x: F.relu(s.d(x)) + F.relu(s.d(F.relu(s.e(x)))), bn=True
    ),
    "one weight for two layers": Tied,
    "constants": Constants,
    "sum of ReLU and pool": lambda: around(
        lambda s, x: x + F.relu(s.d(x)) + F.max_pool2d(x, 3, 1, 1)
    ),
    "sum with itself": lambda: around(lambda _s, x: x + x),
    "sum of a list": lambda: around(lambda s, x: F.relu(sum([s.d(x), s.e(x), x, s.d(x)]))),
    "sum that is read twice": lambda: around(lambda s, x: (lambda y: F.relu(y) + y)(s.d(x) + x)),
    "differences": lambda: around(lambda s, x: F.relu(x - s.d(x)) - F.relu(s.d(x) - x)),
    "image added": lambda: Fn(
        lambda s, x: s.h(F.relu(s.c(x) + x)),
        c=nn.Conv2d(3, 3, 3, padding=1),
        h=nn.Sequential(cbr(3, 16), head(16)),
    ),
    "image doubled": lambda: nn.Sequential(Fn(lambda _s, x: x + x), cbr(3, 16), head(16)),
    "scalars": lambda: around(lambda _s, x: torch.rsub((x * 0.5 + 1) / 3, 2, alpha=0.5)),
    "in place": lambda: around(lambda s, x: F.relu_(s.d(x).add_(x)).mul_(0.5) + x, bn=True),
    "in place on another name": lambda: around(
        lambda s, x: (lambda y: (F.relu_(y), y)[1] + s.e(y))(s.d(x))
    ),
    "a copy in place": lambda: around(lambda s, x: s.d(x).clone().add_(x) + s.d(x)),
    "twice the same, twice": lambda: around(lambda s, x: (lambda y: y + y)(s.d(x) + s.d(x))),
    "results that nothing reads": lambda: around(
        lambda s, x: (torch.cumsum(x, 1), F.relu6(x).clone().add_(x), s.d(x) - x)[2]
    ),
    "scaled logits": lambda: nn.Sequential(cbr(3, 16), head(16), Scale(0.1)),
}


#: Operations of random networks, of two tensors each: most take the first alone.
OPERATIONS: list[Callable[[nn.Module, Tensor, Tensor], Tensor]] = [
    lambda s, a, _b: s.one(a),
    lambda s, a, _b: s.two(a),
    lambda s, a, _b: s.norm(a),
    lambda _s, a, _b: F.relu(a),
    lambda _s, a, _b: F.relu6(a),
    lambda _s, a, b: a + b,
    lambda _s, a, b: a - b,
    lambda _s, a, _b: a * -2.5 + 0.3,
    lambda s, a, _b: a * s.gain,
    lambda _s, a, _b: 1 - a,
    lambda s, a, _b: F.dropout(a, 0.3, s.training),
    lambda _s, a, _b: F.max_pool2d(F.relu(a), 3, 1, 1),
    lambda _s, a, b: sum([a, b, a]),
    lambda _s, a, b: a.clone().add_(b),
]


class Random(nn.Module):
    """Some of :data:`OPERATIONS` on earlier results, which may be read again."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        c = rng.choice([5, 16, 19])
        self.stem, self.head = nn.Conv2d(3, c, 3, padding=1), head(c)
        self.one, self.two, self.norm = conv_bn(c, c), nn.Conv2d(c, c, 1), nn.BatchNorm2d(c)
        self.norm.running_mean.uniform_(-1, 1)
        nn.init.normal_(self.norm.weight)
        self.gain = nn.Parameter(torch.randn(c, 1, 1))
        self.steps = [
            (rng.choice(OPERATIONS), rng.randrange(1 + i), rng.randrange(1 + i)) for i in range(8)
        ]

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for operation, a, b in self.steps:
            found.append(operation(self, found[a], found[b]))
        return self.head(F.relu(found[-1] + found[-2]))


@pytest.mark.parametrize("index", range(6))
def test_random_network_runs(index, seed) -> None:
    number = 100 * seed + index
    chain(lambda: Random(number), (3, 7, 8), seed=number)
    torch.manual_seed(number)
    model, x = Random(number).eval(), torch.rand(4, 3, 7, 8)
    prepared = prepare(model, x)
    with float_mode(prepared), torch.no_grad():
        assert torch.allclose(prepared(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_network_runs(name, seed) -> None:
    chain(NETWORKS[name], SHAPE, seed=seed)
    wide = AccelConfig.from_ratio(RATIO, 2 * TILE_ROWS, pixels=4, act_depth=1024, tables=True)
    chain(NETWORKS[name], SHAPE, wide, seed=seed + 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_flat_network_computes_what_it_did(name, seed) -> None:
    torch.manual_seed(seed)
    model, x = NETWORKS[name]().eval(), images()
    prepared = prepare(model, x)
    with float_mode(prepared), torch.no_grad():
        assert torch.allclose(prepared(x), model(x), atol=1e-4)
    used = {name.rpartition(".")[0] for name in prepared.state_dict()}
    names = set(model.state_dict())
    assert {n for n in names if n.rpartition(".")[0] in used} <= set(prepared.state_dict())


def test_a_layer_used_twice_is_trained_once(seed) -> None:
    torch.manual_seed(seed)
    prepared = prepare(around(lambda s, x: F.relu(s.e(F.relu(s.e(x))))), images())
    calls = [node.target for node in prepared.graph.nodes if node.target == "e.0"]
    assert calls == ["e.0", "e.0"]
    calibrate(prepared, images())
    prepared.train()(images()).square().mean().backward()
    assert prepared.get_submodule("e.0").weight.grad.abs().sum() > 0
    align_scales(prepared.eval())
    before = {n: v.clone() for n, v in prepared.state_dict().items() if isinstance(v, Tensor)}
    align_scales(prepared)
    for name, value in prepared.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_layers_with_one_weight_have_one_scale_and_scheme(seed) -> None:
    torch.manual_seed(seed)
    prepared = prepare(Tied(), images())
    one, two = prepared.one, prepared.two
    assert one.weight is two.weight and one.alpha is two.alpha and one.bias is not two.bias
    scores = row_scores("hessian", prepared, images())
    rows = assign(prepared, method("rmsmp"), TILE_ROWS, scores)[1]
    assert rows == sum(
        len(m.weight) for m in map(prepared.get_submodule, ("stem.0", "one", "head.2"))
    )
    assert torch.equal(one.scheme, two.scheme) and len(one.scheme.unique()) == 3


@pytest.mark.parametrize("shape", [(5,), (5, 3, 4)])
def test_copies_are_exact(shape, seed) -> None:
    copy = CopyLayer.of_channels(5)
    codes = torch.randint(256, (3, *shape), generator=torch.Generator().manual_seed(seed)) / 255
    for scheme in range(3):
        copy.assign(torch.full((5,), scheme))
        assert torch.equal(copy(codes), codes)
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_copies_have_no_rows_of_their_own(seed) -> None:
    """The last layer is the last that the user knows."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.BatchNorm2d(3), cbr(3, 16), head(16))
    prepared = prepare(model, images(), first_last="w8a8")
    scores = row_scores("random", prepared, images())
    assign(prepared, method("rmsmp"), TILE_ROWS, scores, first_last="w8a8")
    assert set(scores) == {"1.0", "2.2"}
    copies = [m for m in quantised_layers(prepared).values() if isinstance(m, CopyLayer)]
    assert len(copies) == 1 and len(prepared.get_submodule("1.0").scheme.unique()) == 1


def test_residual_operand_of_a_coarse_grid(seed) -> None:
    """A grid that a sum is rounded to is no finer than a quarter of its operand's, in training."""
    torch.manual_seed(seed)
    prepared = prepare(around(lambda s, x: s.d(F.relu(s.e(x) + x) + x)), images())
    calibrate(prepared, images())
    grids = [m for m in prepared.modules() if getattr(m, "residual", ())]
    assert grids
    optimiser = torch.optim.SGD(prepared.parameters(), 0.1)
    for grid in grids:
        grid.clip.data.fill_(1e-3)
    optimiser.step()
    for grid in grids:
        assert grid.residual[0].scale < 4 * grid.scale
