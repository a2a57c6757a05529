# SPDX-License-Identifier: Apache-2.0
"""Writer of the flat graph that a captured model becomes, and the names of its nodes."""

import torch
from torch import Tensor, fx, nn

SUPPORTED = (
    "convolution, linear, batch-norm behind either, ReLU, ReLU6, addition, max and "
    "average pool, zero padding, flatten, dropout"
)


class UnsupportedLayer(ValueError):
    """An operation that the accelerator does not compute, by its name and place in the model."""

    def __init__(self, name: str, operation: str, reason: str = "", kind: str = "") -> None:
        super().__init__(
            f"layer {name or '(model)'!r}{f' of class {kind}' if kind else ''}: "
            f"{operation} is not supported"
            f"{': ' if reason else ''}{reason}; supported are {SUPPORTED}"
        )


def operation(node: fx.Node) -> str:
    """Name of the ATen operation without overload, such as ``conv2d``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.partition("::")[2]
    return getattr(target, "__name__", str(target))


def path_of(node: fx.Node) -> str:
    """Name of the innermost module that ``node`` was called in."""
    return _innermost(node)[0]


def class_of(node: fx.Node) -> str:
    """Class of that module."""
    return str(_innermost(node)[1]).rpartition(".")[2]


def _innermost(node: fx.Node) -> tuple[str, object]:
    stack = node.meta.get("nn_module_stack")
    return list(stack.values())[-1] if stack else ("", "")


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that ``node`` calls, if it calls one."""
    if node.op != "call_module":
        return None
    return node.graph.owning_module.get_submodule(node.target)


class GraphWriter:
    """Flat graph in the making: its modules, the nodes written so far, names that are free.

    Parameters
    ----------
    program : the exported model, whose parameters the flat graph shares
    keep_unknown : keep operations without a rewrite as calls of ATen
    """

    def __init__(self, program: torch.export.ExportedProgram, keep_unknown: bool) -> None:
        self.program, self.keep_unknown = program, keep_unknown
        self.module = fx.GraphModule(nn.Module(), fx.Graph())
        self.graph = self.module.graph
        self.nodes: dict[fx.Node, fx.Node] = {}  # of the program, to ours
        signature = program.graph_signature
        self.stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.state = {
            **dict(program.named_parameters()),
            **dict(program.named_buffers()),
            **program.constants,
        }
        self.used: set[str] = set()

    def note(self, ours: fx.Node, theirs: fx.Node) -> fx.Node:
        value = theirs.meta.get("val")
        if isinstance(value, Tensor) and "shape" not in ours.meta:
            ours.meta["shape"] = tuple(value.shape)
        ours.meta.setdefault("path", path_of(theirs))
        return ours

    def value(self, node: fx.Node) -> fx.Node:
        if node not in self.nodes:
            name = self.stored[node.name]
            at, _, leaf = name.rpartition(".")
            owner = self.container(at)
            if not hasattr(owner, leaf):
                tensor = self.state[name]
                if isinstance(tensor, nn.Parameter):
                    owner.register_parameter(leaf, tensor)
                else:
                    owner.register_buffer(leaf, tensor)
            self.nodes[node] = self.graph.get_attr(name)
        return self.nodes[node]

    def container(self, path: str) -> nn.Module:
        """The module at ``path``, made where there is none."""
        owner = self.module
        for part in filter(None, path.split(".")):
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        return owner

    def tensor(self, node: fx.Node | None) -> Tensor | None:
        """Parameter or buffer behind ``node``; ValueError where it is computed."""
        if node is None:
            return None
        if not isinstance(node, fx.Node) or node.name not in self.stored:
            raise ValueError("its weights must be parameters")
        return self.state[self.stored[node.name]]

    def owner(self, node: fx.Node) -> str:
        """Name of the layer that holds parameter ``node``."""
        name = self.stored[node.name].rpartition(".")[0]
        if not name:
            raise ValueError(
                "its weights are the model's own: give them to a layer in the model, "
                "as nn.Sequential does"
            )
        if name in self.used:
            raise ValueError("another operation uses the same weights")
        return name

    def free_name(self, node: fx.Node) -> str:
        """A name for a module without parameters, from its place in the model."""
        path = path_of(node)
        if not path or self._taken(path):
            path = f"{path}.{operation(node).strip('_')}".strip(".")
        name, count = path, 1
        while self._taken(name):
            count += 1
            name = f"{path}_{count}"
        return name

    def _taken(self, name: str) -> bool:
        """Whether ``name`` is a module, or a container of one, already or later."""
        return (
            name in self.used
            or any(n.startswith(f"{name}.") for n in self.stored.values())
            or any(n.startswith(f"{name}.") for n in self.used)
        )

    def module_call(self, name: str, module: nn.Module, source: fx.Node) -> fx.Node:
        """Add ``module`` as ``name`` and call it with our counterpart of ``source``."""
        self.used.add(name)
        at, _, leaf = name.rpartition(".")
        setattr(self.container(at), leaf, module)
        return self.graph.call_module(name, (self.nodes[source],))
