# SPDX-License-Identifier: Apache-2.0
"""Lowering: folded batch-norm, encoded rows, and integers that equal the golden model."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from quant import golden, inference, numerics
from quant.assign import assign
from quant.export import ExportError, encode_row, export, fold_batch_norm, snap_shortcuts
from quant.intgraph import Conv, IntGraph
from quant.layers import quantised_layers
from quant.models.tiny_resnet import TinyResNet
from quant.numerics import Scheme
from quant.prepare import UnsupportedLayer, calibrate, prepare
from quant.ratio import Ratio
from tests.quant.graphs import random_graph, random_images, residual_graph

RATIO = Ratio.parse("50:30:20")


def random_model(seed: int, channels: int = 1, size: int = 8) -> nn.Module:
    """A prepared network with random batch-norm, gammas of both signs and one of zero."""
    torch.manual_seed(seed)
    model = TinyResNet(channels, 5, width=6)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.uniform_(module.bias, -0.5, 1)
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.2, 2)
            module.weight.data[0] = 0
    prepared = prepare(model.eval())
    calibrate(prepared, torch.rand(64, channels, size, size))
    eigenvalues = {n: torch.rand(len(m.weight)) for n, m in quantised_layers(prepared).items()}
    assign(prepared, eigenvalues, RATIO, 8)
    snap_shortcuts(prepared)
    return prepared.eval()


def lower(model: nn.Module, shape=(1, 8, 8)) -> IntGraph:
    return export(model, name="test", ratio=RATIO, tile_rows=8, input_shape=shape)


def test_integers_equal_the_golden_model_and_follow_fake_quantisation(seed) -> None:
    model = random_model(seed)
    graph = lower(model)
    images = np.random.default_rng(seed).integers(256, size=(300, 1, 8, 8), dtype=np.uint8)
    logits = inference.verify(graph, images, batch=128)
    np.testing.assert_array_equal(logits, golden.logits(graph, images))
    with torch.no_grad():
        fake = model(torch.from_numpy(images) / 255).double().numpy()
    difference = np.abs(logits * graph.header.logit_scale - fake).max(1)
    assert np.median(difference) < 0.001 * fake.std()
    assert (logits.argmax(1) == fake.argmax(1)).mean() >= 0.97


@pytest.mark.parametrize("shape", [(3, 9, 7), (1, 5, 12)])
def test_other_image_sizes(seed, shape) -> None:
    model = random_model(seed, shape[0])
    images = np.random.default_rng(seed).integers(256, size=(20, *shape), dtype=np.uint8)
    assert inference.verify(lower(model, shape), images).shape == (20, 5)


def test_every_tensor_is_that_of_the_network(seed) -> None:
    """Integers after the stem are the fake-quantised values, and scales match."""
    model = random_model(seed)
    graph = lower(model)
    images = np.random.default_rng(seed).integers(256, size=(50, 1, 8, 8), dtype=np.uint8)
    tensors = golden.run(graph, images)
    seen = {}
    least = {"relu": 0.9995, "layer1.0.relu1": 0.999, "layer1.0.relu2": 0.998,
             "layer2.0.downsample.2": 0.98, "avgpool": 0.98}       # differences add up
    for name in least:
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach().numpy()))
    with torch.no_grad():
        model(torch.from_numpy(images) / 255)
    for name, fake in seen.items():
        spec = graph.tensor(name.removesuffix(".2"))
        real = (tensors[spec.name] - spec.zero_point) * spec.scale
        assert (np.abs(real - fake) < spec.scale / 2).mean() > least[name], name


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
            conv.weight[row].detach().numpy(), np.float32(conv.alpha[row].item()),
            Scheme(int(conv.scheme[row])))
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


def test_shortcut_operands_are_exact_after_snapping(seed) -> None:
    graph = lower(random_model(seed))
    residuals = [(node.residual, node.output) for node in graph.nodes
                 if isinstance(node, Conv) and node.residual]
    assert len(residuals) == 3
    for residual, output in residuals:
        ratio = graph.tensor(residual.tensor).scale / graph.tensor(output).scale
        assert residual.n / 2**14 == pytest.approx(ratio, rel=3e-7)     # float32


def test_shortcut_that_is_too_fine_is_coarsened(seed) -> None:
    model = random_model(seed)
    shortcut = model.layer2[0].downsample[-1]
    with torch.no_grad():
        shortcut.clip.mul_(1e-3)
    with pytest.raises(ExportError, match=r"'layer2.0.downsample.0'.*too large"):
        lower(model)
    snap_shortcuts(model)
    layer = lower(model).layers["layer2.0.downsample.0"]
    assert 3.9 < (layer.multiplier / 2.0**layer.shift).max() < 4


def test_classifier_rows_share_a_shift(seed) -> None:
    layer = lower(random_model(seed)).layers["fc"]
    assert len(set(layer.shift)) == 1
    assert 1 << 15 <= layer.multiplier.max() < 1 << 16


@pytest.mark.parametrize("factor", [0.0, 2.0**-60, 2.0**-31, 3e-9, 0.001, 1 / 3, 3.9999])
@pytest.mark.parametrize("offset", [0.0, -7.25, 15.3, 3000.0, -1e6])
def test_encoded_row_is_near_and_fits(factor, offset) -> None:
    m, b, s = encode_row(factor, offset)
    assert 0 <= m < 1 << 16 and abs(b) < 1 << 46
    assert numerics.SHIFT_MIN <= s <= numerics.SHIFT_MAX
    assert abs(Fraction(b, 2**s) - Fraction(offset) - Fraction(1, 2)) <= Fraction(1, 2**s)
    assert abs(Fraction(m, 2**s) - Fraction(factor)) <= Fraction(1, 2 ** (s + 1))
    if factor >= 2.0**-24 and abs(offset) < 16:
        assert m >> 15 == 1                                             # normalised


@pytest.mark.parametrize(("factor", "offset"), [(4.5, 0.0), (0.5, 1e10), (math.nan, 0.0)])
def test_row_that_does_not_fit_is_refused(factor, offset) -> None:
    with pytest.raises(ValueError, match=r"multiplier|bias"):
        encode_row(factor, offset)


def test_scale_that_does_not_fit_names_the_layer(seed) -> None:
    model = random_model(seed)
    with torch.no_grad():
        model.relu.clip.fill_(1e-6)
    with pytest.raises(ExportError, match="'conv1'"):
        lower(model)


def test_other_models_are_refused() -> None:
    with pytest.raises(UnsupportedLayer, match="Sequential"):
        lower(nn.Sequential(nn.Linear(1, 1)))


@pytest.mark.parametrize("offset", range(20))
def test_random_graphs(seed, offset) -> None:
    """Groups, zero points, pools and padding that no network of ours has."""
    rng = np.random.default_rng([seed, offset])
    graph = random_graph(rng)
    inference.verify(graph, random_images(graph, rng, 10), batch=4)


def test_residual_graph(seed) -> None:
    graph = residual_graph(seed)
    inference.verify(graph, random_images(graph, np.random.default_rng(seed), 10))


def test_difference_is_reported_with_its_place(seed, monkeypatch) -> None:
    graph = lower(random_model(seed))
    images = np.random.default_rng(seed).integers(256, size=(6, 1, 8, 8))
    original = golden.run

    def off_by_one(graph, images):
        tensors = original(graph, images)
        if len(images) == 2:            # the last batch
            tensors["layer1.0.relu2"][1, 2, 3, 4] += 1
        return tensors

    monkeypatch.setattr(golden, "run", off_by_one)
    with pytest.raises(inference.Mismatch, match=r"'layer1.0.relu2' at \(5, 2, 3, 4\).*1 values"):
        inference.verify(graph, images, batch=4)


def test_wrong_shape_is_a_difference(seed, monkeypatch) -> None:
    graph = lower(random_model(seed))
    original = golden.run
    monkeypatch.setattr(golden, "run", lambda g, x: original(g, x) | {"fc": np.zeros((1, 1))}
                        | {"logits": np.zeros((len(x), 5), np.int64)})
    monkeypatch.setattr(inference, "run", lambda g, x: {
        k: torch.from_numpy(v) for k, v in original(g, x.numpy()).items()} | {"fc": torch.zeros(1)})
    with pytest.raises(inference.Mismatch, match="computes"):
        inference.verify(graph, np.zeros((1, 1, 8, 8), np.int64))


def test_graph_survives_its_file(tmp_path, seed) -> None:
    graph = lower(random_model(seed))
    graph.save(tmp_path / "g.safetensors")
    loaded = IntGraph.load(tmp_path / "g.safetensors")
    assert loaded.digest == graph.digest
    assert dataclasses.asdict(loaded)["header"] == dataclasses.asdict(graph)["header"]
