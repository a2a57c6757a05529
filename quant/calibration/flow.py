# SPDX-License-Identifier: Apache-2.0
"""Quantisation without training, from prepared network to measured result."""

import copy
import dataclasses

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from quant.assignment.sensitivity import row_scores
from quant.calibration.network import LayerReport, Recipe, Report, quantise_layers
from quant.lowering.prepare import calibrate
from quant.nn.layers import float_mode
from quant.nn.modes import evaluating
from quant.nn.tail import without_tails

GRID_SAMPLES = 32  #: samples that all grids are chosen for, before any weight is rounded
SCORE_SAMPLES = 64  #: most samples that sensitivities of rows are measured on
HELD_OUT = 8  #: one of so many samples is not calibrated on
PART = 16  #: samples that pass the network at once

Inputs = tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Outcome of quantisation without training.

    Parameters
    ----------
    layers : what each layer's rows cost, in order of execution
    error : squared error of the results on held-out samples, relative to their variance over the
        values of a sample in the float network
    reestimated : whether statistics of batch-norm were measured again, which lowered the error
    held_out : samples that the error was measured on
    """

    layers: list[LayerReport]
    error: float
    reestimated: bool
    held_out: int


def quantise_without_training(
    model: fx.GraphModule, inputs: Inputs, recipe: Recipe, *, report: Report | None = None
) -> Calibration:
    """Quantisation of ``model``, in place, on ``inputs``, each (N, ...), N at least 2.

    Every :data:`HELD_OUT`-th sample is only measured on. ``model`` is as
    :func:`quant.lowering.prepare.prepare` gives it; its rows get schemes and scales, its weights
    are on their grids afterwards. ``report`` is called with (layers done, layers in all). Samples
    other than 0..1 raise ValueError.
    """
    count = len(inputs[0])
    if count < 2:
        raise ValueError(f"calibration needs at least 2 samples, not {count}")
    held = torch.arange(count) % HELD_OUT == min(HELD_OUT, count) - 1
    ours, others = (tuple(x[chosen] for x in inputs) for chosen in (~held, held))
    calibrate(model, *(x[:GRID_SAMPLES] for x in ours))
    scores = None
    if recipe.assign != "error" and recipe.method.ratio.fixed8:
        sample = tuple(x[:SCORE_SAMPLES] for x in ours)
        scores = row_scores(recipe.assign, model, sample, seed=recipe.seed)
    with float_mode(model):
        wanted = results(model, others)
    layers = quantise_layers(model, ours, recipe, scores=scores, report=report)
    error = relative_error(results(model, others), wanted)
    again = reestimated_error(model, ours, others, wanted, error)
    return Calibration(layers, min(error, again), again < error, int(held.sum()))


@torch.no_grad()
def results(model: nn.Module, inputs: Inputs) -> Tensor:
    """Values (N, ...) of the network's results before its tails, in evaluation mode."""
    found = []
    with evaluating(model), without_tails(model):
        for part in zip(*(x.split(PART) for x in inputs), strict=True):
            leaves = [r for r in tree_leaves(model(*part)) if isinstance(r, Tensor)]
            found.append(torch.cat([leaf.flatten(1) for leaf in leaves], 1))
    return torch.cat(found)


def relative_error(given: Tensor, wanted: Tensor) -> float:
    """Squared error relative to the variance of the values of a sample; both are (N, values)."""
    spread = (wanted - wanted.mean(1, keepdim=True)).square().sum()
    return float((given - wanted).square().sum() / spread.clamp_min(torch.finfo().tiny))


@torch.no_grad()
def reestimated_error(
    model: nn.Module, inputs: Inputs, others: Inputs, wanted: Tensor, error: float
) -> float:
    """Relative error on ``others`` with statistics of batch-norm measured anew on ``inputs``.

    They are kept where that is less than ``error``.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    if not norms:
        return error
    before = [(norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
    with evaluating(model), without_tails(model):
        for norm in norms:
            norm.train()
        parts = list(zip(*(x.split(PART) for x in inputs), strict=True))
        for count, part in enumerate((p for p in parts if len(p[0]) == PART or len(parts) == 1), 1):
            for norm in norms:
                norm.momentum = 1 / count  # the mean over all parts so far
            model(*part)
    again = relative_error(results(model, others), wanted)
    for norm, (momentum, state) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if again >= error:
            norm.load_state_dict(state)
    return again
