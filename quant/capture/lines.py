# SPDX-License-Identifier: Apache-2.0
"""Networks of one dimension: a line (N, C, L) is a map of one row, (N, C, 1, L).

Convolutions and pools of one dimension become those of two with a kernel of one row. The exported
program is changed before it is rewritten, so that the rewrites see maps alone.
"""

from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from quant.capture.nodes import operation

_ATEN = torch.ops.aten
#: Operations of one dimension, by name and overload, and those of two.
_TARGETS: dict[str, Any] = {
    "conv1d.default": _ATEN.conv2d.default,
    "conv1d.padding": _ATEN.conv2d.padding,
    "conv_transpose1d.default": _ATEN.conv_transpose2d.input,
    "max_pool1d.default": _ATEN.max_pool2d.default,
    "avg_pool1d.default": _ATEN.avg_pool2d.default,
    "adaptive_avg_pool1d.default": _ATEN.adaptive_avg_pool2d.default,
    "adaptive_max_pool1d.default": _ATEN.adaptive_max_pool2d.default,
    "upsample_nearest1d.vec": _ATEN.upsample_nearest2d.vec,
    "_upsample_nearest_exact1d.vec": _ATEN._upsample_nearest_exact2d.vec,
    "upsample_linear1d.vec": _ATEN.upsample_bilinear2d.vec,
}
#: What their arguments are in the direction that a line lacks.
_ACROSS: dict[str, float] = {
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "dilation": 1,
    "kernel_size": 1,
    "output_size": 1,
    "scale_factors": 1.0,
}
_AXES = ("dim", "dim0", "dim1")


def lift_lines(
    program: torch.export.ExportedProgram, stored: dict[str, str], state: dict[str, Tensor]
) -> set[fx.Node]:
    """Change of ``program``, in place, to one of maps; gives its inputs that were lines.

    ``stored`` has the names of parameters by placeholder, and ``state`` their values, of which
    weights get a row. The host takes the row of a result away again.
    """
    nodes = list(program.graph.nodes)
    inputs = {n for n in nodes if n.op == "placeholder" and n.name not in stored and _is_line(n)}
    reached = set(inputs)
    for node in nodes if inputs else ():
        read = next((n for n in node.all_input_nodes if n in reached), None)
        if read is not None and node.op == "call_function":
            reached.add(node)
            _lift_arguments(node, stored, state, _is_line(read) or _are_lines(read))
    lines = [n for n in program.graph.output_node().all_input_nodes if n in reached and _is_line(n)]
    for line in lines:
        _take_row(program.graph, line)
    for node in filter(lambda n: _is_line(n) or _are_lines(n), reached):
        value = node.meta["val"]
        node.meta["val"] = (
            value.unsqueeze(2)
            if isinstance(value, Tensor)
            else type(value)(part.unsqueeze(2) for part in value)
        )
    return inputs


def _take_row(graph: fx.Graph, line: fx.Node) -> None:
    """Change of the output to ``line`` without its row."""
    output = graph.output_node()
    with graph.inserting_before(output):
        taken = graph.call_function(_ATEN.squeeze.dim, (line, 2))
    taken.meta = {**line.meta}
    output.replace_input_with(line, taken)


def _is_line(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() == 3


def _are_lines(node: fx.Node) -> bool:
    """Whether ``node`` gives several lines, as chunk does."""
    value = node.meta.get("val")
    return isinstance(value, list | tuple) and all(
        isinstance(part, Tensor) and part.dim() == 3 for part in value
    )


def _lift_arguments(
    node: fx.Node, stored: dict[str, str], state: dict[str, Tensor], of_line: bool
) -> None:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return
    schema = target._schema
    overload = schema.overload_name or "default"
    lifted = _TARGETS.get(f"{operation(node)}.{overload}")
    given: dict[str, Any] = (
        dict(zip([a.name for a in schema.arguments], node.args, strict=False)) | node.kwargs
    )
    for name, value in given.items():
        if lifted is not None and name in _ACROSS:
            given[name] = _with_row(value, _ACROSS[name])
        elif of_line and name in _AXES:
            given[name] = _axes(operation(node), value)
    weight = given.get("weight")
    if lifted is not None and isinstance(weight, fx.Node) and weight.name in stored:
        name = stored[weight.name]
        if state[name].dim() == 3:
            row = state[name].detach().unsqueeze(2)
            kept = isinstance(state[name], nn.Parameter)
            state[name] = nn.Parameter(row, state[name].requires_grad) if kept else row
    node.args = tuple(
        given[a.name] for a in schema.arguments if a.name in given and not a.kwarg_only
    )
    node.kwargs = {
        a.name: given[a.name] for a in schema.arguments if a.kwarg_only and a.name in given
    }
    if lifted is not None:
        node.target = lifted


def _with_row(value: object, across: float) -> object:
    """Argument of two directions: one number for a line, a list of one, or an empty list."""
    if isinstance(value, int):
        return [across, value]
    if isinstance(value, list | tuple) and len(value) == 1:
        return [across, value[0]]
    return value


def _axes(name: str, value: object) -> object:
    """Axes of a line as those of a map; the mean along a line is over height and width."""
    if isinstance(value, list | tuple):
        axes = [cast(int, _axes(name, axis)) for axis in value]
        return [2, *axes] if name in ("mean", "sum", "amax") and axes == [3] else axes
    return {0: 0, 1: 1, 2: 3}[value % 3] if isinstance(value, int) else value
