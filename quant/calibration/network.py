# SPDX-License-Identifier: Apache-2.0
"""Quantisation of a prepared network without training, layer after layer.

Every layer is rounded for the inputs that it gets from those before it, which are rounded already,
so that its sums come as near as they can to those of the float network: by least squares for what
rounding did to the inputs, by error compensation for its own (:mod:`quant.calibration.rounding`),
and by its bias, or the mean of the batch-norm behind it, for the mean of what is left. Then the
grid of its output is chosen for the sums that it really has.
"""

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from ir.numerics import Scheme
from quant.assignment.assign import assign_rows, row_counts, wide_layers
from quant.assignment.methods import Method
from quant.assignment.moments import Moments, patches, positions
from quant.calibration.rounding import Rounded, corrected, round_rows
from quant.calibration.values import Values
from quant.capture.nodes import argument, module_of, name_of
from quant.lowering.grids import NORMS
from quant.nn.activations import ActQuantiser
from quant.nn.layers import CopyLayer, QuantConv2d, QuantLinear, RowQuantised
from quant.nn.modes import evaluating
from quant.nn.tail import without_tails

PART = 16  #: samples that a layer computes at once
GRID_SAMPLES = 32  #: samples that the grid of a layer's output is chosen for

Report = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How :func:`quantise_layers` rounds.

    Parameters
    ----------
    method : schemes and their ratio
    tile_rows : rows of the accelerator's array, by which the counts per layer follow
    assign, split : rules of :func:`quant.assignment.assign.assign_rows`; "error" compares the
        errors that are left after compensation
    first_last : "w8a8" makes every row of the first and the last layer Fixed8
    compensate : carry the error of each weight over to the others; False rounds to the nearest
    seed : of the places of images that are looked at, and of random rules
    """

    method: Method
    tile_rows: int
    assign: str = "error"
    split: str = "error"
    first_last: str = "same"
    compensate: bool = True
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """Cost of a layer's rows.

    Parameters
    ----------
    name : of the layer
    signal : variance of each row's sums in the float network, or their mean square (O,)
    errors : mean squared error of each row's sums under each scheme, (schemes, O)
    scheme : of each row, uint8 (O,)
    """

    name: str
    signal: Tensor
    errors: Tensor
    scheme: Tensor

    @property
    def error(self) -> Tensor:
        """Mean squared error of each row's sums under its scheme (O,)."""
        return self.errors.gather(0, self.scheme.long()[None])[0]


@torch.no_grad()
def quantise_layers(
    model: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    recipe: Recipe,
    *,
    scores: dict[str, Tensor] | None = None,
    report: Report | None = None,
) -> list[LayerReport]:
    """Rounding of the weights of ``model``, in place, and choice of its schemes and grids.

    Parameters
    ----------
    model : as :func:`quant.lowering.prepare.prepare` gives it, with float weights and grids of
        :func:`quant.lowering.prepare.calibrate`
    inputs : calibration samples, each (N, ...)
    scores : sensitivity of each row by layer, where ``recipe.assign`` is not "error"
    report : called with (layers done, layers in all)
    """
    with evaluating(model), without_tails(model):
        return _Rounder(model, inputs, recipe, scores or {}).run(report)


class _Rounder:
    """One pass through the graph, with the values of the float network beside those of ours."""

    def __init__(
        self,
        model: fx.GraphModule,
        inputs: tuple[Tensor, ...],
        recipe: Recipe,
        scores: dict[str, Tensor],
    ) -> None:
        self.model, self.recipe, self.scores = model, recipe, scores
        reference = copy.deepcopy(model)
        for module in reference.modules():
            if isinstance(module, RowQuantised | ActQuantiser):
                module.quantise = False
        self.values = Values(model, inputs, PART)
        self.reference = Values(reference, inputs, PART, half=True)
        self.reference_model = reference
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.wide = wide_layers(model, recipe.first_last)
        self.calls: dict[nn.Parameter, list[fx.Node]] = {}
        for node in model.graph.nodes:
            module = module_of(node)
            if isinstance(module, QuantConv2d | QuantLinear) and not isinstance(module, CopyLayer):
                self.calls.setdefault(module.alpha, []).append(node)

    def run(self, report: Report | None) -> list[LayerReport]:
        first = {nodes[0]: nodes for nodes in self.calls.values()}
        pending = self._moments_of_ties()
        found: list[LayerReport] = []
        for node in self.model.graph.nodes:
            if node in first:
                found.append(self._layer(first[node], pending.get(node)))
                if report:
                    report(len(found), len(first))
            elif isinstance(module := module_of(node), ActQuantiser) and module.tie is None:
                self._grid(node, module)
            if Values.keeps(node):
                self.values.keep(node)
                self.reference.keep(node)
        return found

    def _moments_of_ties(self) -> dict[fx.Node, Moments]:
        """Moments, by first call, of what the further calls of the same weights read.

        They are those of the float network: the calls come before all layers are rounded.
        """
        ties = {nodes[0]: nodes[1:] for nodes in self.calls.values() if len(nodes) > 1}
        if not ties:
            return {}
        found: dict[fx.Node, Moments] = {}
        values = Values(self.reference_model, self.reference.inputs, PART)
        owner = {node: first for first, nodes in ties.items() for node in nodes}
        for node in self.model.graph.nodes:
            if node in owner:
                layer = _layer_of(node)
                moments = found.setdefault(owner[node], Moments(layer))
                for part in range(values.parts):
                    x = values.of(argument(node), part)
                    moments.add(patches(layer, x, positions(layer, x, self.generator)))
            if Values.keeps(node):
                values.keep(node)
        return found

    def _layer(self, nodes: list[fx.Node], moments: Moments | None) -> LayerReport:
        node, layer = nodes[0], _layer_of(nodes[0])
        moments = moments or Moments(layer)
        for part in range(self.values.parts):
            x, y = (v.of(argument(node), part) for v in (self.values, self.reference))
            places = positions(layer, x, self.generator)
            moments.add(patches(layer, x, places), patches(layer, y, places))
        norm = _norm_behind(node)
        centred = len(nodes) == 1 and (norm is not None or layer.bias is not None)
        hessian = moments.hessian(centred)
        weight = layer.weight.detach().float().clone(memory_format=torch.contiguous_format)
        weight = weight.view(len(hessian), -1, hessian.shape[-1])
        wanted = weight
        if self.recipe.compensate:
            wanted = corrected(weight, moments, hessian, centred)
        by_scheme = []
        for scheme in Scheme:
            numbers = torch.full_like(layer.scheme, int(scheme))
            least = layer.least_alpha(numbers)
            by_scheme.append(
                round_rows(
                    wanted,
                    hessian,
                    numbers.view(weight.shape[:2]),
                    least.view(weight.shape[:2]),
                    compensated=self.recipe.compensate,
                )
            )
        errors = torch.stack([rounded.error.flatten() for rounded in by_scheme]).cpu()
        layer.scheme.copy_(self._schemes(name_of(node), layer, errors))
        chosen = _chosen(by_scheme, layer.scheme.view(weight.shape[:2]))
        layer.weight.copy_(chosen.weight.view_as(layer.weight))
        layer.alpha.copy_(chosen.alpha.flatten())
        if centred:
            shift = chosen.weight.double() @ moments.mean[..., None]
            shift -= weight.double() @ moments.reference_mean[..., None]
            _shift_mean(layer, norm, shift.flatten())
        signal = ((weight.double() @ moments.reference_hessian(centred)) * weight).sum(2)
        return LayerReport(
            name_of(node), signal.flatten().cpu(), errors, layer.scheme.cpu().clone()
        )

    def _schemes(self, name: str, layer: QuantConv2d | QuantLinear, errors: Tensor) -> Tensor:
        recipe = self.recipe
        score = errors[Scheme.FIXED4] - errors[Scheme.FIXED8]
        if recipe.assign != "error":
            score = self.scores.get(name, torch.zeros(len(layer.weight)))
        rows = len(layer.weight)
        return assign_rows(
            layer.weight,
            score,
            row_counts(recipe.method, rows, recipe.tile_rows, wide=name in self.wide),
            split=recipe.split,
            generator=self.generator,
            errors=errors,
        )

    def _grid(self, node: fx.Node, quantiser: ActQuantiser) -> None:
        """Choice of the grid of codes for the values that come to ``node`` now."""
        step = max(1, self.values.parts * PART // GRID_SAMPLES)
        parts = range(0, self.values.parts, step)
        given = [
            torch.cat([self.values.of(n, part) for part in parts])
            if "shape" in n.meta
            else self.values.of(n, 0)
            for n in node.all_input_nodes
        ]
        quantiser.observe = True
        try:
            quantiser(*given)
        finally:
            quantiser.observe = False


def _layer_of(node: fx.Node) -> QuantConv2d | QuantLinear:
    layer = module_of(node)
    assert isinstance(layer, QuantConv2d | QuantLinear)
    return layer


def _norm_behind(node: fx.Node) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
    """Batch-norm with running statistics that alone reads ``node``."""
    behind = module_of(next(iter(node.users))) if len(node.users) == 1 else None
    known = isinstance(behind, NORMS) and behind.running_mean is not None
    return behind if isinstance(behind, NORMS) and known else None


def _shift_mean(
    layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d | None, shift: Tensor
) -> None:
    """Change of the batch-norm, or of the bias, that takes ``shift`` (O,) from the sums."""
    if norm is not None and norm.running_mean is not None:
        norm.running_mean += shift.to(norm.running_mean)
    elif layer.bias is not None:
        layer.bias.sub_(shift.to(layer.bias))


def _chosen(by_scheme: list[Rounded], scheme: Tensor) -> Rounded:
    """Each row as its scheme has it; ``scheme`` is (G, R)."""
    pick = scheme.long()[None]

    def choose(values: list[Tensor]) -> Tensor:
        stacked = torch.stack(values)
        index = pick.view(*pick.shape, *[1] * (stacked.dim() - pick.dim()))
        return stacked.gather(0, index.expand(1, *stacked.shape[1:]))[0]

    weight, alpha, error = (choose(list(part)) for part in zip(*by_scheme, strict=True))
    return Rounded(weight, alpha, error)
