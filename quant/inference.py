# SPDX-License-Identifier: Apache-2.0
"""Integer inference of a graph in torch, the second implementation beside :mod:`quant.golden`.

Convolutions run in float64, which is exact for these integers; everything else is int64.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quant import golden, numerics
from quant.intgraph import AvgPool, Conv, Flatten, IntGraph, MaxPool, Node


class Mismatch(ArithmeticError):
    """Two implementations of the same graph computed different integers."""


def run(graph: IntGraph, images: Tensor) -> dict[str, Tensor]:
    """Every tensor of the graph for integer ``images`` (N, C, H, W), by name, int64."""
    tensors = {graph.header.input: images.to(torch.int64)}
    for node in graph.nodes:
        tensors[node.output] = _step(graph, node, tensors)
    return tensors


def _step(graph: IntGraph, node: Node, tensors: dict[str, Tensor]) -> Tensor:
    x = tensors[node.input]
    if isinstance(node, Flatten):
        return x.flatten(1)[:, :, None, None]
    x = x.double()
    if isinstance(node, MaxPool):
        return F.max_pool2d(_pad(x, node.padding, 0), node.kernel, node.stride).to(torch.int64)
    if isinstance(node, AvgPool):
        total = F.avg_pool2d(x, node.kernel, node.stride, divisor_override=1).to(torch.int64)
        t = total * node.multiplier + node.bias
        return (t >> node.shift).clamp(node.low, node.high)
    layer = graph.layers[node.name]
    weight = torch.from_numpy(layer.values).to(x)
    if isinstance(node, Conv):
        x = _pad(x, node.padding, graph.tensor(node.input).zero_point)
        acc = F.conv2d(x, weight, stride=node.stride, groups=node.groups)
    else:
        acc = F.linear(x.flatten(1), weight)[:, :, None, None]
    m, b, s = (torch.from_numpy(v).to(x.device)[:, None, None]
               for v in (layer.multiplier, layer.bias, layer.shift))
    t = acc.to(torch.int64) * m + b
    if node.residual is not None:
        t = t + tensors[node.residual.tensor] * (node.residual.n << (s - numerics.SHIFT_MIN))
    return t if node.wide else (t >> s).clamp(node.low, node.high)


def _pad(x: Tensor, padding: tuple[int, int, int, int], value: int) -> Tensor:
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value)


def verify(graph: IntGraph, images: np.ndarray, batch: int = 250) -> np.ndarray:
    """Logits (N, classes) int64 of integer ``images``, computed here and by the golden model.

    Every tensor must agree in every element; raises :class:`Mismatch` naming the first that does
    not.
    """
    logits = []
    for start in range(0, len(images), batch):
        part = images[start:start + batch]
        ours = run(graph, torch.from_numpy(part.astype(np.int64)))
        for name, expected in golden.run(graph, part).items():
            _compare(name, ours[name].numpy(), expected, start)
        logits.append(ours[graph.header.output].numpy().reshape(len(part), -1))
    return np.concatenate(logits)


def _compare(name: str, ours: np.ndarray, expected: np.ndarray, start: int) -> None:
    if ours.shape != expected.shape:
        raise Mismatch(f"tensor {name!r}: torch computes {ours.shape}, the golden model "
                       f"{expected.shape}")
    wrong = np.argwhere(ours != expected)
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        place = (index[0] + start, *index[1:])
        raise Mismatch(f"tensor {name!r} at {place}: torch computes {ours[index]}, the golden "
                       f"model {expected[index]} ({len(wrong)} values differ)")
