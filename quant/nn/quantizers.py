# SPDX-License-Identifier: Apache-2.0
"""Torch side of :mod:`ir.numerics`: the same integers, with gradients.

Gradients are straight-through (RMSMP, Eq. 6) inside the range and zero outside. Those of a scale
follow LSQ: if ``s`` is the step, ``dq/ds = round(v) - v`` inside and the bound outside, and the
gradient is scaled by ``1 / sqrt(terms * steps)``. Our parameters are the largest magnitudes
(``alpha`` of a row, ``clip`` of a tensor), ``steps * s``; a step of plain gradient descent on them
moves ``s`` as far as in LSQ when the gradient is scaled by ``steps^2 / sqrt(terms * steps)``.
For 8 bits we take the steps of 4 bits: with 127 or 255 a single clipped value can throw the scale
by more than its own size.

Everything here is computed in float32, whatever the type of the arguments: in bfloat16 under
autocast the integers would be others.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ir import numerics
from ir.numerics import Scheme
from quant.nn.apot import APOT4, apot4_values

WEIGHT_STEPS = 7  #: positive levels of a 4-bit weight, the ``steps`` above
ACT_STEPS = 15  #: the same of an activation
SCHEMES = {int(s): s.name for s in Scheme} | {APOT4: "APOT4"}  #: names by number
ABOVE_ONE = float(np.nextafter(np.float32(1), np.float32(2)))


class Tables(NamedTuple):
    """Lookup tables of the levels of all schemes.

    Midpoints between the levels of a scheme are multiples of ``1 / (2 * denominator)``, so that the
    level of a ratio ``v`` depends on ``ceil(2 * denominator * v)`` alone: that plus ``zero`` of the
    scheme is its place in the tables.
    """

    twice: Tensor  #: by scheme, ``2 * denominator``, float64
    zero: Tensor  #: by scheme, place of the ratio 0, float64
    values: Tensor  #: by place, int64
    levels: Tensor  #: by place, ``value / denominator``, float32


def _build_tables() -> Tables:
    twice, zero, values, levels, size = [], [], [], [], 0
    for scheme in SCHEMES:
        of_scheme = apot4_values() if scheme == APOT4 else numerics.weight_values(Scheme(scheme))
        midpoints, top = of_scheme[1:] + of_scheme[:-1], 2 * of_scheme[-1]
        twice.append(top)
        zero.append(size + top)
        values.append(of_scheme[np.searchsorted(midpoints, np.arange(-top, top + 1))])
        levels.append(values[-1] / of_scheme[-1])
        size += len(values[-1])
    return Tables(
        torch.tensor(twice, dtype=torch.float64),
        torch.tensor(zero, dtype=torch.float64),
        torch.from_numpy(np.concatenate(values)),
        torch.from_numpy(np.concatenate(levels)).float(),
    )


_TABLES = {torch.device("cpu"): _build_tables()}


def _tables(device: torch.device) -> Tables:
    if device not in _TABLES:
        _TABLES[device] = Tables(*(t.to(device) for t in _TABLES[torch.device("cpu")]))
    return _TABLES[device]


def _rows(vector: Tensor, weight: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (weight.dim() - 1))


def _flat(x: Tensor) -> Tensor:
    """``x`` in one dimension, in the order of its memory: a view where ``x`` is dense."""
    return x.permute(sorted(range(x.dim()), key=x.stride, reverse=True)).reshape(-1)


def _inside(grad: Tensor, ratio: Tensor, low: float, high: float) -> Tensor:
    """``grad`` where ``low < ratio < high``, else 0, in the memory of ``ratio``."""
    return torch.ops.aten.hardtanh_backward.grad_input(grad, ratio, low, high, grad_input=ratio)


def _places(weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
    """Where the tables have each weight, int32. The ratio is float32, as the contract has it; its
    product with a number of 8 bits is exact in float64, and so is the decision."""
    tables, scheme = _tables(weight.device), scheme.long()
    place = (weight / _rows(alpha, weight)).clamp_(-1, 1).double()
    place.mul_(_rows(tables.twice[scheme], weight)).ceil_()
    place = place.add_(_rows(tables.zero[scheme], weight)).int()
    return place.clamp_(0, len(tables.values) - 1)  # not-a-number may be any integer


def weight_to_int(weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
    """Weight values, int64, of ``weight`` (O, ...), in its shape.

    ``alpha`` (O,) and ``scheme`` (O,) are those of the rows.
    """
    return _tables(weight.device).values[_places(weight.float(), alpha.float(), scheme)]


def denominators(scheme: Tensor) -> Tensor:
    """Denominator of each row's weight values, int64 (O,)."""
    return _tables(scheme.device).twice[scheme.long()].long() // 2


def _quantise(weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
    """``alpha * value / denominator``, float32."""
    place = _places(weight, alpha, scheme)
    out = torch.empty_like(place, dtype=torch.float32)
    torch.index_select(_tables(weight.device).levels, 0, _flat(place), out=_flat(out))
    return out.mul_(_rows(alpha, weight))


class _FakeWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
        out = _quantise(weight, alpha, scheme)
        ctx.save_for_backward(weight, alpha, out)
        return out

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        weight, alpha, out = ctx.saved_tensors
        grad_weight = _inside(grad, weight / _rows(alpha, weight), -ABOVE_ONE, ABOVE_ONE)
        slope = (grad * out).addcmul_(grad_weight, weight, value=-1)  # in units of alpha
        slope = slope.sum(tuple(range(1, weight.dim()))) / alpha
        return grad_weight, slope * WEIGHT_STEPS**1.5 / weight[0].numel() ** 0.5, None


def fake_quantise_weight(weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
    """Weight ``alpha * value / denominator``, in ``weight``'s shape (O, ...) and type.

    ``alpha`` and ``scheme`` are (O,). The gradients are those described above.
    """
    return _FakeWeight.apply(weight.float(), alpha.float(), scheme).to(weight.dtype)


def act_to_steps(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Steps ``clamp(floor(x / scale + 0.5), low, high)``, in ``x``'s shape.

    They are the stored integer less its zero point.
    """
    return (x.float() / scale).add_(0.5).floor_().clamp_(low, high)


class _FakeAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, clip: Tensor, low: int, high: int) -> Tensor:
        scale = clip / high
        y = act_to_steps(x, scale, low, high).mul_(scale)
        ctx.save_for_backward(x, y, scale)
        ctx.low, ctx.high = low, high
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, y, scale = ctx.saved_tensors
        if not grad.stride() == x.stride() == y.stride():  # the products go through memory
            x, grad = (torch.empty_like(y).copy_(each) for each in (x, grad))
        grad_x = _inside(grad, x / scale, ctx.low, ctx.high)
        # sum of grad * (y - x) inside and grad * y outside, in steps of clip = high * scale
        slope = (_flat(grad).dot(_flat(y)) - _flat(grad_x).dot(_flat(x))) / scale / ctx.high
        return grad_x, slope * ACT_STEPS**1.5 / x[0].numel() ** 0.5, None, None


def fake_quantise_act(x: Tensor, clip: Tensor, low: int, high: int) -> Tensor:
    """Values of ``x`` on the grid of ``clip / high``, in ``x``'s shape and type.

    They lie between ``low`` and ``high`` steps. The gradients are those described above.
    """
    return _FakeAct.apply(x.float(), clip.float(), low, high).to(x.dtype)


def best_alpha(weight: Tensor, scheme: Tensor, floor: float) -> Tensor:
    """Initial ``alpha`` (O,): the maximum for PoT, least squared error for the other schemes.

    ``weight`` is (O, ...), ``scheme`` (O,), ``floor`` the least ``alpha``.
    """
    rows = weight.detach().float().flatten(1)
    peak = rows.abs().amax(1).clamp_min(floor)
    best, error = peak.clone(), torch.full_like(peak, torch.inf)
    for factor in np.linspace(1, 0.3, 36).tolist():
        alpha = (peak * factor).clamp_min(floor)
        squared = _quantise(rows, alpha, scheme).sub_(rows).square_().sum(1)
        better = squared < error
        best, error = torch.where(better, alpha, best), torch.where(better, squared, error)
    return torch.where(scheme == Scheme.POT4, peak, best)


def sample(x: Tensor, most: int) -> Tensor:
    """Sample (n,) of ``x``, n at most ``most``: always the same elements, whatever its axes."""
    x = x.detach().flatten()
    if x.numel() <= most:
        return x
    places = torch.randint(x.numel(), (most,), generator=torch.Generator().manual_seed(0))
    return x[places.to(x.device)]


def best_clip(x: Tensor, low: int, high: int, floor: float) -> Tensor:
    """Initial ``clip`` of activations: least squared error, from a sample of ``x``.

    ``low`` and ``high`` are the least and largest step, ``floor`` the least clip.
    """
    x = sample(x, 100_000).float()
    if low == 0:
        x = x.clamp_min(0)
    peak = x.abs().max().clamp_min(floor)
    candidates = [(peak * f).clamp_min(floor) for f in np.linspace(1, 0.2, 81).tolist()]
    errors = [
        (act_to_steps(x, c / high, low, high) * (c / high) - x).square().mean() for c in candidates
    ]
    return candidates[int(torch.stack(errors).argmin())]
