# SPDX-License-Identifier: Apache-2.0
"""Lowering: folded batch-norm, encoded rows, and integers that equal the golden model."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from ir import golden, numerics
from ir.arrays import ExportError
from ir.graph import IntGraph
from ir.numerics import Scheme
from quant.lowering import verify
from quant.lowering.align import align_scales
from quant.lowering.fusion import fold_batch_norm
from quant.lowering.prepare import calibrate, prepare
from quant.nn.activations import ActQuantiser, QuantAvgPool
from tests.helpers.graphs import random_graph, random_images, residual_graph
from tests.helpers.prepared import lower, random_model


@pytest.mark.slow
def test_integers_equal_the_golden_model_and_follow_fake_quantisation(seed) -> None:
    model = random_model(seed)
    graph = lower(model)
    images = np.random.default_rng(seed).integers(256, size=(300, 1, 8, 8), dtype=np.uint8)
    logits = verify.verify(graph, images, batch=128)
    np.testing.assert_array_equal(logits, golden.logits(graph, images))
    tensors, compared = golden.run(graph, images), []

    def compare(name: str, quantiser: ActQuantiser, x: torch.Tensor) -> None:
        """No code differs: no sum is at a tie after align_scales."""
        np.testing.assert_array_equal(quantiser.to_int(x).numpy(), tensors[name], name)
        compared.append(name)

    for name, module in model.named_modules():
        if isinstance(module, ActQuantiser):
            module.register_forward_pre_hook(
                lambda quantiser, given, name=name: compare(name, quantiser, *given)
            )
    with torch.no_grad():
        fake = model(torch.from_numpy(images) / 255).double().numpy()
    assert len(compared) == 9
    np.testing.assert_allclose(logits * graph.output.scale, fake, atol=1e-3 * fake.std())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 5, 12)])
def test_other_image_sizes(seed, shape) -> None:
    model = random_model(seed, shape)
    images = np.random.default_rng(seed).integers(256, size=(20, *shape), dtype=np.uint8)
    assert verify.verify(lower(model, shape), images).shape == (20, 5)


def test_every_tensor_is_that_of_the_network(seed) -> None:
    """Integers after the stem are the fake-quantised values, and scales match."""
    model = random_model(seed)
    graph = lower(model)
    images = np.random.default_rng(seed).integers(256, size=(50, 1, 8, 8), dtype=np.uint8)
    tensors = golden.run(graph, images)
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, ActQuantiser | QuantAvgPool):
            module.register_forward_hook(
                lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach().numpy())
            )
    with torch.no_grad():
        model(torch.from_numpy(images) / 255)
    assert len(seen) == 10
    for name, fake in seen.items():
        spec = graph.tensor(name)
        real = (tensors[name] - spec.zero_point) * spec.scale
        assert (np.abs(real - fake) < spec.scale / 2).mean() > 0.9995, name


@pytest.mark.slow
def test_batch_norm_folds_exactly(seed) -> None:
    """The stem in exact fractions, with both signs of gamma, against M, B and S."""
    model = random_model(seed)
    graph = lower(model)
    layer, spec = graph.layers["conv1"], graph.tensor("relu")
    bn, conv = model.bn1, model.conv1
    assert (bn.weight < 0).any() and (bn.weight > 0).any()
    for row in range(6):
        gamma = bn.weight[row].item() / math.sqrt(bn.running_var[row].item() + bn.eps)
        values = numerics.quantise_weights(
            conv.weight[row].detach().numpy(),
            np.float32(conv.alpha[row].item()),
            Scheme(int(conv.scheme[row])),
        )
        np.testing.assert_array_equal(layer.values[row], -values if gamma < 0 else values)
        denominator = Scheme(int(conv.scheme[row])).denominator
        factor = abs(gamma) * conv.alpha[row].item() / denominator / 255 / spec.scale
        offset = (bn.bias[row].item() - gamma * bn.running_mean[row].item()) / spec.scale
        m, b, s = (int(v[row]) for v in (layer.multiplier, layer.bias, layer.shift))
        assert m / 2**s == pytest.approx(factor, rel=2**-16)
        assert b / 2**s == pytest.approx(offset + 0.5, abs=1e-9 + 2**-s)


def test_fold_is_batch_norm(seed) -> None:
    torch.manual_seed(seed)
    bn = nn.BatchNorm2d(4).double().eval()
    for tensor in (bn.weight, bn.bias, bn.running_mean):
        nn.init.normal_(tensor)
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    gamma, beta = fold_batch_norm(bn)
    folded = x * gamma[:, None, None] + beta[:, None, None]
    torch.testing.assert_close(folded, bn(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(64, 2), "takes the model that prepare gave, not Linear: prepare and train it"),
        (nn.DataParallel(nn.Linear(64, 2)), "not DataParallel: give its .module"),
    ],
)
def test_what_prepare_did_not_make_is_refused(model, message) -> None:
    with pytest.raises(ExportError, match=message):
        lower(model)


@pytest.mark.slow
def test_training_only_scheme_is_refused(seed) -> None:
    model = random_model(seed)
    model.fc.scheme[0] = 3
    with pytest.raises(ExportError, match="'fc' has rows of a scheme that is for training only"):
        lower(model)


@pytest.mark.slow
def test_classifier_rows_share_a_shift(seed) -> None:
    layer = lower(random_model(seed)).layers["fc"]
    assert len(set(layer.shift)) == 1
    assert 1 << 15 <= layer.multiplier.max() < 1 << 16


@pytest.mark.parametrize("factor", [0.0, 2.0**-60, 2.0**-31, 3e-9, 0.001, 1 / 3, 3.9999])
@pytest.mark.parametrize("offset", [0.0, -7.25, 15.3, 3000.0, -1e6])
def test_encoded_row_is_near_and_fits(factor, offset) -> None:
    m, b, s = numerics.encode_row(factor, offset)
    assert 0 <= m < 1 << 16 and abs(b) < 1 << 46
    assert numerics.SHIFT_MIN <= s <= numerics.SHIFT_MAX
    assert abs(Fraction(b, 2**s) - Fraction(offset) - Fraction(1, 2)) <= Fraction(1, 2**s)
    assert abs(Fraction(m, 2**s) - Fraction(factor)) <= Fraction(1, 2 ** (s + 1))
    if factor >= 2.0**-24 and abs(offset) < 16:
        assert m >> 15 == 1  # normalised


@pytest.mark.parametrize(
    ("area", "bits"), [(area, bits) for area in range(1, 65) for bits in (4, 8)] + [(196, 4)]
)
def test_encoded_mean_is_exact(area, bits) -> None:
    steps = min(area, 255 // (2**bits - 1))
    m, b, s = numerics.encode_mean(steps, area)
    assert 0 < m < 1 << 16
    total = np.arange((2**bits - 1) * area + 1)
    np.testing.assert_array_equal(total * m + b >> s, (2 * total * steps + area) // (2 * area))


@pytest.mark.parametrize(("factor", "offset"), [(4.5, 0.0), (0.5, 1e10), (math.nan, 0.0)])
def test_row_that_does_not_fit_is_refused(factor, offset) -> None:
    with pytest.raises(ValueError, match=r"multiplier|bias"):
        numerics.encode_row(factor, offset)


def test_value_that_does_not_fit_names_the_layer(seed) -> None:
    model = random_model(seed)
    with torch.no_grad():
        model.bn1.bias.fill_(1e12)
    with pytest.raises(ExportError, match="'conv1'"):
        lower(model)


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["fc.bias", "bn1.bias", "fc.alpha", "layer1.0.bn1.weight"])
def test_values_that_are_not_finite_are_one_line(seed, name, value) -> None:
    model = random_model(seed)
    with torch.no_grad():
        model.get_parameter(name)[1] = value
    with pytest.raises(ExportError, match=r"^layer '[\w.]+': [^\n]+$"):
        lower(model)


def padded(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(2, 4, 3, stride=2), nn.ReLU6(), *layers
    )


@pytest.mark.parametrize(
    ("layers", "nodes"),
    [
        (
            [
                nn.Conv2d(4, 4, 3, padding=1, groups=4),
                nn.BatchNorm2d(4),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 3),
            ],
            "conv conv avg_pool flatten linear",
        ),
        (
            [nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Conv2d(4, 3, 1)],
            "conv window_pool max_pool conv",
        ),
        (
            [
                nn.AvgPool2d(2),
                nn.Flatten(),
                nn.Linear(16, 5),
                nn.BatchNorm1d(5),
                nn.ReLU(),
                nn.Linear(5, 2, bias=False),
            ],
            "conv avg_pool flatten linear linear",
        ),
        (
            [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 4), nn.Flatten(), nn.Linear(2, 2)],
            "conv conv conv flatten linear",
        ),
        ([nn.AvgPool2d(4), nn.Flatten()], "conv avg_pool"),
    ],
)
def test_other_networks(seed, layers, nodes) -> None:
    """Padding on some sides, depthwise, signed tensors, pools, batch-norm of a linear layer."""
    torch.manual_seed(seed)
    model = prepare(padded(*layers).eval(), torch.rand(2, 2, 8, 8))
    calibrate(model, torch.rand(32, 2, 8, 8))
    align_scales(model)
    graph = lower(model, (2, 8, 8))
    assert " ".join(n.op for n in graph.nodes) == nodes
    images = np.random.default_rng(seed).integers(256, size=(32, 2, 8, 8), dtype=np.uint8)
    logits = verify.verify(graph, images)
    with torch.no_grad():
        fake = model(torch.from_numpy(images) / 255).double().flatten(1).numpy()
    np.testing.assert_allclose(logits * graph.output.scale, fake, atol=1e-3 * fake.std())


@pytest.mark.parametrize("offset", range(20))
def test_random_graphs(seed, offset) -> None:
    """Groups, zero points, pools and padding that no network of ours has."""
    rng = np.random.default_rng([seed, offset])
    graph = random_graph(rng)
    verify.verify(graph, random_images(graph, rng, 10), batch=4)


def test_residual_graph(seed) -> None:
    graph = residual_graph(seed)
    verify.verify(graph, random_images(graph, np.random.default_rng(seed), 10))


def test_difference_is_reported_with_its_place(seed, monkeypatch) -> None:
    graph = lower(random_model(seed))
    images = np.random.default_rng(seed).integers(256, size=(6, 1, 8, 8))
    original = golden.run

    def off_by_one(graph, images, host=None):
        tensors = original(graph, images)
        if len(images) == 2:  # the last batch
            tensors["layer1.0.relu2"][1, 2, 3, 4] += 1
        return tensors

    monkeypatch.setattr(golden, "run", off_by_one)
    with pytest.raises(verify.Mismatch, match=r"'layer1.0.relu2' at \(5, 2, 3, 4\).*1 values"):
        verify.verify(graph, images, batch=4)


@pytest.mark.slow
def test_wrong_shape_is_a_difference(seed, monkeypatch) -> None:
    graph = lower(random_model(seed))
    original = golden.run
    monkeypatch.setattr(
        golden,
        "run",
        lambda g, x, _host=None: (
            original(g, x) | {"fc": np.zeros((1, 1))} | {"logits": np.zeros((len(x), 5), np.int64)}
        ),
    )
    monkeypatch.setattr(
        verify,
        "run",
        lambda g, x, _host=None: (
            {k: torch.from_numpy(v) for k, v in original(g, x.numpy()).items()}
            | {"fc": torch.zeros(1)}
        ),
    )
    with pytest.raises(verify.Mismatch, match="computes"):
        verify.verify(graph, np.zeros((1, 1, 8, 8), np.int64))


@pytest.mark.parametrize("name", ["input", "logits"])
@pytest.mark.parametrize("kind", [nn.ReLU, lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2)])
def test_modules_named_as_tensors_are(name, kind, seed) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    net.add_module(name, kind())
    net.add_module("last", nn.Conv2d(2, 2, 1))
    graph = lower(prepare(net, torch.rand(2, 1, 8, 8)))
    names = [tensor.name for tensor in graph.header.tensors]
    assert len(set(names)) == len(names) and len(names) == 3 + (kind is not nn.ReLU)
    images = np.random.default_rng(seed).integers(256, size=(2, 1, 8, 8), dtype=np.uint8)
    verify.verify(graph, images)


def test_graph_survives_its_file(tmp_path, seed) -> None:
    graph = lower(random_model(seed))
    graph.save(tmp_path / "g.safetensors")
    loaded = IntGraph.load(tmp_path / "g.safetensors")
    assert loaded.digest == graph.digest
    assert dataclasses.asdict(loaded)["header"] == dataclasses.asdict(graph)["header"]


def test_classifier_of_many_channels_fits_its_accumulator(seed) -> None:
    """The pool in front of it gives few enough codes, even for the worst weights there are."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 2048, 5), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(2048, 2, 1))
    model = prepare(net.eval(), torch.rand(2, 1, 8, 8))
    with torch.no_grad():
        model.get_submodule("3").weight.fill_(1)
        model.get_submodule("3").alpha.fill_(1)
    graph = lower(model)
    assert (graph.layers["3"].values == 127).all()
    assert graph.nodes[1].high == 2 * 15 and 2048 * 127 * 30 < 1 << 23 < 2048 * 127 * 45
    verify.verify(graph, np.full((1, 1, 8, 8), 255))
