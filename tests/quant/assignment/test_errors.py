# SPDX-License-Identifier: Apache-2.0
"""Errors of the schemes of each row, against their definition, and the rule that compares them."""

import pytest
import torch
from torch import nn

from ir.numerics import Scheme
from quant.assignment.assign import assign, assign_rows
from quant.assignment.errors import errors_of_schemes, row_errors, savings
from quant.assignment.methods import method
from quant.assignment.moments import POSITIONS, Moments, patches, positions
from quant.assignment.sensitivity import row_scores
from quant.lowering.prepare import prepare
from quant.nn.layers import quantised_layers

CONVS = {
    "plain": {"kernel_size": 3, "padding": 1},
    "grouped": {"kernel_size": (1, 3), "groups": 2, "stride": 2},
    "depthwise": {"kernel_size": 3, "groups": 4, "dilation": 2, "padding": (2, 0)},
}


@pytest.mark.parametrize("kind", CONVS)
def test_patches_times_weights_are_the_sums(kind, seed) -> None:
    torch.manual_seed(seed)
    layer, x = nn.Conv2d(4, 8, bias=False, **CONVS[kind]), torch.randn(3, 4, 7, 9)
    places = positions(layer, x, torch.Generator())
    rows = patches(layer, x, places)
    weight = layer.weight.detach().view(layer.groups, -1, rows.shape[2])
    sums = (rows @ weight.mT).view(layer.groups, 3, len(places), -1)
    wanted = layer(x)
    assert len(places) == wanted[0, 0].numel()
    assert torch.allclose(sums.permute(1, 0, 3, 2).flatten(1), wanted.flatten(1), atol=1e-5)


def test_positions_are_few_and_different(seed) -> None:
    layer, x = nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 40, 40)
    found = positions(layer, x, torch.Generator().manual_seed(seed))
    assert len(found.unique()) == POSITIONS and found.max() < 38 * 38


def test_hessian_is_that_of_the_sums(seed) -> None:
    torch.manual_seed(seed)
    layer, x = nn.Linear(5, 3), torch.randn(50, 5) + 2
    moments = Moments(layer)
    for part in x.split(20):
        moments.add(patches(layer, part, positions(layer, part, torch.Generator())))
    change = torch.randn(5, dtype=torch.float64)
    sums = x.double() @ change
    for centred, wanted in ((False, sums.square().mean()), (True, sums.var(correction=0))):
        assert float(change @ moments.hessian(centred)[0] @ change) == pytest.approx(float(wanted))


def test_rows_on_a_grid_cost_nothing_there(seed) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(6, 2, bias=False)
    with torch.no_grad():
        layer.weight[0] = torch.tensor([1, 0.5, 0.25, -1, 0, -0.125])
        layer.weight[1] = torch.tensor([7, 5, 3, -6, 1, 0]) / 7
    x = torch.randn(100, 6, dtype=torch.float64)
    errors = errors_of_schemes(layer, (x.mT @ x / 100)[None])
    assert errors[Scheme.POT4, 0] < 1e-10 < errors[Scheme.POT4, 1]
    assert errors[Scheme.FIXED4, 1] < 1e-10 < errors[Scheme.FIXED4, 0]
    counts = (1, 1, 0)
    scheme = assign_rows(layer.weight, torch.zeros(2), counts, split="error", errors=errors)
    assert scheme.tolist() == [Scheme.POT4, Scheme.FIXED4]
    with pytest.raises(ValueError, match="needs the errors"):
        assign_rows(layer.weight, torch.zeros(2), counts, split="error")


def test_rule_in_a_network(seed) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 16))
    images = torch.rand(8, 1, 8, 8)
    model = prepare(net, images[:2])
    errors = row_errors(model, images)
    scores = savings(errors)
    again = row_scores("error", model, images)
    assert all(torch.equal(scores[name], again[name]) for name in scores)
    assign(model, method("rmsmp"), 16, scores, split="error", errors=errors)
    for name, layer in quantised_layers(model).items():
        rise = errors[name][Scheme.POT4] - errors[name][Scheme.FIXED4]
        wide = layer.scheme == Scheme.FIXED8
        assert wide.sum() == 1 and scores[name][wide].item() == scores[name].max()
        pot, fixed = (rise[layer.scheme == s] for s in (Scheme.POT4, Scheme.FIXED4))
        assert pot.max() <= fixed.min()
