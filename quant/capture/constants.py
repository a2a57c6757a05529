# SPDX-License-Identifier: Apache-2.0
"""Weights that a model computes of its parameters, as weight_norm and spectral_norm do."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from quant.capture.nodes import is_mutable


def fold(
    node: fx.Node, constants: Collection[fx.Node], stored: Callable[[fx.Node], Tensor]
) -> nn.Parameter:
    """Value of ``node`` of an exported program, which ``constants`` computes of parameters alone.

    ``stored`` gives the tensor of a parameter or buffer. Training goes on with the value: it is
    trained where one of the parameters was. Raises ValueError for a computation in place.
    """
    needed = list(_needed(node, constants))
    if any(is_mutable(other) for other in constants):
        raise ValueError("its weights are computed in place: compute them without")
    values: dict[fx.Node, Any] = {}
    trained = False
    with torch.no_grad():
        for one in needed:
            if one not in constants:
                values[one] = stored(one)
                trained |= values[one].requires_grad
                continue
            assert callable(one.target)
            values[one] = one.target(
                *map_arg(one.args, values.get), **map_arg(one.kwargs, values.get)
            )
    value = values[node]
    return nn.Parameter(value.detach().clone(), requires_grad=trained and value.is_floating_point())


def _needed(node: fx.Node, constants: Collection[fx.Node]) -> Iterator[fx.Node]:
    """Nodes that ``node`` is computed of, itself the last one, each behind what it reads."""
    wanted, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        before = set(one.all_input_nodes) - wanted if one in constants else set()
        wanted |= before
        waiting += before
    return (one for one in node.graph.nodes if one in wanted)
