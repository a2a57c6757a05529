# SPDX-License-Identifier: Apache-2.0
"""Results of a network: their structure, and functions behind which nothing else is read.

Such functions are computed in floating point, by the host (:class:`quant.nn.tail.Tail`): they come
last, and the accelerator's exact results are worth more than a rounded function of them.
"""

import dataclasses
import math
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_unflatten

from ir.nodes import HostFunction
from quant.capture.nodes import argument, bound, operation
from quant.capture.writer import UnsupportedLayer

#: Without effect on values.
IDENTITIES = {"contiguous", "clone", "alias", "detach", "detach_", "lift_fresh_copy"}


def _plain(name: str) -> Callable[[fx.Node], list[HostFunction]]:
    return lambda node: [HostFunction(name=name)]


def _along(name: str) -> Callable[[fx.Node], list[HostFunction]]:
    def function(node: fx.Node) -> list[HostFunction]:
        a = bound(node, dtype=None, keepdim=False)
        if a["dtype"] is not None or a["keepdim"] or a["dim"] is None:
            raise ValueError("it changes the type, keeps an axis or has none")
        return [HostFunction(name=name, arguments=(_axis(argument(node), a["dim"]),))]

    return function


def _axis(source: fx.Node, axis: int) -> int:
    """Axis counted from the end; ValueError for that of the batch."""
    rank = len(source.meta["val"].shape)
    if axis % rank == 0:
        raise ValueError("it goes along the batch")
    return axis % rank - rank


def _with(name: str, **defaults: float) -> Callable[[fx.Node], list[HostFunction]]:
    """Function with the constants ``defaults``."""

    def function(node: fx.Node) -> list[HostFunction]:
        a = bound(node, **defaults)
        return [HostFunction(name=name, arguments=tuple(_number(a[key]) for key in defaults))]

    return function


def _number(value: object) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("its operand is no finite constant")
    return value


def _softplus(node: fx.Node) -> list[HostFunction]:
    a = bound(node, beta=1.0, threshold=20.0)
    return [HostFunction(name="softplus", arguments=(_number(a["beta"]),))]


def _gelu(node: fx.Node) -> list[HostFunction]:
    if bound(node, approximate="none")["approximate"] != "none":
        raise ValueError("it is approximated")
    return [HostFunction(name="gelu")]


def _elu(node: fx.Node) -> list[HostFunction]:
    a = bound(node, alpha=1.0, scale=1, input_scale=1)
    if a["scale"] != 1 or a["input_scale"] != 1:
        raise ValueError("it is scaled")
    return [HostFunction(name="elu", arguments=(_number(a["alpha"]),))]


def _clamp(node: fx.Node) -> list[HostFunction]:
    a = bound(node, min=None, max=None, min_val=None, max_val=None)
    low, high = (a[f"{end}_val"] if a[end] is None else a[end] for end in ("min", "max"))
    if operation(node).startswith("hardtanh"):
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    ends = (("maximum", low), ("minimum", high))
    return [HostFunction(name=n, arguments=(_number(v),)) for n, v in ends if v is not None]


def _sum(sign: int, reverse: bool = False) -> Callable[[fx.Node], list[HostFunction]]:
    def function(node: fx.Node) -> list[HostFunction]:
        a = bound(node, alpha=1)
        first, value = (-1, _number(a["other"])) if reverse else (1, sign * _number(a["other"]))
        found = [HostFunction(name="multiply", arguments=(first,))] if reverse else []
        if a["alpha"] != 1:
            raise ValueError("it is scaled")
        return [*found, HostFunction(name="add", arguments=(value,))]

    return function


def _quotient(node: fx.Node) -> list[HostFunction]:
    value = _number(bound(node, rounding_mode=None)["other"])
    if value == 0 or node.kwargs.get("rounding_mode") is not None:
        raise ValueError("it divides by 0 or rounds")
    return [HostFunction(name="multiply", arguments=(1 / value,))]


def _reshape(node: fx.Node) -> list[HostFunction]:
    before, after = (n.meta["val"].shape for n in (argument(node), node))
    if not before or not after or before[0] != after[0]:
        raise ValueError("it changes the batch")
    if before == after:
        return []
    return [HostFunction(name="reshape", arguments=tuple(map(int, after[1:])))]


def _permute(node: fx.Node) -> list[HostFunction]:
    rank = len(node.meta["val"].shape)
    axes = list(range(rank))
    if operation(node) == "permute":
        axes = [int(axis) % rank for axis in bound(node)["dims"]]
    else:
        a = bound(node)
        one, other = a["dim0"] % rank, a["dim1"] % rank
        axes[one], axes[other] = axes[other], axes[one]
    if axes[0] != 0:
        raise ValueError("it moves the batch")
    return [HostFunction(name="permute", arguments=tuple(axis - rank for axis in axes[1:]))]


#: Functions of one tensor by the name of the operation, without the underscore of one in place.
TAILS: dict[str, Callable[[fx.Node], list[HostFunction]]] = {
    "softmax": _along("softmax"),
    "log_softmax": _along("log_softmax"),
    "argmax": _along("argmax"),
    "sigmoid": _plain("sigmoid"),
    "log_sigmoid": _plain("log_sigmoid"),
    "tanh": _plain("tanh"),
    "exp": _plain("exp"),
    "softplus": _softplus,
    "silu": _plain("silu"),
    "gelu": _gelu,
    "hardsigmoid": _plain("hardsigmoid"),
    "hardswish": _plain("hardswish"),
    "leaky_relu": _with("leaky_relu", negative_slope=0.01),
    "elu": _elu,
    "relu": lambda node: [HostFunction(name="maximum", arguments=(0,))],
    "relu6": lambda node: [
        HostFunction(name="maximum", arguments=(0,)),
        HostFunction(name="minimum", arguments=(6,)),
    ],
    "clamp": _clamp,
    "hardtanh": _clamp,
    "clamp_min": _with("maximum", min=0.0),
    "clamp_max": _with("minimum", max=0.0),
    "add": _sum(1),
    "sub": _sum(-1),
    "rsub": _sum(1, reverse=True),
    "mul": _with("multiply", other=1.0),
    "div": _quotient,
    "neg": lambda node: [HostFunction(name="multiply", arguments=(-1,))],
    "permute": _permute,
    "transpose": _permute,
    **dict.fromkeys(
        ("flatten", "view", "reshape", "squeeze", "unsqueeze", "_unsafe_view"), _reshape
    ),
    **dict.fromkeys(IDENTITIES, lambda node: []),
}


def find_tails(graph: fx.Graph, stored: Container[str]) -> dict[fx.Node, tuple[HostFunction, ...]]:
    """Functions for the host, by the node of an exported program: nothing but them reads them.

    ``stored`` has the names of the nodes that are parameters or buffers. A clamp from 0, as of a
    ReLU, is one only behind others: the array has it for nothing.
    """
    found: dict[fx.Node, tuple[HostFunction, ...]] = {}
    for node in reversed(graph.nodes):
        if (
            node.op == "call_function"
            and node.users
            and all(user.op == "output" or user in found for user in node.users)
            and (functions := _functions(node, stored)) is not None
        ):
            found[node] = functions
    for node in graph.nodes:
        if node in found and argument(node) not in found and _is_relu(node, found):
            del found[node]
    return found


def _functions(node: fx.Node, stored: Container[str]) -> tuple[HostFunction, ...] | None:
    name = operation(node).rstrip("_") if operation(node) not in TAILS else operation(node)
    sources = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    if name not in TAILS or len(sources) != 1 or sources[0] is not node.args[0]:
        return None
    before, after = (n.meta["val"] for n in (sources[0], node))
    if sources[0].name in stored or not (before.dtype.is_floating_point or name in IDENTITIES):
        return None
    if after.dtype != before.dtype and name != "argmax":
        return None
    try:
        return tuple(TAILS[name](node))
    except ValueError:
        return None


def _is_relu(node: fx.Node, found: Mapping[fx.Node, tuple[HostFunction, ...]]) -> bool:
    functions = found[node]
    return bool(functions) and functions[0] == HostFunction(name="maximum", arguments=(0,))


def structure_of(program: torch.export.ExportedProgram, nodes: Mapping[fx.Node, fx.Node]) -> Any:
    """Structure that a program returns, of lists, tuples and dicts of ``nodes``' values.

    A single tensor is the result itself, whatever it is in. Raises
    :class:`~quant.capture.writer.UnsupportedLayer` for a structure that is none of these.
    """
    given: Any = program.graph.output_node().args[0]
    spec = program.call_spec.out_spec
    if spec is None:
        raise UnsupportedLayer("", "the model", "it returns nothing")
    wanted = given[-spec.num_leaves :] if spec.num_leaves else ()  # behind mutations of buffers
    values = [nodes[value] if isinstance(value, fx.Node) else value for value in wanted]
    tensors = [value for value in values if isinstance(value, fx.Node)]
    if not tensors:
        raise UnsupportedLayer("", "the model", "it returns no tensor")
    if len(tensors) == 1:
        return tensors[0]
    return _standard(tree_unflatten(values, spec))


def _standard(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _standard(part) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_standard, value))
    if isinstance(value, list | tuple):
        return type(value)(map(_standard, value))
    if isinstance(value, fx.Node | None | bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: _standard(getattr(value, field.name)) for field in fields}
    raise UnsupportedLayer("", "the model", f"it returns a {type(value).__name__}")


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, fx.Node]]:
    """Values in a structure with their places in it, such as ``boxes`` or ``heads.1``."""
    parts: Any = ()
    if isinstance(value, fx.Node):
        yield path, value
    elif isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple) and (fields := getattr(value, "_fields", ())):
        parts = zip(fields, value, strict=True)
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    for key, part in parts:
        yield from leaves(part, f"{path}.{key}" if path else str(key))
