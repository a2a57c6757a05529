# SPDX-License-Identifier: Apache-2.0
"""Rounding with compensation: never worse than to the nearest, exact where nothing is lost."""

import pytest
import torch

from ir.numerics import Scheme
from quant.assignment.errors import error_of, nearest
from quant.calibration.compensation import compensate, damped, descend
from quant.calibration.rounding import round_rows
from quant.nn.quantizers import weight_to_int


def problem(groups: int = 2, rows: int = 6, terms: int = 9) -> tuple[torch.Tensor, ...]:
    """Weights, Hessian of correlated inputs, schemes, least alphas."""
    weight = torch.randn(groups, rows, terms)
    x = torch.randn(groups, 400, terms, dtype=torch.float64).cumsum(2)
    scheme = torch.tensor([0, 1, 2] * (rows // 3), dtype=torch.uint8).expand(groups, -1)
    return weight, x.mT @ x / 400, scheme, torch.zeros(groups, rows)


@pytest.mark.parametrize("terms", [9, 70])  # a block of columns and more
def test_compensation_lowers_the_error(seed, terms) -> None:
    torch.manual_seed(seed)
    weight, hessian, scheme, _ = problem(terms=terms)
    alpha = weight.abs().amax(2)
    plain = error_of(weight, nearest(weight, alpha, scheme), hessian)
    ours = compensate(weight, damped(hessian), alpha, scheme)
    assert torch.equal(ours, nearest(ours, alpha, scheme))  # on the grid
    assert float(error_of(weight, ours, hessian).sum()) < 0.5 * float(plain.sum())


def test_descent_never_raises_the_error(seed) -> None:
    torch.manual_seed(seed)
    weight, hessian, scheme, _ = problem()
    alpha = weight.abs().amax(2)
    before = nearest(weight, alpha, scheme)
    after = descend(weight, before, hessian, alpha, scheme, sweeps=2)
    errors = (error_of(weight, rounded, hessian) for rounded in (before, after))
    first, second = errors
    assert (second <= first * (1 + 1e-6)).all() and bool((second < first).any())


def test_weights_on_their_grid_stay(seed) -> None:
    torch.manual_seed(seed)
    weight, hessian, scheme, least = problem()
    alpha = torch.full_like(least, 0.5)
    weight = nearest(weight, alpha, scheme)
    assert torch.equal(compensate(weight, damped(hessian), alpha, scheme), weight)


def test_integers_are_those_of_the_contract(seed) -> None:
    torch.manual_seed(seed)
    weight, hessian, scheme, least = problem()
    found = round_rows(weight, hessian, scheme, least)
    values = weight_to_int(found.weight.flatten(0, 1), found.alpha.flatten(), scheme.flatten())
    steps = torch.tensor([s.denominator for s in Scheme])[scheme.long()].flatten()
    back = values * (found.alpha.flatten() / steps)[:, None]
    assert torch.allclose(back, found.weight.flatten(0, 1), rtol=1e-6)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    weight, scheme = torch.ones(1, 3, 4), torch.tensor([[0, 1, 2]], dtype=torch.uint8)
    found = round_rows(weight, torch.zeros(1, 4, 4, dtype=torch.float64), scheme, torch.zeros(1, 3))
    assert found.weight.isfinite().all() and found.error.eq(0).all()


def test_alpha_leaves_room(seed) -> None:
    torch.manual_seed(seed)
    weight, hessian, scheme, least = problem()
    assert (round_rows(weight, hessian, scheme, least + 9).alpha >= 9).all()
