# SPDX-License-Identifier: Apache-2.0
"""Best levels of a layer's rows under each scheme, for given moments of its inputs."""

import torch
from torch import Tensor

from quant.assignment.errors import error_of, nearest, weighted_alpha
from quant.assignment.moments import Moments
from quant.calibration.compensation import (
    Rounded,
    compensate,
    damped,
    descend,
    fitted_alpha,
)

NEAR = (0.9, 1.0, 1.1)  #: of the best of these, tried with compensation
SWEEPS = 2  #: of coordinate descent


def round_rows(
    weight: Tensor, hessian: Tensor, scheme: Tensor, least: Tensor, *, compensated: bool = True
) -> Rounded:
    """Levels of ``weight`` (G, R, T) of the least squared error of sums that was found.

    ``hessian`` is (G, T, T), ``scheme`` (G, R), ``least`` (G, R) what alpha must not fall below.
    """
    stable = damped(hessian)
    first = weighted_alpha(weight, stable.diagonal(dim1=1, dim2=2), scheme, least)
    if not compensated:
        rounded = nearest(weight, first, scheme)
        return Rounded(rounded, first, error_of(weight, rounded, hessian))
    best = None
    for factor in NEAR:
        alpha = torch.maximum(first * factor, least)
        rounded = compensate(weight, stable, alpha, scheme)
        for _ in range(SWEEPS):
            alpha = torch.maximum(fitted_alpha(weight, rounded, stable, alpha), least)
            rounded = nearest(rounded, alpha, scheme)
            rounded = descend(weight, rounded, stable, alpha, scheme, 1)
        best = better(best, Rounded(rounded, alpha, error_of(weight, rounded, hessian)))
    assert best is not None
    return best


def better(a: Rounded | None, b: Rounded) -> Rounded:
    """Row by row the one with the lower error."""
    if a is None:
        return b
    chosen = a.error <= b.error
    return Rounded(
        torch.where(chosen[..., None], a.weight, b.weight),
        torch.where(chosen, a.alpha, b.alpha),
        torch.where(chosen, a.error, b.error),
    )


def corrected(weight: Tensor, moments: Moments, hessian: Tensor, centred: bool) -> Tensor:
    """Weights (G, R, T) whose sums are nearest to those of ``weight`` in the reference network.

    What rounding before the layer did to its inputs is made up for, by least squares.
    """
    change = moments.cross(centred) - hessian
    solved = torch.linalg.solve(damped(hessian), change.mT).mT
    return weight + (weight.double() @ solved).to(weight.dtype)
