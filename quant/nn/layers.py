# SPDX-License-Identifier: Apache-2.0
"""Modules of a network that is trained for the accelerator."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import numerics
from ir.numerics import Scheme
from quant.nn import quantizers
from quant.nn.activations import ActQuantiser
from quant.nn.apot import APOT4
from quant.nn.modes import evaluating
from quant.nn.scales import MIN_SCALE, ClampedScales

SUMS_AT_MOST = 0.95  #: of the accumulator, before the rounding of weights, in training
FITTED_AT_MOST = 0.999  #: the same after it; then alignment moves alpha by up to 2^-16
ALPHA_STEP = 1.01


class RowQuantised(ClampedScales):
    """Mixin of a layer whose weight rows each have an ``alpha`` and a scheme.

    Schemes are numbers of :class:`ir.numerics.Scheme`, or :data:`quant.nn.apot.APOT4`.
    ``quantise`` switches the fake quantisation; off, the layer computes with its float weights.
    """

    weight: Tensor  #: float, (O, ...)
    alpha: nn.Parameter  #: (O,), real value of each row's largest level, above 0
    scheme: Tensor  #: uint8 (O,)
    quantise: bool
    input_most = 0  #: largest code of its inputs, where the accumulator must hold any sum of them
    input_codes = 0  #: largest code that their bits hold, which PoT-4 rows subtract from
    stale = False  #: whether the weights came from a checkpoint without scales

    @classmethod
    def from_float(cls, layer: nn.Conv2d | nn.Linear, memo: dict[int, Any] | None = None) -> Self:
        """Copy of a float layer; all rows are Fixed8 until they are assigned a scheme.

        ``memo`` is one of :func:`copy.deepcopy`: copies with the same one share what the layers
        share, and layers with the same weights their scales, too.
        """
        memo = {} if memo is None else memo
        quantised = cls.__new__(cls)  # same parameters and hyperparameters
        own = {k: v for k, v in layer.__dict__.items() if k != "_modules"}
        memo[id(layer)] = quantised
        quantised.__dict__ = copy.deepcopy(own, memo)
        quantised.__dict__["_modules"] = dict(layer._modules)  # children stay what they are
        quantised.quantise = True
        scheme = torch.full(
            (len(layer.weight),), int(Scheme.FIXED8), dtype=torch.uint8, device=layer.weight.device
        )
        quantised.register_buffer("scheme", scheme)
        quantised.alpha = nn.Parameter(quantizers.best_alpha(layer.weight, scheme, MIN_SCALE))
        first = memo.setdefault(id(quantised.weight), quantised)
        if first is not quantised:
            quantised.scheme, quantised.alpha = first.scheme, first.alpha
        return quantised

    @torch.no_grad()
    def assign(self, scheme: Tensor) -> int:
        """Assignment of ``scheme`` (O,) to the rows, in place; returns how many changed.

        Those get a new ``alpha``.
        """
        changed = (scheme.to(self.scheme) != self.scheme).nonzero()[:, 0]
        self.scheme.copy_(scheme)
        if len(changed):
            fresh = quantizers.best_alpha(self.weight[changed], self.scheme[changed], MIN_SCALE)
            self.alpha[changed] = fresh.to(self.alpha)
            self._leave_room()
        return len(changed)

    @torch.no_grad()
    def refresh_alpha(self) -> None:
        """Update of every row's ``alpha`` from its weights and scheme, as for a new layer."""
        self.stale = False
        self.alpha.copy_(quantizers.best_alpha(self.weight, self.scheme, MIN_SCALE))
        self._leave_room()

    @torch.no_grad()
    def clamp_scales_(self) -> None:
        """Clamp of ``alpha``, in place, to 1/16 and twice the row's largest weight.

        Outside, nearly all weights are clipped or become zero. Where any sums of that many terms
        would not fit the accumulator, ``alpha`` is larger: the values of the row are smaller.
        """
        dims = tuple(range(1, self.weight.dim()))  # faster than abs, which makes a copy
        peak = torch.maximum(self.weight.amax(dims), -self.weight.amin(dims))
        self.alpha.clamp_(peak / 16, 2 * peak).clamp_(min=MIN_SCALE)
        self._leave_room()

    @property
    def _is_crowded(self) -> bool:
        """Whether rows of the largest values would not fit the accumulator."""
        largest, terms = max(scheme.denominator for scheme in Scheme), self.weight[0].numel()
        raw = Scheme.POT4.denominator * self.input_codes / 2
        return terms * max(largest * self.input_most, raw) > numerics.SUM_LIMIT

    @torch.no_grad()
    def _leave_room(self) -> None:
        """Increase of ``alpha``, in place, to where sums fit, but for the rounding of weights."""
        if self._is_crowded:
            self.alpha.copy_(torch.maximum(self.alpha, self.least_alpha(self.scheme)))

    @torch.no_grad()
    def least_alpha(self, scheme: Tensor) -> Tensor:
        """``alpha`` (O,) with which sums fit the accumulator, but for the rounding of weights.

        0 where any do; ``scheme`` (O,) is that of the rows.
        """
        if not self._is_crowded:
            return torch.zeros_like(self.alpha)
        rows = self.weight.float().flatten(1)
        above = F.relu(rows).sum(1)
        reach = self._reach(above, above - rows.sum(1), scheme) * quantizers.denominators(scheme)
        return (reach / (SUMS_AT_MOST * numerics.SUM_LIMIT)).to(self.alpha)

    def _reach(self, above: Tensor, below: Tensor, scheme: Tensor) -> Tensor:
        """Largest sum of each row (O,), from the sums of its positive and its negative weights.

        PoT-4 rows have raw sums of ``w * a`` and ``-w * (codes - a)``, without a sign, and so a
        bit more room.
        """
        reach = torch.maximum(above, below) * self.input_most
        raw = (above + below) * self.input_codes / 2
        return torch.where(scheme == Scheme.POT4, torch.maximum(reach.to(raw), raw), reach)

    @torch.no_grad()
    def fit_sums_(self) -> None:
        """Increase of ``alpha``, in place, in steps, until no sum can leave the accumulator."""
        while self._is_crowded:
            values = self.to_int().flatten(1)
            reach = self._reach(F.relu(values).sum(1), F.relu(-values).sum(1), self.scheme)
            tight = reach > FITTED_AT_MOST * numerics.SUM_LIMIT
            if not tight.any():
                return
            self.alpha[tight] *= ALPHA_STEP

    @property
    def effective_weight(self) -> Tensor:
        """Weight that forward uses, in the shape of ``weight``."""
        if not self.quantise:
            return self.weight
        self.check_scales()
        return quantizers.fake_quantise_weight(self.weight, self.alpha, self.scheme)

    def check_scales(self) -> None:
        """Check that scales belong to these weights: ValueError otherwise."""
        if self.stale:
            raise ValueError(
                "the weights came from a checkpoint without scales, so that those of the model fit "
                "no more: load it into the float network and quantise that, or calibrate again"
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **options)
        if f"{prefix}weight" in state_dict:
            self.stale = f"{prefix}alpha" not in state_dict

    def to_int(self) -> Tensor:
        """Weight values of each row's scheme, int64, in the shape of ``weight``."""
        return quantizers.weight_to_int(self.weight.detach(), self.alpha.detach(), self.scheme)


class QuantConv2d(RowQuantised, nn.Conv2d):
    """Convolution with row-wise quantised weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolution of ``input`` (N, C, H, W) with :attr:`effective_weight`."""
        return self._conv_forward(input, self.effective_weight, self.bias)


class CopyLayer(QuantConv2d):
    """Depthwise 1x1 convolution with weights of one: a sum that equals the codes that it reads.

    Its weights are not trained. It takes vectors (N, C), too.
    """

    @classmethod
    def of_channels(cls, channels: int) -> Self:
        """Layer of so many channels."""
        layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device="meta")
        layer.weight = nn.Parameter(torch.ones(channels, 1, 1, 1))
        return cls.from_float(layer).requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """``input`` (N, C, H, W) or (N, C), with the weights' rounding."""
        if input.dim() == 2:
            return super().forward(input[:, :, None, None]).flatten(1)
        return super().forward(input)


class QuantLinear(RowQuantised, nn.Linear):
    """Fully connected layer with row-wise quantised weights."""

    def forward(self, input: Tensor) -> Tensor:
        """Product of ``input`` (..., C) with :attr:`effective_weight`."""
        return F.linear(input, self.effective_weight, self.bias)


def quantised_layers(model: nn.Module) -> dict[str, QuantConv2d | QuantLinear]:
    """Layers with row-wise quantised weights by name, in order of definition."""
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantConv2d | QuantLinear)}


def training_only(model: nn.Module) -> list[str]:
    """Names of the layers with rows of APoT-4, for which the accelerator has no lanes."""
    return [
        name
        for name, layer in quantised_layers(model).items()
        if bool(layer.scheme.eq(APOT4).any())
    ]


@contextlib.contextmanager
def float_mode(model: nn.Module) -> Iterator[None]:
    """Context with ``model`` in evaluation, float weights and unrounded activations."""
    modules = [m for m in model.modules() if isinstance(m, RowQuantised | ActQuantiser)]
    before = [m.quantise for m in modules]
    for module in modules:
        module.quantise = False
    try:
        with evaluating(model):
            yield
    finally:
        for module, state in zip(modules, before, strict=True):
            module.quantise = state
