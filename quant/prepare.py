# SPDX-License-Identifier: Apache-2.0
"""From a float model to one that is trained for the accelerator."""

import copy

import torch
from torch import Tensor, nn

from quant.layers import ActQuantiser, QuantAvgPool, QuantConv2d, QuantLinear

SUPPORTED = "Conv2d, BatchNorm2d, ReLU, AdaptiveAvgPool2d(1), Flatten, Linear"


class UnsupportedLayer(ValueError):
    """A module that the accelerator does not compute."""

    def __init__(self, name: str, module: nn.Module, reason: str = "") -> None:
        super().__init__(f"layer {name or '(model)'!r} of class {type(module).__name__} is not "
                         f"supported{': ' if reason else ''}{reason}; supported are {SUPPORTED}")


def prepare(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with quantising layers; the model itself stays as it is.

    Convolutions and linear layers get row-wise quantised weights, a ReLU becomes a 4-bit
    quantiser; an average pool takes its scale from the one defined before it. A branch that ends
    in batch-norm, the shortcut of a residual block, gets a signed 8-bit quantiser behind it.
    Raises :class:`UnsupportedLayer`.
    """
    model = copy.deepcopy(model)
    device = next(model.parameters()).device
    for name, module in list(model.named_modules()):
        _replace_children(name, module)
    _replace_pools(model)
    return model.to(device)


def _replace_children(path: str, parent: nn.Module) -> None:
    for name, child in list(parent.named_children()):
        full = f"{path}.{name}" if path else name
        if next(child.children(), None) is None:
            setattr(parent, name, _replacement(full, child))
        elif type(child).__module__.startswith("torch.nn") and type(child) is not nn.Sequential:
            raise UnsupportedLayer(full, child)
    if type(parent) is nn.Sequential and isinstance(parent[-1], nn.BatchNorm2d):
        parent.append(ActQuantiser(8, signed=True))


def _replacement(name: str, module: nn.Module) -> nn.Module:
    # Exact classes: a subclass may compute something else.
    kind, reason = type(module), ""
    if kind is nn.Conv2d:
        if module.padding_mode == "zeros" and module.dilation == (1, 1) \
                and not isinstance(module.padding, str):
            return QuantConv2d.from_float(module)
        reason = "dilation must be 1, padding zeros and given in pixels"
    elif kind is nn.Linear:
        return QuantLinear.from_float(module)
    elif kind is nn.ReLU:
        return ActQuantiser(4)
    elif kind is nn.AdaptiveAvgPool2d:
        return module                           # later: its source is not made yet
    elif kind is nn.BatchNorm2d:
        if module.track_running_stats and module.affine:
            return module
        reason = "running statistics and gamma are needed"
    elif kind is nn.Flatten:
        return module
    raise UnsupportedLayer(name, module, reason)


def _replace_pools(model: nn.Module) -> None:
    source = None
    for name, module in list(model.named_modules()):
        if isinstance(module, ActQuantiser) and not module.signed:
            source = module
        elif type(module) is nn.AdaptiveAvgPool2d:
            if module.output_size not in (1, (1, 1)) or source is None:
                raise UnsupportedLayer(name, module, "it must be global and follow a ReLU")
            path, _, child = name.rpartition(".")
            setattr(model.get_submodule(path), child, QuantAvgPool(source))


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the clip of every activation quantiser from float activations of ``images``."""
    quantisers = [m for m in model.modules() if isinstance(m, ActQuantiser)]
    layers = [m for m in model.modules() if isinstance(m, QuantConv2d | QuantLinear)]
    training = model.training
    model.eval()
    for module in quantisers:
        module.observe = True
    for module in layers:
        module.quantise = False
    model(images)
    for module in quantisers:
        module.observe = False
    for module in layers:
        module.quantise = True
    model.train(training)
