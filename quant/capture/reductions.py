# SPDX-License-Identifier: Apache-2.0
"""Rewrites of means, sums and maxima over axes of a map.

Without ``keepdim`` the reduced axes are gone in the program, and of size 1 in the flat graph: such
a node is one of :attr:`~quant.capture.writer.GraphWriter.squeezed`, and only views and further
reductions read it.
"""

import operator
from collections.abc import Callable

from torch import fx, nn

from quant.capture.gathers import shape
from quant.capture.nodes import argument, bound, path_of, shape_of
from quant.capture.writer import GraphWriter, Rewrite
from quant.nn.blocks import DepthToSpace
from quant.nn.fixed import FixedConv2d

_CHANNELS, _MAP = (1,), (2, 3)


def _axes(w: GraphWriter, node: fx.Node) -> tuple[int, ...]:
    """Reduced axes of the flat node, batch first; ValueError for those of no map."""
    given = bound(node, dim=None)["dim"]
    rank = argument(node).meta["val"].dim()
    dims = given if isinstance(given, list | tuple) else [] if given is None else [given]
    axes = tuple(sorted(axis % rank for axis in dims))
    source = w.nodes.get(argument(node))
    if source is None or len(shape_of(source)) != 3 or not axes or 0 in axes:
        raise ValueError("it must be taken over channels, height or width of a map")
    if argument(node) in w.squeezed:
        channels, height, width = shape_of(source)
        left = 1 in (height, width) and shape(argument(node)) == (channels, height * width)
        if axes != (2,) or not left:
            raise ValueError("it must be taken over what is left of height and width")
        return _MAP
    return axes


def _reduced(
    w: GraphWriter,
    node: fx.Node,
    spatial: Callable[[fx.Node, tuple[int, int]], fx.Node],
    channels: Callable[[fx.Node, int], fx.Node],
) -> fx.Node | None:
    """Result of ``spatial`` for axes of the map and of ``channels`` for theirs."""
    try:
        axes = _axes(w, node)
    except ValueError:
        if w.keep_unknown:
            return None
        raise
    source, value = w.nodes[argument(node)], node.meta["val"]
    batch = argument(node).meta["val"].shape[0]
    sizes = list(shape_of(source))
    if w.keep_unknown and axes != _MAP:
        return None
    if axes == _CHANNELS:
        result = channels(source, sizes[0])
    elif set(axes) <= set(_MAP):
        result = spatial(source, (sizes[1] if 2 in axes else 1, sizes[2] if 3 in axes else 1))
    else:
        raise ValueError("it must be taken over channels alone, or over height and width")
    for axis in axes:
        sizes[axis - 1] = 1
    result.meta |= {"shape": (batch, *sizes), "path": path_of(node)}
    dims = (value[0] if isinstance(value, tuple | list) else value).dim()
    if dims == 4:
        return result
    if dims == 2:
        return w.module_call(node, nn.Flatten(), result)
    w.squeezed.add(node)
    return result


def _pooled(w: GraphWriter, node: fx.Node, kind: type[nn.AvgPool2d | nn.MaxPool2d]) -> Callable:
    return lambda source, kernel: w.module_call(node, kind(kernel, kernel), source)


def _mean(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Average over height, width or both, or over the channels, a layer with equal weights.

    Cost: a pass of the pooling engine, or of a 1x1 layer.
    """

    def channels(source: fx.Node, count: int) -> fx.Node:
        return w.module_call(node, FixedConv2d.mixing(count, 1 / count), source)

    return _reduced(w, node, _pooled(w, node, nn.AvgPool2d), channels)


def _sum(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Average times the number of values, or a layer with weights of one over the channels.

    Cost: as an average, and a product by a constant.
    """

    def spatial(source: fx.Node, kernel: tuple[int, int]) -> fx.Node:
        mean = _pooled(w, node, nn.AvgPool2d)(source, kernel)
        count, number = source.meta["shape"][0], kernel[0] * kernel[1]
        channels, height, width = shape_of(source)
        size = count, channels, height // kernel[0], width // kernel[1]
        mean.meta |= {"shape": size, "path": path_of(node)}
        return w.graph.call_function(operator.mul, (mean, float(number)))

    def channels(source: fx.Node, count: int) -> fx.Node:
        return w.module_call(node, FixedConv2d.mixing(count, 1.0), source)

    return _reduced(w, node, spatial, channels)


def _largest(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Maximum over height, width or both, or over the channels, which become pixels before.

    Cost: a pass of the pooling engine; over the channels a way through memory as well.
    """

    def channels(source: fx.Node, count: int) -> fx.Node:
        height, width = shape_of(source)[1:]
        pixels = w.module_call(node, DepthToSpace((1, count)), source)
        size = source.meta["shape"][0], 1, height, width * count
        pixels.meta |= {"shape": size, "path": path_of(node)}
        return w.module_call(node, nn.MaxPool2d((1, count), (1, count)), pixels)

    return _reduced(w, node, _pooled(w, node, nn.MaxPool2d), channels)


def _max(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Larger of two tensors, ``a + relu(b - a)``; with a dimension the maximum over it.

    Cost: two additions, or as that maximum.
    """
    if len(node.args) > 1 and isinstance(node.args[1], fx.Node):
        return _of_two(w, node, 1.0)
    return _largest(w, node)


def _min(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Smaller of two tensors, ``a - relu(a - b)``.

    Cost: two additions.
    """
    return _of_two(w, node, -1.0)


def _of_two(w: GraphWriter, node: fx.Node, sign: float) -> fx.Node | None:
    """``a + sign * relu(sign * (b - a))``: the larger one for 1, the smaller one for -1."""
    if w.keep_unknown:
        return None
    given = node.args[:2]
    if len(given) < 2 or any(n not in w.nodes for n in given):
        raise ValueError("it must be taken of two activations")
    a, b = (w.nodes[n] for n in given if isinstance(n, fx.Node))
    if shape(node.args[0]) != shape(node.args[1]):
        raise ValueError(f"its operands are of sizes {shape(node.args[0])}, {shape(node.args[1])}")

    def noted(call: fx.Node) -> fx.Node:
        return w.note(call, node)

    def function(what: Callable, x: fx.Node, y: fx.Node | float) -> fx.Node:
        return noted(w.graph.call_function(what, (x, y)))

    first, second = (a, b) if sign > 0 else (b, a)
    difference = function(operator.add, second, function(operator.mul, first, -1.0))
    positive = noted(w.module_call(node, nn.ReLU(), difference))
    if sign < 0:
        positive = function(operator.mul, positive, -1.0)
    return function(operator.add, a, positive)


REDUCTIONS: dict[str, Rewrite] = {
    "mean": _mean,
    "sum": _sum,
    "amax": _largest,
    **dict.fromkeys(("max", "maximum"), _max),
    **dict.fromkeys(("min", "minimum"), _min),
}
