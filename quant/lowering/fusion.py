# SPDX-License-Identifier: Apache-2.0
"""Fusion groups of a prepared network: a layer and all that its requantisation does at once."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, fx, nn

from ir import numerics
from ir.arrays import ExportError
from quant.capture.nodes import argument, constant_of, is_affine, module_of, name_of
from quant.capture.results import leaves
from quant.lowering.grids import NORMS, grid_of, is_add
from quant.nn.activations import ActQuantiser, Regrid
from quant.nn.elementwise import TableQuantiser
from quant.nn.layers import QuantConv2d, QuantLinear
from quant.nn.product import ProductQuantiser
from quant.nn.quantizers import denominators
from quant.nn.tail import Tail

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusionGroup:
    """Layer, batch-norm, residual operand and quantiser, in nodes of the flat graph.

    Parameters
    ----------
    name : of the layer
    links : batch-norms, and sums and products with constants, behind the layer
    source : node of the codes that the layer reads
    residual : node of the codes that are added
    result : what the group writes: the call of the quantiser, or, of logits, of the last module
        before the output
    quantiser : None for logits
    """

    name: str
    layer: QuantConv2d | QuantLinear
    links: tuple[fx.Node, ...]
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
        bias, weight = self.layer.bias, self.layer.weight
        beta = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        if bias is not None:
            beta = bias.detach().double()
        return _compose(self.links, beta)

    @property
    def norm(self) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
        """The last batch-norm that has a gamma."""
        norms = [m for m in map(module_of, self.links) if isinstance(m, NORMS)]
        return next((m for m in reversed(norms) if m.weight is not None), None)

    @property
    def gain(self) -> Tensor:
        """Factor of what follows :attr:`norm`, or the layer's bias where there is none."""
        modules = list(map(module_of, self.links))
        first = 0 if self.norm is None else modules.index(self.norm) + 1
        zeros = torch.zeros(
            len(self.layer.weight), dtype=torch.float64, device=self.layer.weight.device
        )
        return _compose(self.links[first:], zeros)[0]

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
    mean, var = norm.running_mean.detach().double(), norm.running_var.detach().double()
    gamma, beta = torch.ones_like(mean), torch.zeros_like(mean)
    if norm.weight is not None:
        gamma, beta = norm.weight.detach().double(), norm.bias.detach().double()
    gamma = gamma / torch.sqrt(var + norm.eps)
    return gamma, beta - gamma * mean


def _compose(links: Sequence[fx.Node], beta: Tensor) -> tuple[Tensor, Tensor]:
    """``(gamma, beta)``, float64 (O,), of ``x + beta`` with ``links`` behind it."""
    gamma = torch.ones_like(beta)
    for link in links:
        norm = module_of(link)
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            factor, offset = fold_batch_norm(norm)
            gamma, beta = factor * gamma, offset + factor * beta
            continue
        constant = constant_of(link.args[1]).detach().double().flatten().to(beta.device)
        if link.target is operator.mul:
            gamma, beta = gamma * constant, beta * constant
        else:
            beta = beta + constant
    return gamma, beta


def fusion_groups(model: fx.GraphModule) -> dict[fx.Node, FusionGroup]:
    """Groups of a model made by :func:`quant.lowering.prepare.prepare`, by their ``result``."""
    found, taken = {}, set()
    for node in model.graph.nodes:
        quantiser = module_of(node)
        if isinstance(quantiser, ProductQuantiser | Regrid) or (
            isinstance(quantiser, TableQuantiser) and quantiser.arguments is None
        ):
            continue  # of codes
        if isinstance(quantiser, ActQuantiser):
            found[node] = _group(argument(node), node, quantiser, taken)
    for _, leaf in leaves(model.graph.output_node().args[0]):
        last = before_tail(leaf)
        if last not in found and _is_sum(last):
            found[last] = _group(last, last, None, taken)
    return found


def before_tail(node: fx.Node) -> fx.Node:
    """Node whose value the accelerator gives for ``node``, a result of the network."""
    while isinstance(module_of(node), Tail):
        node = argument(node)
    return node


def _is_sum(node: fx.Node) -> bool:
    if isinstance(module_of(node), nn.Dropout):
        return _is_sum(argument(node))
    return (
        is_add(node)
        or is_affine(node)
        or isinstance(module_of(node), (QuantConv2d, QuantLinear, *NORMS))
    )


def _behind_layer(node: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """Layer whose sum ``node`` is, and what stands between, without dropout."""
    links = []
    while isinstance(module_of(node), (*NORMS, nn.Dropout)) or is_affine(node):
        if not isinstance(module_of(node), nn.Dropout):
            links.insert(0, node)
        node = argument(node)
    return node, tuple(links)


def _group(
    node: fx.Node, result: fx.Node, quantiser: ActQuantiser | None, taken: set[str]
) -> FusionGroup:
    residual, given = None, node
    while isinstance(module_of(node), nn.Dropout):
        node = argument(node)
    if is_add(node):
        node, residual = argument(node), argument(node, 1)
    node, links = _behind_layer(node)
    layer = module_of(node)
    if not isinstance(layer, QuantConv2d | QuantLinear):
        raise TypeError(f"{name_of(given)} is quantised, which no layer accumulates")
    name, count = name_of(node), 1
    while name in taken:  # a further call of the same layer
        count += 1
        name = f"{name_of(node)}_{count}"
    taken.add(name)
    return FusionGroup(
        name=name,
        layer=layer,
        links=links,
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
