# SPDX-License-Identifier: Apache-2.0
"""Scales are clamped after every step of any optimiser that trains them."""

import copy
import gc
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quant.lowering.prepare import calibrate, prepare
from quant.nn import scales
from quant.nn.activations import ActQuantiser
from quant.nn.layers import quantised_layers
from quant.nn.scales import MIN_SCALE, clamp_scales_


def make(seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    x = torch.rand(8, 1, 8, 8)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(144, 3))
    prepared = prepare(net, x)
    calibrate(prepared, x)
    return prepared, x


def spoil(model: nn.Module) -> None:
    """Give all scales values far outside their range, with no gradient to leave them by."""
    with torch.no_grad():
        for layer in quantised_layers(model).values():
            layer.alpha.fill_(-3.0)
        for module in model.modules():
            if isinstance(module, ActQuantiser):
                module.clip.fill_(99.0)


def is_clamped(model: nn.Module) -> bool:
    before = copy.deepcopy(model.state_dict())
    clamp_scales_(model)
    return all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if v.dim())


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def step(model: nn.Module, parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.SGD(parameters, 0.1).step()


@pytest.mark.parametrize(
    "way",
    [
        lambda model: model,
        copy.deepcopy,
        copy.copy,
        saved,
        lambda model: saved(copy.deepcopy(model)),
        lambda model: model.to(torch.float64).to(torch.float32),
        lambda model: model.to(memory_format=torch.channels_last),
    ],
    ids="itself deepcopy copy file copy_in_a_file to channels_last".split(),
)
def test_any_step_clamps(seed, way: Callable[[nn.Module], nn.Module]) -> None:
    model = way(make(seed)[0])
    spoil(model)
    assert not is_clamped(copy.deepcopy(model))
    step(model, list(model.parameters()))
    assert is_clamped(model)
    layers = quantised_layers(model)
    assert len(layers) == 2
    for layer in layers.values():
        peak = layer.weight.detach().abs().flatten(1).amax(1)
        assert torch.equal(layer.alpha.detach(), peak / 16)
    assert model.get_submodule("1").clip.item() == 6


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.LBFGS])
def test_a_loop_of_the_users_own(seed, kind) -> None:
    """The same bits as a loop that clamps by itself."""

    def train(clamps: bool) -> nn.Module:
        model, x = make(seed)
        optimiser = kind(model.parameters(), lr=0.5)

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = model(x).square().sum()
            loss.backward()
            return loss

        for _ in range(4):
            optimiser.step(closure)
            if clamps:
                clamp_scales_(model)
        return model

    plain, clamped = train(False).state_dict(), train(True).state_dict()
    assert all(torch.equal(value, clamped[name]) for name, value in plain.items())


def test_optimisers_of_one_layer_each(seed) -> None:
    """Only what an optimiser holds is touched, and weights alone suffice."""
    model, _ = make(seed)
    other, _ = make(seed)
    spoil(model)
    spoil(other)
    conv, linear = quantised_layers(model).values()
    step(model, [conv.weight])
    assert (conv.alpha > 0).all() and (linear.alpha < 0).all()
    assert model.get_submodule("1").clip.item() == 99
    step(model, [linear.alpha, *(m.clip for m in model.modules() if isinstance(m, ActQuantiser))])
    assert is_clamped(model)
    assert all((layer.alpha == -3).all() for layer in quantised_layers(other).values())


def test_modules_are_forgotten(seed) -> None:
    gc.collect()
    before = len(scales._modules)
    model, _ = make(seed)
    assert len(scales._modules) == before + 3
    del model
    gc.collect()
    assert len(scales._modules) == before


def test_smallest_scale(seed) -> None:
    model, _ = make(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    step(model, list(model.parameters()))
    least = torch.tensor(MIN_SCALE)
    assert all((layer.alpha == least).all() for layer in quantised_layers(model).values())
