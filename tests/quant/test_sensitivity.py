# SPDX-License-Identifier: Apache-2.0
"""The batched eigenvalues against the naive loop: a Hessian-vector product per row."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from quant import sensitivity
from quant.models.tiny_resnet import TinyResNet
from quant.prepare import calibrate, prepare


@pytest.fixture
def net(seed) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    model = TinyResNet(classes=3, width=2).double().train()
    images = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    for _ in range(3):
        model(images)               # moves the running statistics off their start
    return model.eval(), images


def naive(model: nn.Module, images: torch.Tensor, layer: nn.Module, row: int, v: torch.Tensor,
          iterations: int) -> float:
    """Power iteration of Algorithm 1 on one row by double differentiation."""
    # Labels do not matter: the second derivative of cross entropy has none.
    loss = F.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long))
    grad = torch.autograd.grad(loss, layer.weight, create_graph=True)[0][row]
    for _ in range(iterations):
        if not v.any():
            return 0.0                  # a dead row
        v = v / v.norm()
        product = torch.autograd.grad((grad * v).sum(), layer.weight, retain_graph=True)[0][row]
        eigenvalue, v = float((v * product).sum()), product
    return eigenvalue


def test_equals_the_naive_loop(net) -> None:
    model, images = net
    found = sensitivity.row_eigenvalues(model, images, iterations=4, seed=5, batch=4)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert list(found) == list(layers)
    generator = torch.Generator().manual_seed(5)
    for name, layer in layers.items():
        start = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
        for row in range(len(layer.weight)):
            expected = naive(model, images, layer, row, start[row], 4)
            assert found[name][row].item() == pytest.approx(expected, rel=1e-8, abs=1e-14)


def test_is_the_largest_eigenvalue_of_the_block(net) -> None:
    model, images = net
    found = sensitivity.row_eigenvalues(model, images, iterations=200)["fc"]

    def loss(weight: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(model, {"fc.weight": weight}, (images,))
        return F.cross_entropy(logits, torch.ones(len(images), dtype=torch.long))

    hessian = torch.autograd.functional.hessian(loss, model.fc.weight.detach())
    for row in range(3):
        expected = torch.linalg.eigvalsh(hessian[row, :, row])[-1].item()
        assert found[row].item() == pytest.approx(expected, rel=1e-6)


def test_groups_by_memory_change_nothing(net, monkeypatch) -> None:
    model, images = net
    whole = sensitivity.row_eigenvalues(model, images, seed=1)
    monkeypatch.setattr(sensitivity, "MEMORY", 1)
    assert len(sensitivity._groups(model, {"conv1": model.conv1, "fc": model.fc}, images)) == 2
    parts = sensitivity.row_eigenvalues(model, images, seed=1)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_prepared_model_is_measured_without_its_quantisers(net) -> None:
    model, images = net
    prepared = prepare(model.float())
    calibrate(prepared, images.float())
    expected = sensitivity.row_eigenvalues(model, images.float())
    prepared.train()
    found = sensitivity.row_eigenvalues(prepared, images.float())
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert prepared.training and prepared.conv1.quantise


def test_dead_row_has_eigenvalue_zero(net) -> None:
    model, images = net
    with torch.no_grad():
        model.bn1.weight[0], model.bn1.bias[0] = 0, -1      # ReLU of channel 0 is never open
    assert sensitivity.row_eigenvalues(model, images)["conv1"][0] == 0
