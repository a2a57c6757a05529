# SPDX-License-Identifier: Apache-2.0
"""Normalisation of the image inside the model, folded into the layers that read it.

With ``y = a * x + b`` per channel, ``sum(w * y) = sum(w * a * x) + sum(w * b)``: weights take a, a
bias or the batch-norm behind takes the rest. Padding of y by 0 is padding of x by ``-b / a``, the
mean: the host pads the image with the code nearest to it.
"""

import dataclasses
import operator

import torch
from torch import Tensor, fx, nn

from ir import numerics
from quant.capture.nodes import (
    constant_of,
    free_submodule,
    is_affine,
    module_of,
    name_of,
    shape_of,
)
from quant.nn.border import BorderPad

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Layer that reads the normalised image, perhaps behind ``between``: zeros or a flatten."""

    layer: fx.Node
    between: fx.Node | None


@torch.no_grad()
def fold_normalisation(module: fx.GraphModule) -> None:
    """Fold of constants that the image is multiplied with and that are added to it, in place.

    Other readers than convolutions and linear layers, and a mean that no code is near to, leave it
    as it is: a layer of its own computes it then.
    """
    for image in [node for node in module.graph.nodes if node.op == "placeholder"]:
        last, chain = image, []
        while len(last.users) == 1 and is_affine(user := next(iter(last.users))):
            last = user
            chain.append(user)
        if not chain or len(shape_of(image)) != 3:
            continue
        factor, offset = _affine(chain, shape_of(image)[0])
        readers = [_reader(user) for user in last.users]
        if not factor.all() or None in readers:
            continue
        codes = (-offset / factor * numerics.act_max(8)).round()
        padded = any(reader and _padding(reader) != (0, 0, 0, 0) for reader in readers)
        if padded and not ((codes >= 0) & (codes <= numerics.act_max(8))).all():
            continue
        for reader in filter(None, readers):
            _fold(module, reader, image, factor, offset, [int(code) for code in codes])
    module.graph.eliminate_dead_code()
    module.recompile()


def _affine(chain: list[fx.Node], channels: int) -> tuple[Tensor, Tensor]:
    """Factor and offset of each channel, float64 (C,)."""
    factor, offset = torch.ones(channels).double(), torch.zeros(channels).double()
    for node in chain:
        constant = constant_of(node.args[1]).detach().double().cpu().reshape(-1)
        if node.target is operator.add:
            offset = offset + constant
        else:
            factor, offset = factor * constant, offset * constant
    return factor, offset


def _reader(node: fx.Node) -> _Reader | None:
    """Layer that can take the normalisation, or None."""
    between, module = None, module_of(node)
    if isinstance(module, nn.ZeroPad2d | nn.Flatten) and len(node.users) == 1:
        between, node = node, next(iter(node.users))
    layer = module_of(node)
    flat = isinstance(module, nn.Flatten)
    if not isinstance(layer, nn.Linear if flat else nn.Conv2d) or _calls(node) > 1:
        return None
    if isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, tuple):
        return None
    return _Reader(node, between)


def _calls(node: fx.Node) -> int:
    """How often the module of ``node`` is called."""
    return sum(n.op == "call_module" and n.target == node.target for n in node.graph.nodes)


def _padding(reader: _Reader) -> tuple[int, int, int, int]:
    """Pixels left, right, above and below."""
    layer = module_of(reader.layer)
    if not isinstance(layer, nn.Conv2d):
        return 0, 0, 0, 0
    y, x = (int(size) for size in layer.padding)
    zeros = reader.between and module_of(reader.between)
    left, right, above, below = zeros.padding if isinstance(zeros, nn.ZeroPad2d) else (0,) * 4
    return left + x, right + x, above + y, below + y


def _fold(
    module: fx.GraphModule,
    reader: _Reader,
    image: fx.Node,
    factor: Tensor,
    offset: Tensor,
    codes: list[int],
) -> None:
    layer = module_of(reader.layer)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    padding = _padding(reader)
    if isinstance(layer, nn.Conv2d):
        if padding != (0, 0, 0, 0):
            layer.padding = (0, 0)
            layer._reversed_padding_repeated_twice = [0, 0, 0, 0]  # the same, as torch keeps it
            name = free_submodule(module, f"{name_of(reader.layer)}_border")
            module.add_submodule(name, BorderPad(padding, codes))
            with module.graph.inserting_before(reader.layer):
                border = module.graph.call_module(name, (image,))
            above, left = padding[2] + padding[3], padding[0] + padding[1]
            batch, channels, height, width = image.meta["shape"]
            border.meta |= image.meta
            border.meta["shape"] = (batch, channels, height + above, width + left)
            image = border
        reader.layer.args = (image,)
        per_group = factor.reshape(layer.groups, 1, -1, 1, 1)
        rows = layer.weight.double().reshape(layer.groups, -1, *layer.weight.shape[1:])
        bias = (rows * offset.reshape(per_group.shape).to(rows)).flatten(2).sum(2).flatten()
        weight = (rows * per_group.to(rows)).reshape(layer.weight.shape)
    else:
        assert reader.between is not None
        reader.between.args = (image,)
        pixels = layer.in_features // len(factor)
        rows = layer.weight.double()
        bias = (rows * offset.repeat_interleave(pixels).to(rows)).sum(1)
        weight = rows * factor.repeat_interleave(pixels).to(rows)
    layer.weight.copy_(weight)
    _add_bias(reader.layer, layer, bias)


def _add_bias(node: fx.Node, layer: nn.Conv2d | nn.Linear, bias: Tensor) -> None:
    """Bias of the layer, or the mean of the batch-norm behind it, moved by ``bias``."""
    norm = module_of(next(iter(node.users))) if len(node.users) == 1 else None
    if layer.bias is not None:
        layer.bias.copy_(layer.bias.double() + bias)
    elif isinstance(norm, NORMS) and norm.running_mean is not None:
        norm.running_mean.copy_(norm.running_mean.double() - bias)
    else:
        layer.bias = nn.Parameter(bias.to(layer.weight))
