# SPDX-License-Identifier: Apache-2.0
"""Modules of a network that is trained for the accelerator."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant import numerics, quantizers
from quant.numerics import Scheme

#: Scales are kept at or above this.
MIN_SCALE = 1e-6


class RowQuantised:
    """Mixin of a layer whose weight rows each have an ``alpha`` and a scheme.

    ``quantise`` switches the fake quantisation; off, the layer computes with its float weights.
    """

    @classmethod
    def from_float(cls, layer: nn.Module) -> Self:
        """A copy of a float layer; all rows are Fixed8 until they are assigned a scheme."""
        quantised = copy.deepcopy(layer)
        quantised.__class__ = cls               # same parameters and hyperparameters
        quantised.quantise = True
        scheme = torch.full((len(layer.weight),), int(Scheme.FIXED8), dtype=torch.uint8,
                            device=layer.weight.device)
        quantised.register_buffer("scheme", scheme)
        quantised.alpha = nn.Parameter(quantizers.best_alpha(layer.weight, scheme, MIN_SCALE))
        return quantised

    @torch.no_grad()
    def assign(self, scheme: Tensor) -> int:
        """Give the rows their schemes; returns how many changed. Those get a new ``alpha``."""
        changed = scheme.to(self.scheme) != self.scheme
        self.scheme.copy_(scheme)
        fresh = quantizers.best_alpha(self.weight, self.scheme, MIN_SCALE)
        self.alpha.copy_(torch.where(changed, fresh, self.alpha))
        return int(changed.sum())

    @property
    def effective_weight(self) -> Tensor:
        """The weight that forward uses."""
        if not self.quantise:
            return self.weight
        return quantizers.fake_quantise_weight(self.weight, self.alpha, self.scheme)

    def to_int(self) -> Tensor:
        """Weight values, int64, in the shape of ``weight``."""
        return quantizers.weight_to_int(self.weight.detach(), self.alpha.detach(), self.scheme)


class QuantConv2d(RowQuantised, nn.Conv2d):
    """Convolution with row-wise quantised weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.effective_weight, self.bias)


class QuantLinear(RowQuantised, nn.Linear):
    """Fully connected layer with row-wise quantised weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_weight, self.bias)


class ActQuantiser(nn.Module):
    """Puts a tensor on the grid of an unsigned integer with a learned clip.

    Parameters
    ----------
    bits : 4 or 8
    signed : values of both signs, stored with a zero point of half the range. Otherwise negative
        values become 0, which makes the module a ReLU.

    ``quantise`` switches rounding and clip; off, it is a ReLU or nothing. ``observe`` makes the
    next forward set ``clip`` from the data and pass it unquantised.
    """

    def __init__(self, bits: int, signed: bool = False) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.quantise, self.observe = True, False
        self.zero_point = 1 << (bits - 1) if signed else 0
        self.low, self.high = -self.zero_point, numerics.act_max(bits) - self.zero_point
        self.clip = nn.Parameter(torch.tensor(1.0))

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}"

    @property
    def scale(self) -> Tensor:
        """Step of the grid, float32."""
        return self.clip / self.high

    def forward(self, x: Tensor) -> Tensor:
        if self.observe:
            self.clip.data.copy_(quantizers.best_clip(x, self.low, self.high, MIN_SCALE))
        if self.observe or not self.quantise:
            return x if self.signed else F.relu(x)
        return quantizers.fake_quantise_act(x, self.clip, self.low, self.high)

    def to_int(self, x: Tensor) -> Tensor:
        """The stored integers, int64."""
        steps = quantizers.act_to_steps(x, self.scale, self.low, self.high)
        return steps.to(torch.int64) + self.zero_point


class QuantAvgPool(nn.AdaptiveAvgPool2d):
    """Global average as an unsigned 8-bit integer: the sum itself where it fits, else its most.

    ``source`` is the quantiser of the pool's input, whose scale decides the pool's.
    """

    def __init__(self, source: ActQuantiser) -> None:
        super().__init__(1)
        self._source = [source]                 # in a list, because it is no child of this module

    @property
    def source(self) -> ActQuantiser:
        return self._source[0]

    def scale(self, area: int) -> Tensor:
        """Step of the output for windows of ``area`` pixels."""
        return self.source.scale / min(area, numerics.act_max(8) // self.source.high)

    def forward(self, x: Tensor) -> Tensor:
        mean = super().forward(x)
        if self.source.observe or not self.source.quantise:
            return mean
        high = numerics.act_max(8)
        clip = self.scale(x.shape[2] * x.shape[3]).detach() * high
        return quantizers.fake_quantise_act(mean, clip, 0, high)


def quantised_layers(model: nn.Module) -> dict[str, QuantConv2d | QuantLinear]:
    """Layers with row-wise quantised weights by name, in order of definition."""
    return {n: m for n, m in model.named_modules() if isinstance(m, RowQuantised)}


@torch.no_grad()
def keep_scales_sane(model: nn.Module) -> None:
    """Undo steps of the optimiser that would make a scale negative or useless.

    ``alpha`` stays between 1/16 and twice the row's largest weight. Outside, nearly all weights are
    clipped or become zero, and the gradient shows no way back.
    """
    for module in model.modules():
        if isinstance(module, RowQuantised):
            peak = module.weight.flatten(1).abs().amax(1)
            module.alpha.clamp_(peak / 16, 2 * peak).clamp_(min=MIN_SCALE)
        elif isinstance(module, ActQuantiser):
            module.clip.clamp_(min=MIN_SCALE)


@contextlib.contextmanager
def float_mode(model: nn.Module) -> Iterator[None]:
    """Evaluate ``model`` with its float weights, unrounded activations and fixed batch-norm."""
    modules = [m for m in model.modules() if isinstance(m, RowQuantised | ActQuantiser)]
    before, training = [m.quantise for m in modules], model.training
    for module in modules:
        module.quantise = False
    model.eval()
    try:
        yield
    finally:
        for module, state in zip(modules, before, strict=True):
            module.quantise = state
        model.train(training)
