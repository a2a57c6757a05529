# SPDX-License-Identifier: Apache-2.0
"""The golden model: an integer graph in numpy, the reference for everything below it.

Matrix products run in float32, which is exact: the positive terms of an accumulator alone stay
below 2^23 (numerics.ACC_BITS), and so do the negative ones, hence every sum of some of them.
Where the graph has a node of the host, a callback is asked for it.
"""

import itertools
from collections.abc import Callable, Mapping

import numpy as np

from ir import numerics, tail
from ir.graph import (
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Gather,
    Host,
    IntegerNode,
    IntGraph,
    LayerArrays,
    Linear,
    MaxPool,
    Mul,
    Upsample,
    WindowPool,
)

#: Images (N, C, H, W), or one array per host input of the graph, each with N first.
Inputs = np.ndarray | tuple[np.ndarray, ...]
#: What computes a host node: gives a float32 array for each of its outputs, in the shape of the
#: tensor, and an array of any kind for each name that it keeps. Equal inputs, equal outputs.
HostCallback = Callable[[Host, dict[str, np.ndarray]], dict[str, np.ndarray]]
#: What computes a layer instead of the golden model: its output (N, C, H, W) from its input.
LayerCallback = Callable[[IntegerNode, np.ndarray], np.ndarray]


def quantise_input(graph: IntGraph, images: np.ndarray) -> np.ndarray:
    """Input integers of ``graph`` for real images (N, C, H, W): int64, same shape.

    Raises ValueError where the graph begins on the host.
    """
    spec = graph.input
    return numerics.quantise_activations(images, spec.scale, spec.zero_point, spec.bits)


def run(
    graph: IntGraph,
    images: Inputs,
    host: HostCallback | None = None,
    layer: LayerCallback | None = None,
) -> dict[str, np.ndarray]:
    """Tensors of the graph for integer ``images``, by name: int64 (N, C, H, W).

    The output of a wide layer is ``t``. ``host`` computes the graph's host nodes, and ``layer``,
    where it is given, all others. Raises ValueError for images that are not integers or have a
    wrong shape or range, and for a host that gives something else than its node asks for.
    """
    tensors, kept = _begin(graph, images)
    for node in graph.nodes:
        if not isinstance(node, Host):
            tensors[node.output] = (
                layer(node, tensors[node.input]) if layer else _step(graph, node, tensors)
            )
            continue
        given = {
            name: kept[name] if name in kept else _real(graph, name, tensors[name])
            for name in node.inputs
        }
        answer = ask(graph, node, given, host)
        kept |= {name: answer[name] for name in node.keeps}
        for name in node.outputs:
            spec = graph.tensor(name)
            tensors[name] = numerics.quantise_activations(
                answer[name], spec.scale, spec.zero_point, spec.bits
            )
    return tensors


def _begin(graph: IntGraph, images: Inputs) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Integer tensors and host inputs known before the first node; ValueError for bad ones."""
    names = graph.header.host_inputs
    if names:
        if not isinstance(images, tuple) or len(images) != len(names):
            raise ValueError(
                f"the graph takes {len(names)} host inputs, a tuple of arrays: {', '.join(names)}"
            )
        return {}, dict(zip(names, images, strict=True))
    spec = graph.input
    images = np.asarray(images)
    if images.dtype.kind not in "iu":
        raise ValueError(f"images must be integers, not {images.dtype}; quantise_input gives them")
    images = images.astype(np.int64)
    if images.ndim in (2, 3) and numerics.map_shape(images.shape[1:]) == spec.shape:
        images = images.reshape(len(images), *spec.shape)  # vectors or lines
    if images.shape[1:] != spec.shape:
        raise ValueError(f"images are {images.shape[1:]}, the graph takes {spec.shape}")
    if images.size and not 0 <= images.min() <= images.max() <= numerics.act_max(spec.bits):
        raise ValueError(f"image values must lie in 0..{numerics.act_max(spec.bits)}")
    return {spec.name: images}, {}


def ask(
    graph: IntGraph, node: Host, given: dict[str, np.ndarray], host: HostCallback | None
) -> dict[str, np.ndarray]:
    """Answer of ``host`` for ``node``: float32 arrays (N, C, H, W) by output, and what it keeps.

    Raises ValueError for anything but what was asked, and where there is no ``host``.
    """
    if host is None:
        raise ValueError(
            f"graph {graph.header.name!r} runs {', '.join(node.ops) or node.name} on "
            f"the host, and no host was given"
        )
    answer = host(node, given)
    wanted = {*node.outputs, *node.keeps}
    if answer.keys() != wanted:
        raise ValueError(f"host node {node.name!r} gave {sorted(answer)}, not {sorted(wanted)}")
    for name in node.outputs:
        array, shape = answer[name], graph.tensor(name).shape
        if array.dtype != np.float32 or array.shape[1:] != shape or not np.isfinite(array).all():
            raise ValueError(
                f"host node {node.name!r} gave {name!r} as {array.dtype} of "
                f"{array.shape[1:]}; finite float32 of {shape} is needed"
            )
    return answer


def _real(graph: IntGraph, name: str, tensor: np.ndarray) -> np.ndarray:
    """Real values, float32. Of a code they are what fake quantisation computes: one rounding."""
    for node in graph.nodes:
        if isinstance(node, Conv | Linear) and node.wide and node.output == name:
            shift = graph.layers[node.name].shift[:, None, None]
            return np.ldexp(tensor, -shift).astype(np.float32)
    spec = graph.tensor(name)
    return ((tensor - spec.zero_point) * np.float64(spec.scale)).astype(np.float32)


def logits(graph: IntGraph, images: Inputs, host: HostCallback | None = None) -> np.ndarray:
    """First output of the graph, int64 (N, classes), before its tail.

    Arguments and errors are those of :func:`run`.
    """
    return _flat(run(graph, images, host)[graph.output.name])


def results(graph: IntGraph, tensors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Results of the network, one for each output: the real values of ``tensors`` (N, C, H, W), as
    :func:`run` gives them, after the output's tail."""
    found = []
    for output in graph.header.outputs:
        real = _real(graph, output.tensor, tensors[output.tensor])
        real = real.reshape(len(real), *(output.shape or real.shape[1:]))
        found.append(tail.apply(output.tail, real))
    return found


def _step(graph: IntGraph, node: IntegerNode, tensors: dict[str, np.ndarray]) -> np.ndarray:
    x = tensors[node.input]
    match node:
        case Flatten():
            return _flat(x)[:, :, None, None]
        case MaxPool():
            return _windows(_pad(x, node.padding, 0), node.kernel, node.stride).max((4, 5))
        case AvgPool():
            total = _windows(x, node.kernel, node.stride).sum((4, 5))
            y = numerics.requantise(
                total, node.multiplier, node.bias, node.shift, node.low, node.high
            )
            return _look_up(graph, node.table, y)
        case WindowPool():
            return _window_pool(x, node, graph.tensor(node.input).zero_point)
        case Mul():
            factors = tensors[node.factor]
            zeros = graph.tensor(node.input).zero_point, graph.tensor(node.factor).zero_point
            y = numerics.multiply(x, factors, zeros, node.bias, node.shift, node.low, node.high)
            return _look_up(graph, node.table, y)
        case Gather():
            return _gather(graph, node, tensors)
        case DepthToSpace():
            height, width = graph.tensor(node.output).shape[1:]
            return _depth_to_space(x, *node.block)[:, :, :height, :width]
        case Upsample():
            rows, columns = ((side, side) for side in node.border)
            larger = x.repeat(node.block[0], 2).repeat(node.block[1], 3)
            return np.pad(larger, ((0, 0), (0, 0), rows, columns), "edge")
        case Conv():
            padded = _pad(x, node.padding, *graph.pad_codes(node.input))
            layer = graph.layers[node.name]
            y = _finish(layer, node, _convolve(padded, layer, node), tensors)
            return _look_up(graph, node.table, y)
        case Linear():
            layer = graph.layers[node.name]
            y = _finish(layer, node, _matmul(_flat(x), layer.rows)[:, :, None, None], tensors)
            return _look_up(graph, node.table, y)


def _gather(graph: IntGraph, node: Gather, tensors: dict[str, np.ndarray]) -> np.ndarray:
    rows, columns = node.stride
    given = np.concatenate([tensors[name] for name in node.inputs], 1)[:, :, ::rows, ::columns]
    zeros = np.full_like(given[:, :1], graph.tensor(node.output).zero_point)
    return np.concatenate([given, zeros], 1)[:, list(node.picks)]


def _depth_to_space(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    count, channels, height, width = x.shape
    phases = x.reshape(count, rows, columns, channels // (rows * columns), height, width)
    return phases.transpose(0, 3, 4, 1, 5, 2).reshape(count, -1, height * rows, width * columns)


def _window_pool(x: np.ndarray, node: WindowPool, zero_point: int) -> np.ndarray:
    y = np.empty((*x.shape[:2], len(node.rows), len(node.columns)), np.int64)
    for (i, row), (j, column) in itertools.product(enumerate(node.rows), enumerate(node.columns)):
        window = x[:, :, row.first : row.last, column.first : column.last]
        if not node.mean:
            y[:, :, i, j] = window.max((2, 3))
            continue
        count = row.count * column.count
        total = window.sum((2, 3)) + (count - row.size * column.size) * zero_point
        y[:, :, i, j] = numerics.requantise(
            total, *numerics.encode_mean(node.steps, count), 0, node.high
        )
    return y


def _look_up(graph: IntGraph, table: str | None, codes: np.ndarray) -> np.ndarray:
    return codes if table is None else graph.tables[table].astype(np.int64)[codes]


def _finish(
    layer: LayerArrays, node: Conv | Linear, acc: np.ndarray, tensors: dict[str, np.ndarray]
) -> np.ndarray:
    """Requantise ``acc`` (N, O, H, W), or return t of a wide layer."""
    m, b, s = (v[:, None, None] for v in (layer.multiplier, layer.bias, layer.shift))
    if node.wide:
        return numerics.accumulate(acc, m, b, s)
    if node.residual is None:
        return numerics.requantise(acc, m, b, s, node.low, node.high)
    return numerics.requantise(
        acc, m, b, s, node.low, node.high, tensors[node.residual.tensor], node.residual.n
    )


def _convolve(x: np.ndarray, layer: LayerArrays, node: Conv) -> np.ndarray:
    per_in, per_out = x.shape[1] // node.groups, len(layer.values) // node.groups
    x, parts = x.astype(np.float32), []
    for g in range(node.groups):
        windows = _windows(x[:, g * per_in : (g + 1) * per_in], node.kernel, node.stride)
        n, c, h, w, kh, kw = windows.shape
        columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * kh * kw)
        acc = _matmul(columns, layer.rows[g * per_out : (g + 1) * per_out])
        parts.append(acc.reshape(n, h, w, per_out).transpose(0, 3, 1, 2))
    return np.concatenate(parts, 1)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), int(np.prod(x.shape[1:])))


def _matmul(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return (columns.astype(np.float32, copy=False) @ rows.T.astype(np.float32)).astype(np.int64)


def _pad(x: np.ndarray, padding: tuple[int, int, int, int], *codes: int) -> np.ndarray:
    top, bottom, left, right = padding
    count, channels, height, width = x.shape
    padded = np.empty((count, channels, top + height + bottom, left + width + right), x.dtype)
    padded[:] = np.array(codes, x.dtype)[:, None, None]
    padded[:, :, top : top + height, left : left + width] = x
    return padded


def _windows(x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """View (N, C, H_out, W_out, kh, kw)."""
    view = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(2, 3))
    return view[:, :, :: stride[0], :: stride[1]]
