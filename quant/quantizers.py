# SPDX-License-Identifier: Apache-2.0
"""Torch side of :mod:`quant.numerics`: the same integers, with gradients.

Gradients are straight-through (RMSMP, Eq. 6) inside the range and zero outside. Those of a scale
follow LSQ: if ``s`` is the step, ``dq/ds = round(v) - v`` inside and the bound outside, and the
gradient is scaled by ``1 / sqrt(terms * steps)``. Our parameters are the largest magnitudes
(``alpha`` of a row, ``clip`` of a tensor), ``steps * s``; a step of plain gradient descent on them
moves ``s`` as far as in LSQ when the gradient is scaled by ``steps^2 / sqrt(terms * steps)``.
For 8 bits we take the steps of 4 bits: with 127 or 255 a single clipped value can throw the scale
by more than its own size.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from quant import numerics
from quant.numerics import Scheme

WEIGHT_STEPS = 7        #: positive levels of a 4-bit weight, the ``steps`` above
ACT_STEPS = 15          #: the same of an activation


@functools.cache
def _table(scheme: Scheme, device: torch.device) -> tuple[Tensor, Tensor]:
    return (torch.from_numpy(numerics.thresholds(scheme)).to(device),
            torch.from_numpy(numerics.weight_values(scheme)).to(device))


def _rows(vector: Tensor, weight: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (weight.dim() - 1))


def weight_to_int(weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
    """Weight values (int64) of ``weight`` (O, ...), each row by its ``alpha`` and ``scheme``."""
    ratio, scheme = (weight / _rows(alpha, weight)).contiguous(), _rows(scheme, weight)
    values = torch.zeros_like(weight, dtype=torch.int64)
    for each in Scheme:
        bounds, table = _table(each, weight.device)
        values = torch.where(scheme == each, table[torch.bucketize(ratio, bounds)], values)
    return values


def denominators(scheme: Tensor) -> Tensor:
    """Denominator of each row's weight values, int64."""
    return torch.tensor([s.denominator for s in Scheme], device=scheme.device)[scheme.long()]


class _FakeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
        values = weight_to_int(weight, alpha, scheme)
        level = values.to(weight.dtype) / _rows(denominators(scheme), weight)
        ctx.save_for_backward(weight, alpha, level)
        return level * _rows(alpha, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, alpha, level = ctx.saved_tensors
        ratio = weight / _rows(alpha, weight)
        inside = ratio.abs() <= 1
        slope = torch.where(inside, level - ratio, level)
        factor = WEIGHT_STEPS**1.5 / weight[0].numel() ** 0.5
        return grad * inside, (grad * slope).flatten(1).sum(1) * factor, None


def fake_quantise_weight(weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
    """``alpha * value / denominator`` with the gradients described above."""
    return _FakeWeight.apply(weight, alpha, scheme)


def act_to_steps(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """``clamp(floor(x / scale + 0.5), low, high)``, the stored integer less its zero point."""
    return (x / scale).add_(0.5).floor_().clamp_(low, high)


class _FakeAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, clip: Tensor, low: int, high: int) -> Tensor:
        scale = clip / high
        y = act_to_steps(x, scale, low, high).mul_(scale)
        ctx.save_for_backward(x, y, scale)
        ctx.low, ctx.high = low, high
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, scale = ctx.saved_tensors
        low, high = ctx.low * scale.item(), ctx.high * scale.item()
        grad_x = torch.ops.aten.hardtanh_backward(grad, x, low, high)      # grad inside, else 0
        # sum of grad * (y - x) inside and grad * y outside, in steps of clip = high * scale
        slope = ((grad * y).sum() - (grad_x * x).sum()) / high
        return grad_x, slope * ACT_STEPS**1.5 / x[0].numel() ** 0.5, None, None


def fake_quantise_act(x: Tensor, clip: Tensor, low: int, high: int) -> Tensor:
    """``x`` on the grid of ``clip / high``, with the gradients described above."""
    return _FakeAct.apply(x, clip, low, high)


def best_alpha(weight: Tensor, scheme: Tensor, floor: float) -> Tensor:
    """Initial ``alpha`` (O,): least squared error for the fixed schemes, the maximum for PoT."""
    rows = weight.detach().flatten(1)
    peak = rows.abs().amax(1).clamp_min(floor)
    best, error = peak.clone(), torch.full_like(peak, torch.inf)
    for factor in np.linspace(1, 0.3, 36).tolist():
        alpha = (peak * factor).clamp_min(floor)
        quantised = _FakeWeight.apply(rows, alpha, scheme)
        squared = (quantised - rows).square().sum(1)
        better = squared < error
        best, error = torch.where(better, alpha, best), torch.where(better, squared, error)
    return torch.where(scheme == Scheme.POT4, peak, best)


def best_clip(x: Tensor, low: int, high: int, floor: float) -> Tensor:
    """Initial ``clip`` of an activation tensor: least squared error, from a sample of ``x``."""
    x = x.detach().flatten()
    x = x[:: max(1, x.numel() // 100_000)]
    if low == 0:
        x = x.clamp_min(0)
    peak = x.abs().max().clamp_min(floor)
    candidates = [(peak * f).clamp_min(floor) for f in np.linspace(1, 0.2, 81).tolist()]
    errors = [(act_to_steps(x, c / high, low, high) * (c / high) - x).square().mean()
              for c in candidates]
    return candidates[int(torch.stack(errors).argmin())]
