# SPDX-License-Identifier: Apache-2.0
"""The stages of a prepared network: each layer with all that its requantisation does at once."""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from ir import numerics
from ir.arrays import ExportError
from quant.capture.writer import module_of
from quant.lowering import rounding
from quant.lowering.partition import is_hosted
from quant.lowering.prepare import NORMS, codes_source, is_add
from quant.nn.activations import ActQuantiser
from quant.nn.layers import QuantConv2d, QuantLinear, quantised_layers
from quant.nn.quantizers import denominators

MOST_STEPS = 3.99  #: of an output per unit of the sum; M / 2^S is less than 4


@dataclasses.dataclass(frozen=True)
class Stage:
    """A layer, batch-norm, residual operand and quantiser, in nodes of the flat graph.

    ``result`` is what the stage writes: the call of the quantiser, or, of logits, of the last
    module before the output.
    """

    name: str
    layer: QuantConv2d | QuantLinear
    norm: nn.BatchNorm1d | nn.BatchNorm2d | None
    source: fx.Node
    residual: fx.Node | None
    result: fx.Node
    quantiser: ActQuantiser | None

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """``(gamma, beta)``, float64: bias and batch-norm in evaluation are ``gamma*x + beta``."""
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
        """Steps of the output per unit of the accumulator, of each row; signed as gamma is."""
        alpha = self.layer.alpha.detach().double() / denominators(self.layer.scheme)
        return self.affine[0] * alpha * (source_scale / target_scale)


def fold_batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """``(gamma', beta')``, float64, with ``norm(x) = gamma' * x + beta'`` in evaluation."""
    mean, var, gamma, beta = (
        v.detach().double() for v in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    gamma = gamma / torch.sqrt(var + norm.eps)
    return gamma, beta - gamma * mean


def stages(model: fx.GraphModule) -> dict[fx.Node, Stage]:
    """The stages of a model made by :func:`quant.lowering.prepare.prepare`, by their ``result``."""
    found = {}
    for node in model.graph.nodes:
        quantiser = module_of(node)
        if isinstance(quantiser, ActQuantiser):
            found[node] = _stage(node.args[0], node, quantiser)
        elif node.op == "output" and _is_sum(node.args[0]):
            found[node.args[0]] = _stage(node.args[0], node.args[0], None)
    return found


def _is_sum(node: fx.Node) -> bool:
    return is_add(node) or isinstance(module_of(node), (QuantConv2d, QuantLinear, *NORMS))


def _stage(node: fx.Node, result: fx.Node, quantiser: ActQuantiser | None) -> Stage:
    residual = norm = None
    if is_add(node):
        node, residual = node.args
    if isinstance(module_of(node), NORMS):
        norm, node = module_of(node), node.args[0]
    return Stage(node.target, module_of(node), norm, node.args[0], residual, result, quantiser)


def scale_of(node: fx.Node) -> float:
    """Real step of the codes that ``node`` gives."""
    source = module_of(codes_source(node))
    return numerics.IMAGE_SCALE if source is None else source.scale.item()


@torch.no_grad()
def align_scales(model: fx.GraphModule) -> int:
    """Move scales and gammas to what the integer formats hold; the last step of training.

    A residual operand's ``n`` becomes exact, by a shift of a scale of up to 2^-15: without it, fake
    quantisation and integers round 1 of 300 sums of a block differently. Multipliers become exact
    by a change of gamma, or of alpha where there is no batch-norm, of up to 2^-16. Offsets go to
    the middle between two sums (:func:`quant.lowering.rounding.centred_bias`), so that none is at a
    tie.

    A row with more than MOST_STEPS steps of its output per unit of the sum has a multiplier that M
    cannot express, and which brings nothing. An 8-bit output takes a coarser scale; of a 4-bit
    output that row gets a smaller gamma around the same mean, which happens where its inputs are
    all but dead. Returns how many rows that were. Raises :class:`ExportError`.
    """
    if is_hosted(model):
        for layer in quantised_layers(model).values():
            layer.align()
        return 0
    tamed = 0
    for stage in stages(model).values():
        if stage.quantiser is not None:
            tamed += _limit_steps(stage)
    for stage in stages(model).values():
        if stage.residual is not None:
            _exact_residual(stage)
    for stage in stages(model).values():
        if stage.quantiser is not None:
            _exact_multipliers(stage)
            _clear_of_ties(stage)
    return tamed


def _limit_steps(stage: Stage) -> int:
    quantiser = stage.quantiser
    excess = stage.steps(scale_of(stage.source), quantiser.scale.item()).abs() / MOST_STEPS
    if quantiser.bits == 8 or stage.norm is None:
        quantiser.clip.mul_(max(1.0, excess.max().item()))
        return 0
    excess.clamp_(min=1)
    stage.norm.weight.div_(excess)  # of gamma * (x - mean) / sigma + beta
    return int((excess > 1).sum())


def _exact_residual(stage: Stage) -> None:
    operand, out = codes_source(stage.residual), stage.quantiser
    own, target = scale_of(operand), out.scale.item()
    n = fit(stage.name, numerics.encode_residual, own / target)
    ratio = max(n, 1) / (1 << numerics.SHIFT_MIN)
    quantiser = module_of(operand)
    if isinstance(quantiser, ActQuantiser) and set(operand.users) == {stage.result.args[0]}:
        quantiser.clip.copy_(out.scale * ratio * quantiser.high)
    else:  # its other readers need it as it is
        out.clip.copy_(own / ratio * out.high)


def _exact_multipliers(stage: Stage) -> None:
    steps = stage.steps(scale_of(stage.source), stage.quantiser.scale.item()).abs()
    offset = stage.affine[1] / stage.quantiser.scale.item()
    exact = []
    for factor, shift in zip(steps.tolist(), offset.tolist(), strict=True):
        m, _, s = fit(stage.name, numerics.encode_row, factor, shift)
        exact.append(math.ldexp(m, -s) / factor if m else 1.0)
    change = torch.tensor(exact, dtype=torch.float64, device=steps.device)
    (stage.layer.alpha if stage.norm is None else stage.norm.weight).mul_(change)


def _clear_of_ties(stage: Stage) -> None:
    parameter = stage.layer.bias if stage.norm is None else stage.norm.bias
    if parameter is None:
        return
    quantiser, scale = stage.quantiser, stage.quantiser.scale.item()
    n, residuals = 0, (0, 0)
    if stage.residual is not None:
        n = fit(stage.name, numerics.encode_residual, scale_of(stage.residual) / scale)
        residuals = _range(stage.residual)
    steps = stage.steps(scale_of(stage.source), scale).abs()
    offsets, moved = stage.affine[1] / scale, []
    for factor, offset in zip(steps.tolist(), offsets.tolist(), strict=True):
        m, b, s = fit(stage.name, numerics.encode_row, factor, offset)
        b = rounding.centred_bias(m, b, s, (quantiser.low, quantiser.high), n, residuals)
        moved.append(numerics.row_offset(b, s))
    parameter.add_(
        (torch.tensor(moved, dtype=torch.float64, device=steps.device) - offsets) * scale
    )


def _range(node: fx.Node) -> tuple[int, int]:
    """Least and largest code of ``node``, less its zero point."""
    source = module_of(codes_source(node))
    if source is None:
        return 0, numerics.act_max(8)
    return -source.zero_point, numerics.act_max(source.bits) - source.zero_point


def fit(name: str, encode: Callable, *values: float) -> object:
    """``encode(*values)``; what does not fit is an :class:`ExportError` of layer ``name``."""
    try:
        return encode(*values)
    except ValueError as error:
        raise ExportError(f"layer {name!r}: {error}") from error
