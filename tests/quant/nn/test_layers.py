# SPDX-License-Identifier: Apache-2.0
"""Layers with row-wise quantised weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ir import numerics
from ir.numerics import Scheme
from quant.lowering.prepare import prepare
from quant.models import build
from quant.nn import layers, quantizers
from quant.nn.apot import APOT4
from quant.nn.layers import QuantConv2d, QuantLinear, quantised_layers, training_only
from quant.nn.scales import MIN_SCALE, clamp_scales_


@pytest.fixture
def prepared(seed) -> nn.Module:
    torch.manual_seed(seed)
    return prepare(build("tiny", shape=(1, 8, 8), classes=10, width=4), torch.rand(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("layer", "kind", "shape"),
    [
        (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), QuantConv2d, (2, 6, 5, 5)),
        (nn.Linear(6, 4), QuantLinear, (2, 6)),
    ],
)
def test_layer_computes_with_its_fake_quantised_weights(layer, kind, shape, seed) -> None:
    torch.manual_seed(seed)
    x, before = torch.randn(shape), layer.weight.detach().clone()
    quantised = kind.from_float(layer)
    quantised.assign(torch.tensor([0, 1, 2, APOT4], dtype=torch.uint8))
    factor = quantised.alpha.detach() / quantizers.denominators(quantised.scheme)
    weight = (quantised.to_int().flatten(1) * factor[:, None]).view_as(before)
    expected = kind.from_float(layer)
    expected.quantise = False
    assert torch.equal(expected(x), layer(x))
    expected.weight.data.copy_(weight)
    torch.testing.assert_close(quantised(x), expected(x))
    assert torch.equal(layer.weight, before) and not torch.equal(weight, before)


def test_autocast_quantises_the_same_weights(seed) -> None:
    torch.manual_seed(seed)
    layer, x = QuantLinear.from_float(nn.Linear(20, 4)), torch.randn(3, 20)
    layer.assign(torch.tensor([0, 1, 2, APOT4], dtype=torch.uint8))
    weight = layer.effective_weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.effective_weight, weight)
        out = layer(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, F.linear(x.bfloat16(), weight.bfloat16(), layer.bias.bfloat16()))


def test_assignment_resets_alpha_of_changed_rows_only(seed) -> None:
    torch.manual_seed(seed)
    layer = QuantLinear.from_float(nn.Linear(20, 4))
    with torch.no_grad():
        layer.alpha.fill_(9)
    scheme = torch.tensor([Scheme.FIXED8, Scheme.POT4, Scheme.FIXED8, APOT4], dtype=torch.uint8)
    assert layer.assign(scheme) == 2
    peak = layer.weight[1].abs().max().item()
    best = quantizers.best_alpha(layer.weight[3:], scheme[3:], 1e-6).item()
    assert layer.alpha.tolist() == [9, pytest.approx(peak), 9, pytest.approx(best)]
    assert torch.equal(layer.scheme, scheme)
    assert layer.assign(scheme) == 0


def test_layers_for_training_only_are_named(prepared) -> None:
    assert training_only(prepared) == []
    for name in ("layer2.0.conv1", "fc"):
        prepared.get_submodule(name).scheme[1] = APOT4
    assert training_only(prepared) == ["layer2.0.conv1", "fc"]


def test_order_of_layers_is_that_of_the_network(prepared) -> None:
    names = list(quantised_layers(prepared))
    assert len(names) == 10 and names[0] == "conv1" and names[-1] == "fc"


def test_float_mode_ends_with_an_exception(prepared) -> None:
    prepared.train()
    with pytest.raises(KeyError), layers.float_mode(prepared):
        assert not prepared.training and not prepared.conv1.quantise
        raise KeyError
    assert prepared.training and prepared.conv1.quantise


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_scales_are_clamped(prepared, memory_format) -> None:
    prepared.to(memory_format=memory_format)
    layer = prepared.conv1
    with torch.no_grad():
        layer.weight[3] = 0
        layer.alpha.copy_(torch.tensor([-0.5, 100, 0.3, -1]))
        layer.weight[2, 0, 0, 0] = -0.4
        prepared.fc.alpha.fill_(100)
        prepared.relu.clip.fill_(0)
    clamp_scales_(prepared)
    peak = layer.weight.flatten(1).abs().amax(1)
    assert torch.equal(
        layer.alpha,
        torch.stack([peak[0] / 16, 2 * peak[1], torch.tensor(0.3), torch.tensor(MIN_SCALE)]),
    )
    assert torch.equal(prepared.fc.alpha, 2 * prepared.fc.weight.abs().amax(1))
    assert prepared.relu.clip > 0


@pytest.mark.parametrize("scheme", [0, 1, 2, "mixed"])
def test_sums_of_crowded_rows_stay_in_the_accumulator(scheme, seed) -> None:
    """In training nearly, and exactly after :meth:`fit_sums_`; others stay as they are."""
    torch.manual_seed(seed)
    layer = QuantLinear.from_float(nn.Linear(40_000, 6))
    layer.input_most = 255
    schemes = torch.arange(6) % 3 if scheme == "mixed" else torch.full((6,), scheme)
    layer.assign(schemes)
    layer.refresh_alpha()
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    layer.alpha.grad = torch.full_like(layer.alpha, 1.0)
    optimiser.step()

    def reach() -> torch.Tensor:
        values = layer.to_int()
        return 255 * torch.maximum(values.clamp(min=0).sum(1), values.clamp(max=0).sum(1).neg())

    assert reach().max() < 1.25 * numerics.SUM_LIMIT
    layer.fit_sums_()
    assert reach().max() <= numerics.SUM_LIMIT
    assert (layer.to_int() != 0).any(1).all()
    before = layer.alpha.detach().clone()
    layer.fit_sums_()
    assert torch.equal(layer.alpha, before)
    roomy = QuantLinear.from_float(nn.Linear(100, 6))
    roomy.input_most, alpha = 255, roomy.alpha.detach().clone()
    roomy.fit_sums_()
    roomy.clamp_scales_()
    assert torch.equal(roomy.alpha, alpha)
