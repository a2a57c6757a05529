# SPDX-License-Identifier: Apache-2.0
"""Fusion groups of a prepared network: a layer and all that its requantisation does at once."""

import dataclasses
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, fx, nn

from ir import numerics
from ir.arrays import ExportError
from quant.capture.nodes import argument, module_of, name_of
from quant.lowering.prepare import NORMS, grid_of, is_add
from quant.nn.activations import ActQuantiser
from quant.nn.elementwise import TableQuantiser
from quant.nn.layers import QuantConv2d, QuantLinear
from quant.nn.product import ProductQuantiser
from quant.nn.quantizers import denominators

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionGroup:
    """Layer, batch-norm, residual operand and quantiser, in nodes of the flat graph.

    Parameters
    ----------
    name : of the layer
    norm : batch-norm behind the layer
    source : node of the codes that the layer reads
    residual : node of the codes that are added
    result : what the group writes: the call of the quantiser, or, of logits, of the last module
        before the output
    quantiser : None for logits
    """

    name: str
    layer: QuantConv2d | QuantLinear
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None
    source: fx.Node
    residual: fx.Node | None
    result: fx.Node
    quantiser: ActQuantiser | None

    @property
    def output(self) -> ActQuantiser:
        """Grid that the sums of the group are requantised to, before a table if there is one.

        Raises TypeError for logits, which have none.
        """
        if self.quantiser is None:
            raise TypeError(f"layer {self.name!r} gives logits, which nothing quantises")
        return self.quantiser.requantised

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """``(gamma, beta)``, float64 (O,).

        Bias and batch-norm in evaluation are ``gamma*x + beta``.
        """
        bias = self.layer.bias
        beta = torch.zeros(
            len(self.layer.weight), dtype=torch.float64, device=self.layer.weight.device
        )
        if bias is not None:
            beta = bias.detach().double()
        if self.norm is None:
            return torch.ones_like(beta), beta
        gamma, offset = fold_batch_norm(self.norm)
        return gamma, offset + gamma * beta

    def steps(self, source_scale: float, target_scale: float) -> Tensor:
        """Steps of the output per unit of the accumulator, float64 (O,); signed as gamma is."""
        alpha = self.layer.alpha.detach().double() / denominators(self.layer.scheme)
        return self.affine[0] * alpha * (source_scale / target_scale)


def fold_batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """``(gamma', beta')``, float64 (O,), with ``norm(x) = gamma' * x + beta'`` in evaluation.

    Raises ValueError for a batch-norm without running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch-norm without running statistics cannot be folded")
    mean, var, gamma, beta = (
        v.detach().double() for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    gamma = gamma / torch.sqrt(var + norm.eps)
    return gamma, beta - gamma * mean


def fusion_groups(model: fx.GraphModule) -> dict[fx.Node, FusionGroup]:
    """Groups of a model made by :func:`quant.lowering.prepare.prepare`, by their ``result``."""
    found = {}
    for node in model.graph.nodes:
        quantiser = module_of(node)
        if isinstance(quantiser, ProductQuantiser) or (
            isinstance(quantiser, TableQuantiser) and quantiser.arguments is None
        ):
            continue  # of codes
        if isinstance(quantiser, ActQuantiser):
            found[node] = _group(argument(node), node, quantiser)
        elif node.op == "output" and _is_sum(last := argument(node)):
            found[last] = _group(last, last, None)
    return found


def _is_sum(node: fx.Node) -> bool:
    return is_add(node) or isinstance(module_of(node), (QuantConv2d, QuantLinear, *NORMS))


def _group(node: fx.Node, result: fx.Node, quantiser: ActQuantiser | None) -> FusionGroup:
    residual = norm = None
    if is_add(node):
        node, residual = argument(node), argument(node, 1)
    if isinstance(module := module_of(node), nn.BatchNorm1d | nn.BatchNorm2d):
        norm, node = module, argument(node)
    layer = module_of(node)
    if not isinstance(layer, QuantConv2d | QuantLinear):
        raise TypeError(f"{name_of(node)} quantises what no layer accumulates")
    return FusionGroup(
        name=name_of(node),
        layer=layer,
        norm=norm,
        source=argument(node),
        residual=residual,
        result=result,
        quantiser=quantiser,
    )


def scale_of(node: fx.Node) -> float:
    """Step of the codes that ``node`` gives, a real number."""
    grid = grid_of(node)
    return numerics.IMAGE_SCALE if grid is None else grid.scale.item()


def encode_or_raise(name: str, encode: Callable[P, R], *values: P.args, **options: P.kwargs) -> R:
    """Result of ``encode(*values)``.

    Raises :class:`~ir.arrays.ExportError` of layer ``name`` for values that do not fit the format.
    """
    try:
        return encode(*values, **options)
    except ValueError as error:
        raise ExportError(f"layer {name!r}: {error}") from error
