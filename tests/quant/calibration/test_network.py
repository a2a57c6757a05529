# SPDX-License-Identifier: Apache-2.0
"""Quantisation without training on every kind of layer, against plain rounding and integers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ir.ratio import Ratio
from quant.assignment.methods import method
from quant.calibration.flow import quantise_without_training, results
from quant.calibration.network import Recipe
from quant.lowering import verify
from quant.lowering.align import align_scales
from quant.lowering.export import export
from quant.lowering.partition import is_hybrid
from quant.lowering.prepare import prepare
from quant.nn.layers import CopyLayer, quantised_layers

RECIPE = Recipe(method=method("rmsmp"), tile_rows=16)


class Mixed(nn.Module):
    """Grouped, depthwise, strided, dilated, transposed; a residual; no batch-norm at some."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16, bias=False)
        self.strided = nn.Conv2d(16, 24, 1, stride=2, bias=False)
        self.up = nn.ConvTranspose2d(24, 16, 2, stride=2)
        self.last = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(x + self.depthwise(F.relu(self.grouped(x))))
        x = F.relu(self.up(F.relu(self.strided(x))))
        return self.last(x.mean((2, 3)))


class Tied(nn.Module):
    """One convolution called twice, and a linear layer with the weights of another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.twice(F.relu(self.twice(x)))).mean((2, 3))
        return self.b(F.relu(self.a(x)))


class Line(nn.Module):
    """A network of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 16, 3, padding=1)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(self.conv(x)).mean(2))


def noise(model: nn.Module, net: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        wanted = net.eval()(x).flatten(1)
    return float((results(model, (x,)) - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize(
    ("build", "shape"), [(Mixed, (3, 8, 8)), (Tied, (3, 8, 8)), (Line, (3, 24))]
)
def test_better_than_rounding_and_exact(build, shape, seed) -> None:
    torch.manual_seed(seed)
    net, images = build(), torch.rand(48, *shape).cumsum(-1)
    images = images / images.amax()
    test = torch.rand(32, *shape).cumsum(-1)
    test = test / test.amax()
    errors = {}
    for compensated in (False, True):
        model = prepare(net, images[:2], act_bits=8)
        recipe = Recipe(method=method("rmsmp"), tile_rows=16, compensate=compensated)
        found = quantise_without_training(model, (images,), recipe)
        errors[compensated] = noise(model, net, test)
    assert errors[True] < 0.7 * errors[False], errors
    owners = {m.alpha for m in quantised_layers(model).values() if not isinstance(m, CopyLayer)}
    assert len(found.layers) == len(owners)
    align_scales(model)
    graph = export(
        model,
        images[:2],
        name="net",
        ratio=Ratio.parse("65:30:5"),
        tile_rows=16,
        class_names=(),
        provenance={},
    )
    pixels = (test[:4] * 255).round().to(torch.uint8)
    logits = verify.verify(graph, pixels.numpy())  # torch's integers are the golden model's
    scale = results(model, (pixels.float() / 255,)).numpy()
    assert np.corrcoef(logits.flatten(), scale.flatten())[0, 1] > 0.9999


def test_rows_get_the_schemes_of_the_ratio_and_the_ends_eight_bits(seed) -> None:
    torch.manual_seed(seed)
    images = torch.rand(12, 3, 8, 8)
    model = prepare(Mixed(), images[:2], act_bits=8, first_last="w8a8")
    recipe = Recipe(method=method("rmsmp"), tile_rows=16, first_last="w8a8")
    done = []
    quantise_without_training(
        model, (images,), recipe, report=lambda count, total: done.append((count, total))
    )
    counts = {
        name: tuple(layer.scheme.bincount(minlength=3).tolist())
        for name, layer in quantised_layers(model).items()
        if not isinstance(layer, CopyLayer)
    }
    assert counts["first"] == (0, 0, 16) and counts["last"] == (0, 0, 5)
    assert counts["grouped"] == counts["depthwise"] == method("rmsmp").ratio.rows(16, 16)
    assert done == [(n, 6) for n in range(1, 7)]


def test_linear_layers_of_a_network_on_the_host(seed) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4)).eval()
    x = torch.randn(64, 6, 16).cumsum(2)
    errors = []
    for compensated in (False, True):
        model = prepare(net, x[:2], act_bits=8, host=True)
        assert is_hybrid(model)
        recipe = Recipe(method=method("fixed4"), tile_rows=16, compensate=compensated)
        quantise_without_training(model, (x,), recipe)
        errors.append(noise(model, net, x[:8]))
    assert errors[1] < 0.7 * errors[0], errors


@pytest.mark.parametrize("rule", ["hessian", "random"])
def test_rules_of_the_paper_and_control(rule, seed) -> None:
    torch.manual_seed(seed)
    images = torch.rand(8, 3, 8, 8)
    model = prepare(Mixed(), images[:2])
    recipe = Recipe(method=method("rmsmp"), tile_rows=16, assign=rule, split="variance")
    quantise_without_training(model, (images,), recipe)
    kept = [layer.scheme.clone() for layer in quantised_layers(model).values()]
    again = prepare(Mixed(), images[:2])
    again.load_state_dict(model.state_dict())
    assert all(map(torch.equal, kept, (m.scheme for m in quantised_layers(again).values())))


def test_one_sample_is_too_few() -> None:
    images = torch.rand(2, 3, 8, 8)
    model = prepare(Mixed(), images)
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        quantise_without_training(model, (images[:1],), RECIPE)
