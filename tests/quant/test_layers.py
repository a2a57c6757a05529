# SPDX-License-Identifier: Apache-2.0
"""Quantising layers and the swap that puts them into a model."""

import copy

import pytest
import torch
from torch import nn

from quant import layers
from quant.layers import ActQuantiser, QuantAvgPool, QuantConv2d, QuantLinear
from quant.models.tiny_resnet import TinyResNet
from quant.numerics import Scheme
from quant.prepare import UnsupportedLayer, calibrate, prepare


@pytest.fixture
def model(seed) -> nn.Module:
    torch.manual_seed(seed)
    return TinyResNet(width=4).eval()


def test_names_are_those_of_torchvision(model) -> None:
    names = set(model.state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv2.weight",
            "layer3.0.downsample.0.weight", "layer3.0.downsample.1.weight", "fc.bias"} <= names
    assert names <= set(prepare(model).state_dict())


def test_prepare_swaps_and_leaves_the_model_alone(model) -> None:
    before = copy.deepcopy(model.state_dict())
    prepared = prepare(model)
    kinds = [type(m) for m in prepared.modules()]
    assert kinds.count(QuantConv2d) == 9 and kinds.count(QuantLinear) == 1
    assert kinds.count(ActQuantiser) == 9 and kinds.count(QuantAvgPool) == 1
    assert nn.ReLU not in kinds and nn.Conv2d not in kinds
    with torch.no_grad():
        for parameter in prepared.parameters():
            parameter.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert prepared.avgpool.source is prepared.layer3[0].relu2
    assert prepared.layer2[0].downsample[-1].signed


def test_quantisers_off_is_the_float_model(model) -> None:
    prepared, x = prepare(model), torch.rand(3, 1, 8, 8)
    prepared.train()
    with layers.float_mode(prepared):
        assert not prepared.training
        assert torch.equal(prepared(x), model(x))
    assert prepared.training
    assert not torch.equal(prepared.eval()(x), model(x))


def test_calibration_sets_every_clip_and_turns_quantisers_on(model) -> None:
    prepared, x = prepare(model), torch.rand(64, 1, 8, 8)
    calibrate(prepared, x)
    clips = [m.clip.item() for m in prepared.modules() if isinstance(m, ActQuantiser)]
    assert 1.0 not in clips and min(clips) > 0
    out = prepared.relu(torch.randn(1, 4, 8, 8))
    assert torch.equal(out, prepared.relu.to_int(out) * prepared.relu.scale)


def test_average_pool_keeps_the_sum_where_it_fits(model) -> None:
    prepared = prepare(model).eval()
    codes = torch.randint(16, (5, 3, 2, 2)).float()
    source = prepared.avgpool.source
    pooled = prepared.avgpool(codes * source.scale)
    scale = prepared.avgpool.scale(4)
    assert torch.equal((pooled / scale).round(), codes.sum((2, 3), keepdim=True))
    assert prepared.avgpool.scale(49).item() == pytest.approx(source.scale.item() / 17)


@pytest.mark.parametrize(("layer", "kind"), [
    (nn.GELU(), "GELU"), (nn.Conv2d(1, 1, 3, dilation=2), "Conv2d"),
    (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "Conv2d"),
    (nn.Conv2d(1, 1, 3, padding="same"), "Conv2d"), (nn.AdaptiveAvgPool2d(2), "AdaptiveAvgPool2d"),
    (nn.BatchNorm2d(1, affine=False), "BatchNorm2d"), (nn.MultiheadAttention(2, 1), "Multihead"),
])
def test_unsupported_layer_is_named(layer, kind) -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), layer))
    with pytest.raises(UnsupportedLayer, match=rf"'0\.2' of class {kind}"):
        prepare(model)


def test_subclass_is_not_taken_for_its_parent() -> None:
    class Normalised(nn.Conv2d):
        pass

    with pytest.raises(UnsupportedLayer, match="Normalised"):
        prepare(nn.Sequential(Normalised(1, 1, 1)))


def test_prepared_model_is_refused(model) -> None:
    with pytest.raises(UnsupportedLayer, match="QuantConv2d"):
        prepare(prepare(model))


def test_assignment_resets_alpha_of_changed_rows_only(seed) -> None:
    torch.manual_seed(seed)
    layer = QuantLinear.from_float(nn.Linear(20, 3))
    with torch.no_grad():
        layer.alpha.fill_(9)
    scheme = torch.tensor([Scheme.FIXED8, Scheme.POT4, Scheme.FIXED8], dtype=torch.uint8)
    assert layer.assign(scheme) == 1
    peak = layer.weight[1].abs().max().item()
    assert layer.alpha.tolist() == [9, pytest.approx(peak), 9]
    assert torch.equal(layer.scheme, scheme)


def test_scales_are_kept_sane(model) -> None:
    prepared = prepare(model)
    layer = prepared.conv1
    with torch.no_grad():
        layer.weight[3] = 0
        layer.alpha.copy_(torch.tensor([-0.5, 100, 0.3, -1]))
        layer.weight[2, 0, 0, 0] = 0.4
        prepared.relu.clip.fill_(0)
    layers.keep_scales_sane(prepared)
    peak = layer.weight.flatten(1).abs().amax(1)
    assert torch.equal(layer.alpha, torch.stack([
        peak[0] / 16, 2 * peak[1], torch.tensor(0.3), torch.tensor(layers.MIN_SCALE)]))
    assert prepared.relu.clip > 0
