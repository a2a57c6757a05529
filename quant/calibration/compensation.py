# SPDX-License-Identifier: Apache-2.0
"""Rounding of a layer's weights with the error of each carried over to those that follow.

GPTQ (Frantar et al. 2022, arXiv:2210.17323) on row-wise grids: columns are rounded one after the
other, and the rest of the row moves to where the sums change least, by the inverse of the Hessian
of :class:`quant.assignment.moments.Moments`. Afterwards each weight takes the level that is best
with all others as they are (QuantEase, Behdin et al. 2023, arXiv:2309.01885), in sweeps, and
``alpha`` is the least-squares one of the row's levels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from quant.assignment.errors import nearest

DAMPING = 0.01  #: of the mean of the Hessian's diagonal, added to it
BLOCK = 64  #: columns that are rounded before the rest of the matrix moves


class Rounded(NamedTuple):
    """Weights on the grids of their rows, with the mean squared error of their sums."""

    weight: Tensor  #: (G, R, T)
    alpha: Tensor  #: (G, R)
    error: Tensor  #: (G, R), float64


def damped(hessian: Tensor) -> Tensor:
    """Hessian (G, T, T) that is positive definite; inputs that are always 0 have a 1."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    dead = diagonal <= 0
    more = DAMPING * diagonal.mean(1, keepdim=True) + dead
    more = torch.where(more > 0, more, 1)
    return hessian + torch.diag_embed(more)


def compensate(weight: Tensor, hessian: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
    """Levels (G, R, T) for ``weight`` (G, R, T) by GPTQ, columns by falling Hessian diagonal.

    ``hessian`` is (G, T, T) and damped, ``alpha`` and ``scheme`` are (G, R).
    """
    terms = weight.shape[2]
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    by_column = order[:, None].expand_as(weight)
    sorted_hessian = hessian.gather(1, order[:, :, None].expand_as(hessian))
    sorted_hessian = sorted_hessian.gather(2, order[:, None].expand_as(hessian))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(sorted_hessian))
    factor = torch.linalg.cholesky(inverse, upper=True).to(weight.dtype)
    left = weight.gather(2, by_column)
    rounded = torch.empty_like(left)
    for start in range(0, terms, BLOCK):
        block = slice(start, min(start + BLOCK, terms))
        own, change = factor[:, block, block], torch.empty_like(left[:, :, block])
        part = left[:, :, block].clone()
        for i in range(part.shape[2]):
            level = nearest(part[:, :, i, None], alpha, scheme)[..., 0]
            rounded[:, :, start + i] = level
            step = (part[:, :, i] - level) / own[:, i, i, None]
            change[:, :, i] = step
            part[:, :, i:] -= step[..., None] * own[:, None, i, i:]
        left[:, :, block.stop :] -= change @ factor[:, block, block.stop :]
    return torch.empty_like(rounded).scatter_(2, by_column, rounded)


def descend(
    weight: Tensor, rounded: Tensor, hessian: Tensor, alpha: Tensor, scheme: Tensor, sweeps: int
) -> Tensor:
    """``rounded`` (G, R, T) after ``sweeps`` of coordinate descent; the error never rises."""
    h = hessian.to(weight.dtype)
    found = rounded.clone()
    diagonal = h.diagonal(dim1=1, dim2=2)
    for _ in range(sweeps):
        slope = (weight - found) @ h
        for j in range(weight.shape[2]):
            was = found[:, :, j]
            level = nearest((was + slope[:, :, j] / diagonal[:, j, None])[..., None], alpha, scheme)
            step = level[..., 0] - was
            if step.any():
                found[:, :, j] = level[..., 0]
                slope -= step[..., None] * h[:, None, j]
    return found


def fitted_alpha(weight: Tensor, rounded: Tensor, hessian: Tensor, alpha: Tensor) -> Tensor:
    """``alpha`` (G, R) of the least squared error with the levels of ``rounded`` (G, R, T)."""
    moved = rounded.double() @ hessian
    best = (moved * weight).sum(2) / (moved * rounded).sum(2).clamp_min(1e-300)
    return (alpha * best.clamp(0.5, 2)).to(alpha.dtype)
