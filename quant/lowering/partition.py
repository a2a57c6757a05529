# SPDX-License-Identifier: Apache-2.0
"""Partition of a network: linear layers are offloaded, the rest stays float, on the host.

A transformer has its weight rows in linear layers. Between them stand attention (two products of
activations and a softmax), GELU, LayerNorm and embeddings, which have no rows to share among
schemes and which the tile engine does not compute. They run in float32 on the host, in *segments*:
segment k holds every operation that needs the results of at most k linear layers, one after the
other. A linear layer is given codes of a quantiser and gives raw sums back. Values that a later
segment reads again, such as the attention mask and the residual stream, stay on the host and are
not rounded.
"""

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from ir.nodes import Host
from quant.capture.nodes import (
    argument,
    free_submodule,
    module_of,
    name_of,
    operation,
    replace_submodule,
    result_of,
    shape_of,
)
from quant.capture.writer import UnsupportedLayer
from quant.nn.activations import ActQuantiser
from quant.nn.offloaded import OffloadedLinear

_HYBRID = "hybrid"


def is_hybrid(model: nn.Module) -> bool:
    """True if ``model`` was prepared with float operations for the host."""
    return isinstance(model, fx.GraphModule) and model.meta.get(_HYBRID, False)


def quantise_linears(model: fx.GraphModule, act_bits: int, wide_ends: bool) -> None:
    """Replacement of every linear layer of a captured graph by a quantised one behind a quantiser.

    Layers that read one tensor share its quantiser, which is signed and has ``act_bits``, or 8 for
    the first and the last layer with ``wide_ends``. Raises
    :class:`~quant.capture.writer.UnsupportedLayer` for an operation in place, and unless the result
    comes from a linear layer."""
    linears = [node for node in model.graph.nodes if isinstance(module_of(node), nn.Linear)]
    result = result_of(model.graph)
    if result not in linears:
        raise UnsupportedLayer(
            "the output",
            operation(result),
            "with operations on the host a linear layer must come last",
        )
    for node in model.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise UnsupportedLayer(node.meta["path"], operation(node), "it works in place")
    quantised: dict[fx.Node, fx.Node] = {}
    for node in linears:
        source = argument(node)
        if source not in quantised:
            name = free_submodule(model, f"{node.target}_input")
            model.add_submodule(name, ActQuantiser(act_bits, signed=True))
            with model.graph.inserting_before(node):
                quantised[source] = model.graph.call_module(name, (source,))
            quantised[source].meta |= source.meta
        node.args = (quantised[source],)
        layer = module_of(node)
        if isinstance(layer, nn.Linear):
            quantiser = quantiser_of(quantised[source])
            offloaded = OffloadedLinear.from_linear(
                layer, name_of(node), quantiser, last=node is result
            )
            replace_submodule(model, name_of(node), offloaded)
    if wide_ends:
        for quantiser in {quantiser_of(argument(node)) for node in (linears[0], linears[-1])}:
            quantiser.widen()
    model.meta[_HYBRID] = True
    model.graph.lint()
    model.recompile()


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostSegment:
    """Host node, and what it means in nodes of the model's graph.

    inputs : what it reads: linear layers, values of earlier segments, inputs of the model
    outputs : quantisers, of whose arguments it gives the real values
    keeps : values of its own that later segments read
    body : maps ``inputs`` to the arguments of ``outputs``, then ``keeps``
    linears : linear layers that read ``outputs``
    """

    node: Host
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    keeps: tuple[fx.Node, ...]
    body: fx.GraphModule
    linears: tuple[fx.Node, ...]


def segments(model: fx.GraphModule) -> list[HostSegment]:
    """Segments of a hybrid model in execution order, as many as its longest row of layers."""
    place = _places(model.graph)
    kept: dict[fx.Node, str] = {}
    found = []
    for index in range(max(place.values())):
        own = [n for n in place if place[n] == index and not _is_given(n)]
        outputs = tuple(n for n in own if isinstance(module_of(n), ActQuantiser))
        operations = [n for n in own if n not in outputs]
        needed = {value for n in own for value in _values(n)}
        inputs = tuple(n for n in place if n in needed and n not in operations)
        keeps = tuple(n for n in operations if any(place[reader] > index for reader in _readers(n)))
        name = f"host{index}"
        kept |= {n: f"{name}.{n.name}" for n in keeps}
        node = Host(
            name=name,
            inputs=tuple(_name(n, kept) for n in inputs),
            outputs=tuple(map(name_of, outputs)),
            keeps=tuple(kept[n] for n in keeps),
            ops=tuple(dict.fromkeys(filter(None, map(_kind, operations)))),
        )
        body = _body(model, inputs, operations, [*map(argument, outputs), *keeps])
        linears = tuple(n for n in place if _is_linear(n) and argument(n) in outputs)
        found.append(
            HostSegment(
                node=node, inputs=inputs, outputs=outputs, keeps=keeps, body=body, linears=linears
            )
        )
    return found


class HostRunner:
    """Callback that computes the host nodes of a hybrid model's integer graph.

    It holds a copy of the model as it is now, on the CPU and in evaluation; see
    :data:`ir.golden.HostCallback`.
    """

    def __init__(self, model: fx.GraphModule) -> None:
        self._segments = {s.node.name: s for s in segments(copy.deepcopy(model).cpu().eval())}

    @torch.inference_mode()
    def __call__(self, node: Host, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        segment = self._segments.get(node.name)
        if segment is None or segment.node != node:
            raise ValueError(f"host node {node.name!r} belongs to the graph of another model")
        values = [
            _to_torch(given[name], source) if _is_linear(source) else torch.tensor(given[name])
            for name, source in zip(node.inputs, segment.inputs, strict=True)
        ]
        results = iter(segment.body(*values))
        answer = {name: _from_torch(next(results)) for name in node.outputs}
        return answer | {name: next(results).numpy() for name in node.keeps}


def quantiser_of(node: fx.Node) -> ActQuantiser:
    """Quantiser that ``node`` calls; raises TypeError where it calls none."""
    module = module_of(node)
    if not isinstance(module, ActQuantiser):
        raise TypeError(f"{name_of(node)} is no quantiser")
    return module


def offloaded_layer(node: fx.Node) -> OffloadedLinear:
    """Linear layer that ``node`` calls; raises TypeError where it calls none."""
    module = module_of(node)
    if not isinstance(module, OffloadedLinear):
        raise TypeError(f"{name_of(node)} is no offloaded layer")
    return module


def offloaded_shape(node: fx.Node) -> tuple[int, int, int]:
    """Shape (C, T, 1) or (C, 1, 1) of the tensor of a linear layer or a quantiser.

    Raises UnsupportedLayer for a tensor of more dimensions.
    """
    *positions, channels = shape_of(node)
    if len(positions) > 2:
        raise UnsupportedLayer(name_of(node), "linear", f"it reads {len(positions) + 2} dimensions")
    height, width = (*positions, 1, 1)[:2]
    return channels, height, width


def _to_torch(array: np.ndarray, node: fx.Node) -> Tensor:
    """(N, C, T, 1) to (N, T, C), or what ``node`` has instead of T."""
    return torch.tensor(array).movedim(1, -1).reshape(-1, *node.meta["shape"][1:])


def _from_torch(value: Tensor) -> np.ndarray:
    array = value.movedim(-1, 1)
    return array.reshape(*array.shape, *[1] * (4 - array.dim())).numpy()


def _is_linear(node: fx.Node) -> bool:
    return isinstance(module_of(node), OffloadedLinear)


def _is_given(node: fx.Node) -> bool:
    """Whether ``node`` reaches the host from outside."""
    return _is_linear(node) or node.op == "placeholder"


def _is_size(node: fx.Node) -> bool:
    """Whether ``node`` is a number made of the batch size, which every segment finds for itself."""
    return (
        node.op == "call_function"
        and "shape" not in node.meta
        and bool(node.all_input_nodes)
        and (operation(node) == "sym_size" or all(map(_is_size, node.all_input_nodes)))
    )


def _values(node: fx.Node) -> Iterable[fx.Node]:
    """Arguments that are computed."""
    return (n for n in node.all_input_nodes if n.op != "get_attr" and not _is_size(n))


def _readers(node: fx.Node) -> Iterable[fx.Node]:
    return (user for user in node.users if user.op != "output" and not _is_size(user))


def _places(graph: fx.Graph) -> dict[fx.Node, int]:
    """Number of the segment from which each computed value is there."""
    place: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op not in ("get_attr", "output") and not _is_size(node):
            place[node] = max((place[n] for n in _values(node)), default=0) + _is_linear(node)
    return place


def _name(node: fx.Node, kept: dict[fx.Node, str]) -> str:
    return name_of(node) if _is_linear(node) else kept.get(node, node.name)


def _kind(node: fx.Node) -> str | None:
    module = module_of(node)
    if isinstance(module, nn.Dropout):
        return None
    return operation(node) if module is None else type(module).__name__.lower()


def _body(
    model: fx.GraphModule,
    inputs: tuple[fx.Node, ...],
    operations: list[fx.Node],
    results: list[fx.Node],
) -> fx.GraphModule:
    """A module of ``operations`` alone, which makes its constants on the CPU."""
    graph = fx.Graph()
    copies = {n: graph.placeholder(n.name) for n in inputs}
    sized = next(filter(_is_given, inputs), None)

    def fetch(node: fx.Node) -> fx.Node:
        if node not in copies:
            if operation(node) == "sym_size" and sized and callable(node.target):
                copies[node] = graph.call_function(node.target, (copies[sized], 0))
            else:  # a parameter, or a number made of the batch size
                copies[node] = graph.node_copy(node, fetch)
        return copies[node]

    def on_cpu(value: Any) -> Any:
        return torch.device("cpu") if isinstance(value, torch.device) else value

    for node in operations:
        copies[node] = new = graph.node_copy(node, fetch)
        new.args, new.kwargs = map_aggregate((new.args, new.kwargs), on_cpu)
    graph.output(tuple(fetch(n) for n in results))
    return fx.GraphModule(model, graph)
