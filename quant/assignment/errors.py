# SPDX-License-Identifier: Apache-2.0
"""Error that each scheme brings to each row: what rounding does to the row's sums.

The rule ``error`` of :mod:`quant.assignment.assign` compares these; it is not the paper's.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ir.numerics import Scheme
from quant.assignment.derivatives import Inputs, measuring, weighted
from quant.assignment.moments import Moments, Weighted, patches, positions
from quant.nn.quantizers import fake_quantise_weight
from quant.nn.scales import MIN_SCALE

Report = Callable[[int, int], None]

FACTORS = torch.linspace(0.3, 1.15, 35).tolist()  #: of a row's peak, tried as its alpha
BATCH = 32  #: samples that pass the network at once


def weighted_alpha(weight: Tensor, diagonal: Tensor, scheme: Tensor, least: Tensor) -> Tensor:
    """``alpha`` (G, R) with the least squared error of nearest levels, weighted by ``diagonal``.

    ``weight`` is (G, R, T), ``diagonal`` (G, T) the inputs' second moments, ``least`` (G, R) what
    alpha must not fall below.
    """
    peak = weight.abs().amax(2).clamp_min(MIN_SCALE)
    best, error = torch.maximum(peak, least), torch.full_like(peak, torch.inf)
    weights = diagonal.to(weight.dtype)[:, None]
    for factor in FACTORS:
        alpha = torch.maximum(peak * factor, least)
        squared = nearest(weight, alpha, scheme).sub_(weight).square_().mul_(weights).sum(2)
        best = torch.where(squared < error, alpha, best)
        error = torch.minimum(error, squared)
    return best


def nearest(weight: Tensor, alpha: Tensor, scheme: Tensor) -> Tensor:
    """Nearest levels of ``weight`` (..., T) on the grids ``alpha``, ``scheme`` (...)."""
    flat = weight.reshape(-1, weight.shape[-1])
    return fake_quantise_weight(flat, alpha.flatten(), scheme.flatten()).view_as(weight)


def error_of(weight: Tensor, rounded: Tensor, hessian: Tensor) -> Tensor:
    """Mean squared error (G, R), float64, of the sums of ``rounded`` (G, R, T).

    ``hessian`` is (G, T, T), that of :class:`~quant.assignment.moments.Moments`.
    """
    change = (weight - rounded).double()
    return ((change @ hessian) * change).sum(2)


@torch.no_grad()
def errors_of_schemes(layer: Weighted, hessian: Tensor) -> Tensor:
    """Errors (schemes, O), float64, of a layer's rows at their nearest levels, by scheme."""
    weight = layer.weight.detach().float().view(len(hessian), -1, hessian.shape[-1])
    none = torch.zeros_like(weight[..., 0])
    found = []
    for scheme in Scheme:
        numbers = torch.full_like(none, int(scheme), dtype=torch.uint8)
        alpha = weighted_alpha(weight, hessian.diagonal(dim1=1, dim2=2), numbers, none)
        found.append(error_of(weight, nearest(weight, alpha, numbers), hessian).flatten())
    return torch.stack(found).cpu()


def savings(errors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fall of the error (O,) from Fixed-4 to Fixed-8, by layer, from :func:`row_errors`."""
    return {name: e[Scheme.FIXED4] - e[Scheme.FIXED8] for name, e in errors.items()}


@torch.no_grad()
def row_errors(
    model: nn.Module, inputs: Inputs, *, seed: int = 0, report: Report | None = None
) -> dict[str, Tensor]:
    """Mean squared error of each row's sums under each scheme, (schemes, O), by layer name.

    The float network gives the inputs of its layers for the samples ``inputs``. ``report`` is
    called with (batches done, batches in all).
    """
    layers, generator = weighted(model), torch.Generator().manual_seed(seed)
    found: dict[str, Moments] = {}
    samples = inputs if isinstance(inputs, tuple) else (inputs,)
    handles = []
    for name, layer in layers.items():

        def note(module: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
            assert isinstance(module, nn.Conv2d | nn.Linear)
            if name not in found:
                found[name] = Moments(module)
            places = positions(module, given[0], generator)
            found[name].add(patches(module, given[0], places))

        handles.append(layer.register_forward_pre_hook(note))
    parts = list(zip(*(x.split(BATCH) for x in samples), strict=True))
    try:
        with measuring(model):
            for done, part in enumerate(parts, 1):
                model(*part)
                if report:
                    report(done, len(parts))
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: errors_of_schemes(layer, found[name].hessian(centred=False))
        if name in found
        else torch.zeros(len(Scheme), len(layer.weight), dtype=torch.float64)
        for name, layer in layers.items()
    }
