# SPDX-License-Identifier: Apache-2.0
"""Integer inference of a graph in torch, the second implementation beside :mod:`ir.golden`.

Convolutions run in float64, which is exact for these integers; everything else is int64.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ir import golden, numerics
from ir.graph import (
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Gather,
    Host,
    IntegerNode,
    IntGraph,
    Linear,
    MaxPool,
    Mul,
    Upsample,
    WindowPool,
)
from quant.nn.windows import window_maxima, window_means


class Mismatch(ArithmeticError):
    """Error of two implementations of one graph that computed different integers."""


def run(
    graph: IntGraph, images: Tensor | tuple[Tensor, ...], host: golden.HostCallback | None = None
) -> dict[str, Tensor]:
    """Tensors of the graph for integer ``images``, by name: int64 (N, C, H, W), computed by torch.

    Arguments are those of :func:`ir.golden.run`.
    """
    if isinstance(images, tuple):
        tensors: dict[str, Tensor] = {}
        kept = dict(zip(graph.header.host_inputs, (i.numpy() for i in images), strict=True))
    else:
        shape = numerics.map_shape(images.shape[1:])
        tensors, kept = {graph.input.name: images.to(torch.int64).view(-1, *shape)}, {}
    for node in graph.nodes:
        if not isinstance(node, Host):
            tensors[node.output] = _step(graph, node, tensors)
            continue
        given = {
            name: kept[name] if name in kept else _real(graph, name, tensors[name])
            for name in node.inputs
        }
        answer = golden.ask(graph, node, given, host)
        kept |= {name: answer[name] for name in node.keeps}
        tensors |= {name: _codes(graph, name, answer[name]) for name in node.outputs}
    return tensors


def _real(graph: IntGraph, name: str, tensor: Tensor) -> np.ndarray:
    for node in graph.nodes:
        if isinstance(node, Conv | Linear) and node.wide and node.output == name:
            step = torch.from_numpy(graph.layers[node.name].shift).neg().double().exp2()
            return tensor.double().mul(step[:, None, None]).float().numpy()
    spec = graph.tensor(name)
    return tensor.double().sub(spec.zero_point).mul(spec.scale).float().numpy()


def _codes(graph: IntGraph, name: str, real: np.ndarray) -> Tensor:
    spec = graph.tensor(name)
    steps = torch.from_numpy(real) / torch.tensor(spec.scale)
    codes = steps.add(0.5).floor().add(spec.zero_point)
    return codes.clamp(0, numerics.act_max(spec.bits)).to(torch.int64)


def _step(graph: IntGraph, node: IntegerNode, tensors: dict[str, Tensor]) -> Tensor:
    x = tensors[node.input]
    if isinstance(node, Flatten):
        return x.flatten(1)[:, :, None, None]
    if isinstance(node, Mul):
        product = (x - graph.tensor(node.input).zero_point) * (
            tensors[node.factor] - graph.tensor(node.factor).zero_point
        )
        codes = (product + node.bias) >> node.shift
        return _look_up(graph, node.table, codes.clamp(node.low, node.high))
    if isinstance(node, DepthToSpace):
        height, width = graph.tensor(node.output).shape[1:]
        return _depth_to_space(x, *node.block)[:, :, :height, :width]
    if isinstance(node, Upsample):
        rows, columns = node.border
        larger = F.interpolate(x.double(), scale_factor=node.block)
        return F.pad(larger, (columns, columns, rows, rows), "replicate").to(torch.int64)
    if isinstance(node, WindowPool) and not node.mean:
        return window_maxima(x, node.rows, node.columns)
    if isinstance(node, WindowPool):
        zero_point = graph.tensor(node.input).zero_point
        return window_means(x, node.rows, node.columns, zero_point, node.steps, node.high)
    x = x.double()
    if isinstance(node, MaxPool):
        return F.max_pool2d(_pad(x, node.padding, 0), node.kernel, node.stride).to(torch.int64)
    if isinstance(node, AvgPool):
        total = F.avg_pool2d(x, node.kernel, node.stride, divisor_override=1).to(torch.int64)
        t = total * node.multiplier + node.bias
        return _look_up(graph, node.table, (t >> node.shift).clamp(node.low, node.high))
    if isinstance(node, Gather):
        return _gather(graph, node, tensors)
    layer = graph.layers[node.name]
    weight = torch.from_numpy(layer.values).to(x)
    if isinstance(node, Conv):
        x = _pad(x, node.padding, *graph.pad_codes(node.input))
        acc = F.conv2d(x, weight, stride=node.stride, groups=node.groups)
    else:
        acc = F.linear(x.flatten(1), weight)[:, :, None, None]
    m, b, s = (
        torch.from_numpy(v).to(x.device)[:, None, None]
        for v in (layer.multiplier, layer.bias, layer.shift)
    )
    t = acc.to(torch.int64) * m + b
    if node.residual is not None:
        t = t + tensors[node.residual.tensor] * (node.residual.n << (s - numerics.SHIFT_MIN))
    if node.wide:
        return t
    return _look_up(graph, node.table, (t >> s).clamp(node.low, node.high))


def _gather(graph: IntGraph, node: Gather, tensors: dict[str, Tensor]) -> Tensor:
    given = torch.cat([tensors[name] for name in node.inputs], 1)
    result = F.pad(given, (0, 0, 0, 0, 0, 1), value=graph.tensor(node.output).zero_point)
    picks = [given.shape[1] if pick < 0 else pick for pick in node.picks]
    return result[:, picks, :: node.stride[0], :: node.stride[1]]


def _depth_to_space(x: Tensor, rows: int, columns: int) -> Tensor:
    """Row of phases by row of phases, by assignment."""
    result = x.new_empty(
        len(x), x.shape[1] // (rows * columns), x.shape[2] * rows, x.shape[3] * columns
    )
    for phase, part in enumerate(x.chunk(rows * columns, 1)):
        result[:, :, phase // columns :: rows, phase % columns :: columns] = part
    return result


def _look_up(graph: IntGraph, table: str | None, codes: Tensor) -> Tensor:
    if table is None:
        return codes
    entries = torch.from_numpy(graph.tables[table]).to(codes)
    return entries.gather(0, codes.flatten()).view_as(codes)


def _pad(x: Tensor, padding: tuple[int, int, int, int], *codes: int) -> Tensor:
    top, bottom, left, right = padding
    values = torch.tensor(codes, dtype=x.dtype, device=x.device)[:, None, None]
    return F.pad(x - values, (left, right, top, bottom)) + values


def verify(
    graph: IntGraph,
    images: golden.Inputs,
    batch: int = 250,
    host: golden.HostCallback | None = None,
) -> np.ndarray:
    """Logits (N, classes) int64 of integer ``images``: the first of :func:`verify_outputs`."""
    return next(iter(verify_outputs(graph, images, batch, host).values()))


def verify_outputs(
    graph: IntGraph,
    images: golden.Inputs,
    batch: int = 250,
    host: golden.HostCallback | None = None,
) -> dict[str, np.ndarray]:
    """Tensors that ``graph`` gives for integer ``images``, by name, computed here and by the golden
    model: the logits, int64 (N, classes), then the others, int64 (N, C, H, W).

    They are computed ``batch`` at a time. Every tensor must agree in every element; raises
    :class:`Mismatch` naming the first that does not.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in graph.header.output_tensors}
    for start in range(0, len(images[0] if isinstance(images, tuple) else images), batch):
        chosen = slice(start, start + batch)
        if isinstance(images, tuple):
            part = tuple(array[chosen] for array in images)
            ours = run(graph, tuple(torch.from_numpy(array) for array in part), host)
        else:
            part = images[chosen]
            ours = run(graph, torch.from_numpy(part.astype(np.int64)), host)
        for name, expected in golden.run(graph, part, host).items():
            _compare(name, ours[name].numpy(), expected, start)
        for name, found in parts.items():
            found.append(ours[name].numpy())
    outputs = {name: np.concatenate(found) for name, found in parts.items()}
    logits = outputs[graph.output.name]
    return outputs | {graph.output.name: logits.reshape(len(logits), -1)}


def _compare(name: str, ours: np.ndarray, expected: np.ndarray, start: int) -> None:
    if ours.shape != expected.shape:
        raise Mismatch(
            f"tensor {name!r}: torch computes {ours.shape}, the golden model {expected.shape}"
        )
    wrong = np.argwhere(ours != expected)
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        place = (index[0] + start, *index[1:])
        raise Mismatch(
            f"tensor {name!r} at {place}: torch computes {ours[index]}, the golden "
            f"model {expected[index]} ({len(wrong)} values differ)"
        )
