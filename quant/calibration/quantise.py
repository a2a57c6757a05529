# SPDX-License-Identifier: Apache-2.0
"""The usual way from a float network to a quantised one, in one call."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from ir.ratio import Ratio
from quant.assignment.assign import assign
from quant.assignment.methods import method as find_method
from quant.assignment.sensitivity import row_scores
from quant.calibration.flow import quantise_without_training
from quant.calibration.network import Recipe
from quant.lowering.inputs import check_range
from quant.lowering.prepare import calibrate, prepare

CALIBRATION_IMAGES = 256  #: at most, of those given
SENSITIVITY_IMAGES = 64  #: at most, of those given, whose Hessian is measured


def quantise(
    model: nn.Module,
    images: Tensor,
    *,
    ratio: str | None = None,
    tile_rows: int = 16,
    method: str = "rmsmp",
    act_bits: int = 4,
    first_last: str = "same",
    compensate: bool = False,
    settle: Callable[[fx.GraphModule, Ratio, int], tuple[Ratio, int]] | None = None,
) -> fx.GraphModule:
    """Quantised copy of a float network: prepared, calibrated and its rows assigned schemes.

    Hessian eigenvalues choose the Fixed-8 rows, weight variance splits the others (RMSMP, Algorithm
    1). No labels are needed.

    Parameters
    ----------
    model : classifier with logits (N, classes), trained or not; stays as it is
    images : float (N, C, H, W) in 0..1; the first CALIBRATION_IMAGES set the clips of activations,
        the first SENSITIVITY_IMAGES the sensitivities of rows
    ratio : PoT-4 : Fixed-4 : Fixed-8 in percent, such as ``"65:30:5"``; None for the method's own
    tile_rows : row lanes of the accelerator's array
    method : a name of :data:`quant.assignment.methods.METHODS`
    act_bits : 4 or 8, of the activations that layers read
    settle : gives ratio and rows for the prepared network from those asked for, before anything is
        measured; what it raises is passed on
    first_last : "same", or "w8a8" for 8 bits in the first and the last layer
    compensate : make up for rounding, see :mod:`quant.calibration.network`, on the first
        CALIBRATION_IMAGES; rows are then chosen by the errors of their sums

    Raises :class:`~quant.capture.writer.UnsupportedLayer` for an operation that the accelerator
    does not compute, and ValueError for options or images that make no sense.
    """
    if not isinstance(tile_rows, int) or tile_rows < 1:
        raise ValueError(f"tile_rows must be at least 1, not {tile_rows!r}")
    chosen = find_method(method, ratio)
    # Sensitivities are derivatives, and the result is to be trained, wherever this is called.
    with torch.inference_mode(False), torch.enable_grad():
        if images.is_inference():
            images = images.clone()
        quantised = prepare(model, images[:2], act_bits=act_bits, first_last=first_last)
        check_range(images)
        if settle is not None:
            mix, tile_rows = settle(quantised, chosen.ratio, tile_rows)
            chosen = find_method(method, str(mix))
        if compensate:
            recipe = Recipe(method=chosen, tile_rows=tile_rows, first_last=first_last)
            quantise_without_training(quantised, (images[:CALIBRATION_IMAGES],), recipe)
            return quantised
        calibrate(quantised, images[:CALIBRATION_IMAGES])
        kind = "hessian" if chosen.ratio.fixed8 else "random"  # which nothing reads
        scores = row_scores(kind, quantised, images[:SENSITIVITY_IMAGES])
        assign(quantised, chosen, tile_rows, scores, first_last=first_last)
    return quantised
