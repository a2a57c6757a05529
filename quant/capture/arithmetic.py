# SPDX-License-Identifier: Apache-2.0
"""Rewrites of sums, differences and products by constants.

In the flat graph a sum of two tensors is ``operator.add(a, b)``; one with a constant is
``operator.add(x, c)``, a product ``operator.mul(x, c)``, with c a number or a node that only
parameters and buffers go into: :func:`quant.capture.nodes.is_affine`."""

import operator
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import fx

from quant.capture.nodes import operation, path_of
from quant.capture.products import product
from quant.capture.writer import GraphWriter, Rewrite

_IDENTITY = {operator.add: 0, operator.mul: 1}
Operation = Callable[[Any, Any], Any]


def _operands(node: fx.Node) -> list[object]:
    """Operands ``self`` and ``other``, and ``alpha``."""
    target = cast(torch._ops.OpOverload, node.target)
    names = [a.name for a in target._schema.arguments]
    given = {"alpha": 1} | dict(zip(names, node.args, strict=False)) | node.kwargs
    return [given["self"], given.get("other"), given["alpha"]]


class _Expression:
    """Arithmetic on the tensors that ``node`` of the exported program reads."""

    def __init__(self, w: GraphWriter, node: fx.Node) -> None:
        self.w, self.node = w, node
        self.shape = tuple(node.meta["val"].shape)

    def is_tensor(self, operand: object) -> bool:
        return isinstance(operand, fx.Node) and not self.w.is_constant(operand)

    def value(self, operand: object) -> fx.Node:
        """Node of ours for an activation of the result's shape."""
        assert isinstance(operand, fx.Node)
        if operand not in self.w.nodes:
            raise ValueError("it reads what is no tensor of activations")
        if tuple(operand.meta["val"].shape) != self.shape:
            raise ValueError(
                f"it spreads a tensor of {tuple(operand.meta['val'].shape[1:])} over "
                f"{self.shape[1:]}: only a constant can be spread"
            )
        return self.w.nodes[operand]

    def constant(self, operand: object) -> fx.Node | float:
        """Number, or node of ours for a constant of one value per channel."""
        if not isinstance(operand, fx.Node):
            if not isinstance(operand, int | float):
                raise ValueError(f"{operand!r} is no number")
            return float(operand)
        shape = list(operand.meta["val"].shape)
        shape = [1] * (len(self.shape) - len(shape)) + shape
        if len(shape) > len(self.shape) or any(
            size != 1 for axis, size in enumerate(shape) if axis != 1
        ):
            raise ValueError(
                f"its constant of shape {tuple(operand.meta['val'].shape)} differs between pixels; "
                "it can have one value, or one per channel: (1, C, 1, 1)"
            )
        return self.w.value(operand)

    def join(self, what: Operation, x: fx.Node, other: fx.Node | float) -> fx.Node:
        """``what(x, other)``, unless that is ``x``."""
        if not isinstance(other, fx.Node) and other == _IDENTITY[what]:
            return x
        joined = self.w.graph.call_function(what, (x, other))
        joined.meta |= {"shape": self.shape, "path": path_of(self.node)}
        return joined


def _add(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """``a + alpha * b``, ``a - alpha * b`` or, the other way round, ``b - alpha * a``.

    One operand is a layer's sum, the other is added in its requantisation; a constant goes into B.

    Cost: none where an operand is a layer's that nothing else reads, or a constant behind a layer;
    else a depthwise layer.
    """
    a, b, alpha = _operands(node)
    name = operation(node).rstrip("_")
    if w.keep_unknown:
        alike = [isinstance(t, fx.Node) and t in w.nodes and t.meta["val"].shape for t in (a, b)]
        if name != "add" or alpha != 1 or not all(alike) or alike[0] != alike[1]:
            return None
    if not isinstance(alpha, int | float):
        raise ValueError("its factor must be a number")
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[name]
    e = _Expression(w, node)
    terms = [(t, f) for t, f in zip((a, b), factors, strict=True) if e.is_tensor(t)]
    constants = [(t, f) for t, f in zip((a, b), factors, strict=True) if not e.is_tensor(t)]
    sums = [e.join(operator.mul, e.value(t), float(f)) for t, f in terms]
    if len(sums) == 2:
        return e.join(operator.add, *sums)
    (constant, factor), total = constants[0], sums[0]
    c = e.constant(constant)
    if factor != 1:
        c = c * factor if not isinstance(c, fx.Node) else _scaled(w, c, factor)
    return e.join(operator.add, total, c)


def _scaled(w: GraphWriter, constant: fx.Node, factor: float) -> fx.Node:
    return w.graph.call_function(torch.ops.aten.mul.Scalar, (constant, factor))


def _mul(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Product by a constant: part of a layer's requantisation. Product of two tensors, or by a
    value for each channel or pixel: codes times codes, with a table behind.

    Cost: none by a constant behind a layer; else a depthwise layer, or a pass of the products,
    which an array with tables has.
    """
    if w.keep_unknown:
        return None
    a, b, _ = _operands(node)
    e = _Expression(w, node)
    if e.is_tensor(a) and e.is_tensor(b):
        return product(w, node, [cast(fx.Node, a), cast(fx.Node, b)])
    x, factor = (a, b) if e.is_tensor(a) else (b, a)
    return e.join(operator.mul, e.value(x), e.constant(factor))


def _div(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Product by the inverse of a constant.

    Cost: as that product.
    """
    if w.keep_unknown:
        return None
    a, b, _ = _operands(node)
    e = _Expression(w, node)
    if e.is_tensor(b):
        raise ValueError("it divides by a tensor; only a constant can divide")
    divisor = e.constant(b)
    if isinstance(divisor, fx.Node):
        inverse = w.graph.call_function(torch.ops.aten.reciprocal.default, (divisor,))
    elif divisor == 0:
        raise ValueError("it divides by 0")
    else:
        inverse = 1 / divisor
    return e.join(operator.mul, e.value(a), inverse)


def _neg(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Product by -1: the other sign of a layer's weights.

    Cost: as a product by a constant.
    """
    if w.keep_unknown:
        return None
    e = _Expression(w, node)
    return e.join(operator.mul, e.value(node.args[0]), -1.0)


ARITHMETIC: dict[str, Rewrite] = {
    **dict.fromkeys(("add", "add_", "sub", "sub_", "rsub"), _add),
    **dict.fromkeys(("mul", "mul_"), _mul),
    **dict.fromkeys(("div", "div_", "true_divide"), _div),
    **dict.fromkeys(("neg", "neg_"), _neg),
}
