# SPDX-License-Identifier: Apache-2.0
"""PReLU with a slope for each channel, as a depthwise layer.

``prelu(u) = u + (1 - slope) * relu(-u)``: a table gives ``relu(-u)`` of the codes of u, a depthwise
1x1 layer multiplies it with ``1 - slope``, and the codes are its residual operand.
"""

import operator

from torch import fx, nn

from quant.capture.nodes import argument, free_submodule, name_of, replace_submodule, shape_of
from quant.nn.elementwise import Elementwise, Ref, Step, TableQuantiser
from quant.nn.layers import QuantConv2d

NEGATIVE_BITS = 8  #: of the codes of ``relu(-u)``


def negative_part() -> Elementwise:
    """Function ``relu(-x)``."""
    return Elementwise([Step("neg.default", (Ref(0),), {}), Step("relu.default", (Ref(1),), {})])


def slope_layer(prelu: nn.PReLU) -> QuantConv2d:
    """Depthwise layer whose weights are ``1 - slope``."""
    channels = prelu.weight.numel()
    layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, device="meta")
    layer.weight = nn.Parameter(1 - prelu.weight.detach().view(-1, 1, 1, 1))
    return QuantConv2d.from_float(layer)


def lower_slopes(module: fx.GraphModule, node: fx.Node, prelu: nn.PReLU) -> fx.Node:
    """Rewriting of the call ``node`` of ``prelu``, whose argument are codes; returns the sum.

    Raises ValueError for vectors, which have no map that a depthwise layer could read.
    """
    if len(shape_of(node)) != 3:
        raise ValueError("one slope per channel needs maps: give it one slope for all channels")
    codes, graph = argument(node), module.graph
    name = free_submodule(module, f"{name_of(node)}_negative")
    module.add_submodule(name, TableQuantiser(negative_part(), NEGATIVE_BITS, of_sums=False))
    replace_submodule(module, name_of(node), slope_layer(prelu))
    with graph.inserting_before(node):
        negative = graph.call_module(name, (codes,))
    node.args = (negative,)
    with graph.inserting_after(node):
        total = graph.call_function(operator.add, (node, codes))
    negative.meta |= node.meta
    total.meta |= node.meta
    node.replace_all_uses_with(total, lambda user: user is not total)
    return total
