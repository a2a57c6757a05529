# SPDX-License-Identifier: Apache-2.0
"""From a float model to one that is trained for the accelerator, with calibrated scales."""

import contextlib
from collections.abc import Collection, Iterator

import torch
from torch import Tensor, fx, nn

from ir import numerics
from quant.capture.nodes import (
    argument,
    module_of,
)
from quant.capture.trace import capture
from quant.capture.writer import UnsupportedLayer
from quant.lowering.grids import (
    LAYERS,
    bits_of,
    grid_of,
)
from quant.lowering.inputs import check_inputs, check_type
from quant.lowering.normalisation import fold_normalisation
from quant.lowering.partition import quantise_linears
from quant.lowering.sums import SumQuantiser
from quant.nn.activations import ActQuantiser, QuantAvgPool
from quant.nn.layers import RowQuantised, quantised_layers
from quant.nn.modes import evaluating


def _check_parameters(model: nn.Module) -> None:
    """Raise ValueError for parameters that cannot be quantised, with the cure."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.isfinite().all():
            raise ValueError(f"parameter {name!r} holds NaN or infinity: training diverged")
    for name, module in model.named_modules():
        derived = module.__dict__.get("weight")
        if isinstance(derived, Tensor) and not derived.is_leaf:
            raise ValueError(
                f"the weight of layer {name!r} is computed by a hook (pruning, weight_norm): make "
                "it permanent first, as by torch.nn.utils.prune.remove or remove_weight_norm"
            )


def prepare(
    model: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    *,
    act_bits: int = 4,
    first_last: str = "same",
    host: bool = False,
) -> fx.GraphModule:
    """Flat copy of ``model`` with quantising layers; the model itself stays as it is.

    Parameters
    ----------
    model : of the operations that docs/operations.md lists, for images with values in 0..1
    example : a batch of inputs; all sizes but the batch's become fixed
    act_bits : 4 or 8, of the activations that layers read
    first_last : "w8a8" gives the last layer 8-bit activations; the first one reads 8-bit images
        always
    host : quantise the linear layers alone, and leave everything else to the host, see
        :mod:`quant.lowering.partition`; then any operations, inputs of any kind, and 8 bits for the
        first layer with "w8a8", too

    Weights are Fixed8 until :func:`quant.assignment.assign.assign`, clips arbitrary until
    :func:`calibrate`. Parameters keep their names, but for one that starts with a name of
    :class:`torch.fx.GraphModule`'s own, such as ``graph``, which gets an underscore. Raises
    :class:`~quant.capture.writer.UnsupportedLayer` for a network that cannot be had, TypeError or
    ValueError for an example that is no batch of float images."""
    if first_last not in ("same", "w8a8"):
        raise ValueError(f"first_last must be 'same' or 'w8a8', not {first_last!r}")
    if act_bits not in (4, 8) or not isinstance(act_bits, int):
        raise ValueError(f"act_bits must be 4 or 8, not {act_bits!r}")
    if any(isinstance(m, RowQuantised | ActQuantiser) for m in model.modules()):
        raise UnsupportedLayer(
            "", type(model).__name__, "it is prepared already, and prepare takes the float network"
        )
    _check_parameters(model)
    if not host:
        for images in example if isinstance(example, tuple) else (example,):
            check_type(model, images)
    graph_module = capture(model, example, keep_unknown=host)
    places = [node.name for node in graph_module.graph.nodes if node.op == "placeholder"]
    if len(places) > 1 and not host:
        raise UnsupportedLayer(
            "",
            type(model).__name__,
            f"it takes {len(places)} inputs ({', '.join(places)}), and the accelerator one image: "
            "give them as channels of one",
        )
    if not any(isinstance(m, LAYERS) for m in graph_module.modules()):
        raise UnsupportedLayer("", type(model).__name__, "it has no layer with weights to quantise")
    if host:
        quantise_linears(graph_module, act_bits, wide_ends=first_last == "w8a8")
    else:
        fold_normalisation(graph_module)
        SumQuantiser(graph_module, act_bits).run()
        if first_last == "w8a8":
            _widen_last(graph_module)
        note_codes(graph_module)
    device = next(graph_module.parameters()).device
    return graph_module.to(device).train(model.training)


def note_codes(module: fx.GraphModule) -> None:
    """Update of what layers know of the codes that they read, after grids have changed."""
    for node in module.graph.nodes:
        layer = module_of(node)
        if isinstance(layer, RowQuantised):
            grid = grid_of(argument(node))
            most = grid.high if isinstance(grid, QuantAvgPool) else numerics.act_max(bits_of(grid))
            layer.input_most = max(layer.input_most, most)
            codes = numerics.act_max(bits_of(grid))
            layer.input_codes = max(layer.input_codes, codes)


@torch.no_grad()
def calibrate(model: nn.Module, *inputs: Tensor) -> None:
    """Calibration of all scales of ``model``, in place, on a batch of ``inputs``.

    Clip and zero point of every activation quantiser are set by the activations, ``alpha`` of every
    row by its weights and scheme, which may have changed since :func:`prepare`, as by a checkpoint
    that was loaded.

    Images are float (N, C, H, W) in 0..1, of the size that the model was prepared for; raises
    ValueError for others, which the accelerator would read as something else.
    """
    layers = quantised_layers(model).values()
    with _observing(model, layers):
        model(*inputs)
    for layer in layers:
        layer.refresh_alpha()


@contextlib.contextmanager
def _observing(model: nn.Module, layers: Collection[RowQuantised]) -> Iterator[None]:
    """Evaluation mode, float weights and observing quantisers; prepared networks check inputs."""
    quantisers = [m for m in model.modules() if isinstance(m, ActQuantiser)]
    handles = [
        m.register_forward_pre_hook(check_inputs)  # also inside of a wrapper that changes them
        for m in model.modules()
        if isinstance(m, fx.GraphModule)
    ]
    for quantiser in quantisers:
        quantiser.observe = True
    for layer in layers:
        layer.quantise = False
    try:
        with evaluating(model):
            yield
    finally:
        for quantiser in quantisers:
            quantiser.observe = False
        for layer in layers:
            layer.quantise = True
        for handle in handles:
            handle.remove()


def _widen_last(module: fx.GraphModule) -> None:
    last = [n for n in module.graph.nodes if isinstance(module_of(n), LAYERS)][-1]
    source = grid_of(argument(last))
    if source is not None:  # the image has 8 bits already
        source.widen()
