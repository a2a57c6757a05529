# SPDX-License-Identifier: Apache-2.0
"""Scales that the hardware has: alignment of a trained network, and what it changes."""

import numpy as np
import pytest
import torch
from torch import nn

from ir.graph import Conv
from quant.lowering import rounding
from quant.lowering.align import align_scales
from quant.lowering.fusion import fusion_groups, scale_of
from quant.lowering.prepare import calibrate, prepare
from tests.helpers.prepared import lower, random_model


@pytest.mark.slow
def test_shortcut_operands_are_exact_after_snapping(seed) -> None:
    graph = lower(random_model(seed))
    residuals = [
        (node.residual, node.output)
        for node in graph.nodes
        if isinstance(node, Conv) and node.residual
    ]
    assert len(residuals) == 3
    for residual, output in residuals:
        ratio = graph.tensor(residual.tensor).scale / graph.tensor(output).scale
        assert residual.n / 2**14 == pytest.approx(ratio, rel=3e-7)  # float32


@pytest.mark.slow
def test_shortcut_that_is_too_fine_is_coarsened(seed) -> None:
    model = random_model(seed)
    shortcut = model.get_submodule("layer2.0.downsample.1_quant")
    with torch.no_grad():
        shortcut.clip.mul_(1e-3)
    assert align_scales(model) == 0
    layer = lower(model).layers["layer2.0.downsample.0"]
    assert 3.9 < (layer.multiplier / 2.0**layer.shift).max() < 4


@pytest.mark.slow
def test_row_with_dead_inputs_is_tamed(seed) -> None:
    """A tiny variance makes a multiplier that M cannot express; gamma gives in, the mean stays."""
    model = random_model(seed)
    norm = model.layer1.get_submodule("0").bn1
    norm.running_var[2] = 0
    with torch.no_grad():
        norm.weight[2] = 100.0
    before = norm(norm.running_mean.view(1, -1, 1, 1))
    assert align_scales(model) == 1
    half = model.get_submodule("layer1.0.relu1").scale.item() / 2  # where no sum lies between
    torch.testing.assert_close(norm(norm.running_mean.view(1, -1, 1, 1)), before, atol=half, rtol=0)
    layer = lower(model).layers["layer1.0.conv1"]
    assert 3.9 < layer.multiplier[2] / 2.0 ** layer.shift[2] < 4


def moved(model: nn.Module, seed: int) -> nn.Module:
    """``model`` after a training that left every scale and offset somewhere else."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.01 * torch.rand(parameter.shape, generator=generator))
    return model


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(other[name], value) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(6))
def test_aligning_twice_changes_nothing(seed, offset) -> None:
    model = moved(random_model(seed + offset), seed)
    before = state(model)
    align_scales(model)
    once = state(model)
    assert not same(before, once)
    assert align_scales(model) == 0
    assert same(once, state(model))


class ThreeTerms(nn.Module):
    """A sum of three layers: the scale of one operand decides that of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(1, 4, 1) for _ in range(3))
        self.fc = nn.Linear(256, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.a(x) + self.b(x) + self.c(x)).flatten(1))


def test_sums_of_three_are_exact_and_stay(seed) -> None:
    torch.manual_seed(seed)
    model = prepare(ThreeTerms(), torch.rand(2, 1, 8, 8))
    calibrate(model, torch.rand(32, 1, 8, 8))
    graph, once = lower(model), state(model)
    residuals = [(n.residual, n.output) for n in graph.nodes if getattr(n, "residual", None)]
    assert len(residuals) == 2
    for residual, output in residuals:
        ratio = graph.tensor(residual.tensor).scale / graph.tensor(output).scale
        assert residual.n / 2**14 == pytest.approx(ratio, rel=1e-6)
    assert lower(model).digest == graph.digest
    assert same(once, state(model))


def test_export_aligns(seed) -> None:
    """In place, as an explicit call does, and a model out of a file gives the same graph again."""
    model, other = (moved(random_model(seed), seed) for _ in range(2))
    align_scales(other)
    graph = lower(model)
    assert graph.digest == lower(other).digest
    assert same(state(model), state(other))
    fresh = random_model(seed + 1)
    fresh.load_state_dict(state(model))
    assert lower(fresh).digest == graph.digest


def test_multipliers_are_exact_after_alignment(seed) -> None:
    """What fake quantisation multiplies with is M / 2^S, within float32."""
    model = random_model(seed)
    graph = lower(model)
    for group in fusion_groups(model).values():
        if group.quantiser is None:
            continue
        layer = graph.layers[group.name]
        steps = group.steps(scale_of(group.source), group.quantiser.scale.item()).abs().numpy()
        np.testing.assert_allclose(layer.multiplier / 2.0**layer.shift, steps, rtol=5e-7)


@pytest.mark.slow
def test_offsets_are_centred_after_alignment(seed, monkeypatch) -> None:
    """The exported B is the middle that alignment chose, within what float32 holds of an offset."""
    chosen, centre = set(), rounding.centre_rounding_margin

    def record(m: int, b: int, s: int, *others) -> int:
        moved = centre(m, b, s, *others)
        chosen.add((m, s, moved))
        return moved

    monkeypatch.setattr(rounding, "centre_rounding_margin", record)
    graph = lower(random_model(seed))
    for name in ("conv1", "layer1.0.conv1", "layer2.0.conv1"):  # unsigned, without an operand
        layer = graph.layers[name]
        for m, b, s in zip(
            layer.multiplier.tolist(), layer.bias.tolist(), layer.shift.tolist(), strict=True
        ):
            middles = [moved for of_m, of_s, moved in chosen if (of_m, of_s) == (m, s)]
            assert min(abs(moved - b) for moved in middles) <= 2**s * 1e-5
