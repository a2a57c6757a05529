# SPDX-License-Identifier: Apache-2.0
"""Checks of images: what the accelerator would read as something else is refused in one line."""

import math

from torch import Tensor, fx, nn

from ir import numerics
from quant.capture.nodes import shape_of
from quant.lowering.partition import is_hybrid


def check_inputs(model: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
    """Check that ``model`` can take ``inputs``, and the accelerator, too: ValueError otherwise.

    Shapes are (N, ...) as it was prepared for; images are float, in 0..1.
    """
    places = [node for node in model.graph.nodes if node.op == "placeholder"]
    if len(inputs) != len(places):
        raise ValueError(f"the network takes {len(places)} inputs, not {len(inputs)}")
    for x, place in zip(inputs, places, strict=True):
        shape = shape_of(place)
        if tuple(x.shape[1:]) != shape or not len(x):
            raise ValueError(
                f"inputs of shape {tuple(x.shape)} were given, the network was prepared for "
                f"(N, {', '.join(map(str, shape))})"
            )
    if not is_hybrid(model):
        check_type(model, inputs[0])
        check_range(inputs[0])


def check_type(model: nn.Module, images: object) -> None:
    """Check that ``images`` are float, of the weights' type: ValueError otherwise."""
    if not isinstance(images, Tensor):
        return
    if not images.is_floating_point():
        raise ValueError(
            f"images are {_dtype(images)}: give pixels as float in 0..1, x.float() / 255"
        )
    weight = next(model.parameters(), None)
    if weight is not None and images.dtype != weight.dtype:
        raise ValueError(
            f"images are {_dtype(images)}, the network is {_dtype(weight)}: give both as float32"
        )


def check_range(images: Tensor) -> None:
    """Check that float ``images`` are pixels in 0..1: ValueError, with the cure, otherwise."""
    least, most = (v.item() for v in images.aminmax())
    if math.isnan(least) or math.isinf(least) or math.isinf(most):
        raise ValueError("images have values that are not finite")
    tolerance = numerics.IMAGE_SCALE / 2  # rounds to the same pixels
    if -tolerance <= least and most <= 1 + tolerance:
        return
    if least >= 0 and most <= 255:
        cure = "divide them by 255, or by what white is"
    else:
        cure = (
            "give pixels divided by 255, and leave their normalisation out, or let the network "
            "begin with it: its first layer takes it"
        )
    raise ValueError(
        f"images lie in {least:.3g}..{most:.3g}, but the accelerator reads pixels in 0..1: {cure}"
    )


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
