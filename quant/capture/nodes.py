# SPDX-License-Identifier: Apache-2.0
"""Questions to a node of an fx graph: what it calls, what it reads, where it was written."""

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata


def operation(node: fx.Node) -> str:
    """Name of the ATen operation without overload, such as ``conv2d``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.partition("::")[2]
    return getattr(target, "__name__", str(target))


def bound(node: fx.Node, **defaults: Any) -> dict[str, Any]:
    """Arguments of an ATen call by name."""
    target = cast(torch._ops.OpOverload, node.target)
    names = [a.name for a in target._schema.arguments]
    return defaults | dict(zip(names, node.args, strict=False)) | node.kwargs


def is_mutable(node: fx.Node) -> bool:
    """True if ``node`` works in place."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def name_of(node: fx.Node) -> str:
    """Name of the module or parameter that ``node`` is a call of."""
    return str(node.target)


def argument(node: fx.Node, index: int = 0) -> fx.Node:
    """Node that ``node`` reads as its positional argument ``index``; TypeError for a constant."""
    found = node.args[index]
    if not isinstance(found, fx.Node):
        raise TypeError(f"argument {index} of {node.format_node()} is no node")
    return found


def tensor_arguments(node: fx.Node) -> list[Tensor]:
    """Parameters and buffers that ``node`` reads as its further arguments."""
    found, owner = [], node.graph.owning_module
    for given in node.args[1:]:
        if isinstance(given, fx.Node) and given.op == "get_attr" and owner is not None:
            value = operator.attrgetter(name_of(given))(owner)
            assert isinstance(value, Tensor)
            found.append(value)
    return found


def is_constant(node: object) -> bool:
    """True for a number, and for a node that only parameters and buffers go into."""
    if not isinstance(node, fx.Node):
        return isinstance(node, int | float)
    if node.op == "call_function" and node.target not in (operator.add, operator.mul):
        return all(map(is_constant, node.all_input_nodes))
    return node.op == "get_attr"


def is_affine(node: fx.Node) -> bool:
    """True if ``node`` adds a constant to its first argument, or multiplies that with one."""
    return (
        node.op == "call_function"
        and node.target in (operator.add, operator.mul)
        and is_constant(node.args[1])
    )


def constant_of(node: object) -> Tensor:
    """Value of an argument that :func:`is_constant`, a tensor."""
    if not isinstance(node, fx.Node):
        return torch.tensor(node)
    if node.op == "get_attr":
        value = operator.attrgetter(name_of(node))(node.graph.owning_module)
        assert isinstance(value, Tensor)
        return value
    assert callable(node.target)
    return node.target(*map_arg(node.args, constant_of), **map_arg(node.kwargs, constant_of))


def result_of(graph: fx.Graph) -> fx.Node:
    """Node whose value ``graph`` returns."""
    return argument(graph.output_node())


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of the value of a node of a flat graph, without the batch."""
    return tuple(int(size) for size in node.meta["shape"][1:])


def module_of(node: fx.Node) -> nn.Module | None:
    """Module that ``node`` calls, or None where it calls none."""
    if node.op != "call_module":
        return None
    owner = node.graph.owning_module
    return None if owner is None else owner.get_submodule(name_of(node))


def path_of(node: fx.Node) -> str:
    """Name of the innermost module that ``node`` was called in."""
    return _innermost(node)[0]


def class_of(node: fx.Node) -> str:
    """Class of the innermost module that ``node`` was called in."""
    return str(_innermost(node)[1]).rpartition(".")[2]


def stack_of(node: fx.Node) -> list[str]:
    """Paths of all modules that ``node`` was called in, outermost first."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]


def _innermost(node: fx.Node) -> tuple[str, object]:
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1] if stack else ("", "")


def note_shapes(module: fx.GraphModule, example: Tensor) -> None:
    """Update of the shapes of a flat graph's nodes where it lost them, as in a file of torch.save.

    ``example`` is a batch of inputs, (N, ...).
    """
    if all("shape" in node.meta for node in module.graph.nodes if node.op == "placeholder"):
        return
    with torch.no_grad():
        ShapeProp(module).propagate(example)
    for node in module.graph.nodes:
        if isinstance(found := node.meta.get("tensor_meta"), TensorMetadata):
            node.meta["shape"] = tuple(found.shape)


def free_submodule(module: nn.Module, stem: str) -> str:
    """Name of no submodule yet: ``stem``, or that with the first number that makes it one."""
    taken = {name for name, _ in module.named_modules()}
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}{count}"
    return name


def replace_submodule(module: nn.Module, name: str, new: nn.Module) -> None:
    """Replacement of the submodule ``name`` of ``module`` by ``new``."""
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, new)
