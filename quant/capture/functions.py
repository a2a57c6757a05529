# SPDX-License-Identifier: Apache-2.0
"""Search for elementwise functions of one tensor in an exported program.

``x * sigmoid(x)`` is two operations of ATen and one function. A function begins at the last tensor
that everything in it is computed from, and ends where something else reads a value of it. What is
linear, or a ReLU alone, is left as it is: the array has other means for it.

It costs nothing behind a layer or a sum that nothing else reads, else a pass over the codes; and an
array with tables, of 48 LUTs for each requantiser, which are loaded in 256 cycles.
"""

import dataclasses
import math
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from quant.capture.nodes import operation
from quant.nn.elementwise import Elementwise, Ref, Step

#: Elementwise, although ATen has no tag for it.
_MORE = {
    "hardswish",
    "hardswish_",
    "log_sigmoid",
    "prelu",
    "max.other",
    "min.other",
    "rsub",
    "sub_",
    "where.ScalarOther",
    "where.ScalarSelf",
    "where.Scalar",
    "true_divide",
    "zeros_like",
    "ones_like",
    "full_like",
}
#: Without effect on values.
_IDENTITIES = {"contiguous", "clone", "alias", "detach", "detach_", "lift_fresh_copy"}
_CASTS = {"to", "_to_copy"}
_LINEAR = {"add", "sub", "rsub", "mul", "div", "true_divide", "neg", *_IDENTITIES, *_CASTS}
_PRODUCTS = {"mul", "div", "true_divide"}
_RELUS = {"relu", "relu6", "hardtanh", "clamp", "clamp_min"}
#: Options that say where a tensor is, not what.
_PLACES = {"device", "pin_memory", "layout", "memory_format"}


@dataclasses.dataclass(frozen=True)
class Found:
    """Function of the value of ``source``, which takes ``parameters`` besides."""

    source: fx.Node
    parameters: tuple[fx.Node, ...]
    function: Elementwise
    inner: frozenset[fx.Node]  #: its nodes, but for the one that gives its value


def find_functions(
    program: torch.export.ExportedProgram, stored: Container[str], tails: Container[fx.Node] = ()
) -> dict:
    """Functions of ``program`` by the node of their value: dict of fx.Node to :class:`Found`.

    ``stored`` has the names of the nodes that are parameters or buffers, and ``tails`` the nodes
    that the host computes.
    """
    search = _Search(program.graph, stored)
    found = {}
    for node in program.graph.nodes:
        if node not in tails and search.ends(node) and (function := search.function(node)):
            found[node] = function
    return found


class _Search:
    """Where each value of a graph comes from.

    ``source`` has, for each node, the node that it is a function of; itself where it is none, and
    None for a constant.
    """

    def __init__(self, graph: fx.Graph, stored: Container[str]) -> None:
        self.stored = stored
        self.source: dict[fx.Node, fx.Node | None] = {}
        self.origin: dict[fx.Node, fx.Node | None] = {}  # the same, past values read elsewhere
        self.leaves = {node: _leaves(node) for node in graph.nodes}
        for node in graph.nodes:
            self.source[node] = self._source(node)

    def _source(self, node: fx.Node) -> fx.Node | None:
        self.origin[node] = node
        if node.op == "placeholder":
            if node.name in self.stored:
                self.origin[node] = None
            return self.origin[node]
        if node.op != "call_function":
            return node
        given = [n for n in node.all_input_nodes if self.source.get(n, n) is not None]
        if node.all_input_nodes and not given:
            self.origin[node] = None
            return None
        if not _is_elementwise(node) or not self._is_alike(node, given):
            return node
        origins = {self.origin[n] for n in given}
        if len(origins) == 1:
            self.origin[node] = origins.pop()
        near = {n if self._read_elsewhere(n) else self.source[n] for n in given}
        return near.pop() if len(near) == 1 else self.origin[node]

    def _read_elsewhere(self, node: fx.Node) -> bool:
        return self.source[node] is node or self.leaves[node]

    def _is_alike(self, node: fx.Node, given: list[fx.Node]) -> bool:
        """Whether ``node`` has the shape of its arguments, and constants have one element."""
        shapes = {tuple(n.meta["val"].shape[1:]) for n in (node, *given) if _has_shape(n)}
        constants = [n for n in node.all_input_nodes if n not in given]
        return len(shapes) == 1 and all(_elements(n) == 1 for n in constants)

    def ends(self, node: fx.Node) -> bool:
        """Whether the value of ``node`` is a function's that something else reads."""
        if self.source[node] in (None, node) or not node.meta["val"].is_floating_point():
            return False
        return any(self.source[u] is u or self.source[u] is node for u in node.users)

    def function(self, end: fx.Node) -> Found | None:
        """Function whose value ``end`` is; None where it is linear or a ReLU."""
        source = self.source[end]
        assert source is not None
        inside, parameters = self._inside(end, source)
        if not self._needs_table(inside, source):
            return None
        places = {source: 0} | {node: 1 + i for i, node in enumerate(parameters)}
        steps = []
        for node in inside:
            steps.append(_step(node, places))
            places[node] = len(parameters) + len(steps)
        return Found(
            source,
            tuple(parameters),
            Elementwise(steps, len(parameters)),
            frozenset(inside) - {end},
        )

    def _inside(self, end: fx.Node, source: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
        """Nodes from ``source``, exclusive, to ``end``, in order; parameters that they read."""
        inside: dict[fx.Node, None] = {}
        parameters: dict[fx.Node, None] = {}

        def visit(node: fx.Node) -> None:
            if node is source or node in inside:
                return
            if node.op == "placeholder":
                parameters[node] = None
                return
            for before in node.all_input_nodes:
                visit(before)
            inside[node] = None

        visit(end)
        return list(inside), list(parameters)

    def _needs_table(self, inside: list[fx.Node], source: fx.Node) -> bool:
        relus = False
        joined = set()
        for node in inside:
            name = _plain(node)
            if self.source[node] is None:
                continue
            if name in _RELUS and _clamps_at_zero(node):
                relus = True
            elif name not in _LINEAR:
                return True
            given: list[fx.Node] = []
            map_arg((node.args, node.kwargs), given.append)
            if sum(self.source.get(n) is not None for n in given) > 1:
                joined.add(name)
        return bool(joined & _PRODUCTS) or bool(joined and relus)


def _leaves(node: fx.Node) -> bool:
    """Whether something that is not elementwise reads ``node``, maybe behind identities."""
    return any(
        not _is_elementwise(user) or (_plain(user) in _IDENTITIES and _leaves(user))
        for user in node.users
    )


def _plain(node: fx.Node) -> str:
    """Name of the operation, without the underscore of one in place."""
    return operation(node).rstrip("_")


def _is_elementwise(node: fx.Node) -> bool:
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    name = operation(node)
    if _plain(node) in _IDENTITIES:
        return not _changes_type(node)
    if name in _CASTS and target._overloadname in ("dtype", "default", "other"):
        return True
    if torch.Tag.nondeterministic_seeded in target.tags and name != "rrelu":
        return False  # in evaluation a randomised ReLU has one slope
    return (
        torch.Tag.pointwise in target.tags
        or name in _MORE
        or f"{name}.{target._overloadname}" in _MORE
        or (name.endswith("_") and _of_place(target) is not None)
    )


def _of_place(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The elementwise operation of which ``target`` is the one in place."""
    name = target._schema.name.partition("::")[2].rstrip("_")
    packet = getattr(torch.ops.aten, name, None)
    found = getattr(packet, target._overloadname, None)
    if found is not None and (torch.Tag.pointwise in found.tags or name in _MORE):
        return found
    return None


def _changes_type(node: fx.Node) -> bool:
    first = node.args[0]
    if not isinstance(first, fx.Node):
        return True
    after, before = node.meta.get("val"), first.meta.get("val")
    return not (
        isinstance(after, Tensor) and isinstance(before, Tensor) and after.dtype == before.dtype
    )


def _clamps_at_zero(node: fx.Node) -> bool:
    name, args = _plain(node), [*node.args[1:], *node.kwargs.values()]
    return name in ("relu", "relu6") or (bool(args) and args[0] in (0, 0.0))


def _has_shape(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _elements(node: fx.Node) -> int:
    value = node.meta.get("val")
    return math.prod(value.shape) if isinstance(value, Tensor) else 0


def _step(node: fx.Node, places: dict[fx.Node, int]) -> Step:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    if operation(node).endswith("_"):
        target = _of_place(target) or target
    name, overload = target._schema.name.partition("::")[2], target._overloadname
    if _plain(node) in _IDENTITIES:
        name, overload = "alias", "default"

    def refer(given: fx.Node) -> Any:
        return Ref(places[given])

    args = node.args[:1] if name == "alias" else node.args
    options = {} if name == "alias" else {k: v for k, v in node.kwargs.items() if k not in _PLACES}
    return Step(f"{name}.{overload}", map_arg(args, refer), map_arg(options, refer))
