# SPDX-License-Identifier: Apache-2.0
"""Rewrites of products of two activations: ``operator.mul`` of a map and of a factor for each
element, each channel or each pixel."""

import operator
from collections.abc import Sequence

from torch import fx, nn

from quant.capture.nodes import argument, operation, path_of, shape_of
from quant.capture.writer import GraphWriter, Rewrite
from quant.nn.elementwise import Elementwise, Ref, Step
from quant.nn.gather import Gather


def product(w: GraphWriter, node: fx.Node, terms: Sequence[fx.Node]) -> fx.Node:
    """Product of two activations of the program.

    One has the shape of the result; the other one as well, or a value for each channel or pixel.
    """
    if any(term not in w.nodes for term in terms):
        raise ValueError("both operands must be activations")
    whole = tuple(int(size) for size in node.meta["val"].shape[1:])
    ours = sorted((w.nodes[term] for term in terms), key=lambda n: shape_of(n) != whole)
    x, factor = ours
    shapes = shape_of(x), shape_of(factor)
    if shapes[1] != whole and len(whole) == 3 and shapes[1][0] == 1:  # for each pixel
        factor = _call(w, node, Gather((0,) * whole[0]), factor, (whole[0], *shapes[1][1:]))
    if shapes[0] != whole or shape_of(factor) not in (whole, (whole[0], 1, 1)):
        raise ValueError(
            f"it multiplies {shapes[0]} by {shapes[1]}: one must have the shape of the result, "
            "the other that, or a value for each channel or pixel"
        )
    return w.graph.call_function(operator.mul, (x, factor))


def _call(
    w: GraphWriter, node: fx.Node, module: nn.Module, source: fx.Node, shape: tuple[int, ...]
) -> fx.Node:
    """Call of ``module`` on our node ``source``, with a result of ``shape``, as a part of
    ``node``."""
    call = w.module_call(node, module, source)
    call.meta |= {"shape": (node.meta["val"].shape[0], *shape), "path": path_of(node)}
    return call


def _expand(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """A factor, repeated for a product, which needs no repetition.

    Cost: none.
    """
    if w.keep_unknown:
        return None
    if any(operation(user) not in ("mul", "mul_") for user in node.users):
        raise ValueError("only what is multiplied with a map can be expanded to it")
    return w.nodes[argument(node)]


def _glu(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """``a * sigmoid(b)`` of the two halves of the channels.

    Cost: two copies of channels, a function and a product.
    """
    if w.keep_unknown:
        return None
    source, axis = argument(node), dict(enumerate(node.args)).get(1, -1)
    if not isinstance(axis, int) or axis % source.meta["val"].dim() != 1:
        raise ValueError("its halves must be channels")
    shape = tuple(int(size) for size in node.meta["val"].shape[1:])
    halves = [
        _call(w, node, Gather(range(first, first + shape[0])), w.nodes[source], shape)
        for first in (0, shape[0])
    ]
    sigmoid = Elementwise([Step("sigmoid.default", (Ref(0),), {})])
    gate = _call(w, node, sigmoid, halves[1], shape)
    return w.graph.call_function(operator.mul, (halves[0], gate))


PRODUCTS: dict[str, Rewrite] = {"expand": _expand, "expand_as": _expand, "glu": _glu}
