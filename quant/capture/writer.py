# SPDX-License-Identifier: Apache-2.0
"""Writer of the flat graph that a captured model becomes."""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from quant.capture.constants import fold
from quant.capture.names import Names
from quant.capture.nodes import operation, path_of, stack_of

#: Page of the operations that are supported, generated from the rewrites.
OPERATIONS = "docs/operations.md"


class UnsupportedLayer(ValueError):
    """Error of an operation that the accelerator does not compute: its name and its place."""

    def __init__(self, name: str, operation: str, reason: str = "", kind: str = "") -> None:
        super().__init__(
            f"layer {name or '(model)'!r}{f' of class {kind}' if kind else ''}: "
            f"{operation} is not supported"
            f"{': ' if reason else ''}{reason}; {OPERATIONS} lists those that are"
        )


class GraphWriter:
    """Flat graph in the making: its modules, the nodes written so far, names that are free.

    Parameters
    ----------
    program : the exported model, whose parameters the flat graph shares
    modules : of the user's model, by name
    frozen : names of those that stay in evaluation mode while the model is trained
    keep_unknown : keep operations without a rewrite as calls of ATen
    """

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        *,
        modules: dict[str, nn.Module],
        frozen: set[str],
        keep_unknown: bool,
    ) -> None:
        self.program, self.modules, self.frozen = program, modules, frozen
        self.keep_unknown = keep_unknown
        self.module = fx.GraphModule(nn.Module(), fx.Graph())
        self.graph = self.module.graph
        self.nodes: dict[fx.Node, fx.Node] = {}  # of the program, to ours
        self.aliases: dict[fx.Node, fx.Node] = {}  # of the program: with the memory of another
        self.constants: set[fx.Node] = set()  # of the program, computed of parameters alone
        self.folded: dict[fx.Node, nn.Parameter] = {}  # of those, what layers have as weights
        self.layers: dict[str, list[tuple[str, nn.Module]]] = {}  # by the place of their weights
        #: of a node that views an activation: that, and the number of each of its values
        self.views: dict[fx.Node, tuple[fx.Node, Tensor]] = {}
        self.squeezed: set[fx.Node] = set()  # of the program, with axes of size 1 more in ours
        signature = program.graph_signature
        self.stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.state: dict[str, Tensor] = {
            **dict(program.named_parameters()),
            **dict(program.named_buffers()),
            **{n: c for n, c in program.constants.items() if isinstance(c, Tensor)},
        }
        called = {path for node in program.graph.nodes for path in stack_of(node)}
        self.names = Names(called, self.stored.values())

    def note(self, ours: fx.Node, theirs: fx.Node) -> fx.Node:
        """Node ``ours`` with the shape and the place in the model of ``theirs``."""
        value = theirs.meta.get("val")
        if isinstance(value, Tensor) and "shape" not in ours.meta:
            ours.meta["shape"] = tuple(value.shape)
        ours.meta.setdefault("path", path_of(theirs))
        return ours

    def value(self, node: fx.Node) -> fx.Node:
        """Node of the flat graph for ``node``; a parameter is fetched by its name."""
        if node in self.constants and node not in self.nodes:
            self.nodes[node] = self.note(self.kept(node), node)
        if node not in self.nodes:
            name = self.names.place(self.stored[node.name])
            at, _, leaf = name.rpartition(".")
            owner = self.container(at)
            if not hasattr(owner, leaf):
                tensor = self.state[self.stored[node.name]]
                if isinstance(tensor, nn.Parameter):
                    owner.register_parameter(leaf, tensor)
                else:
                    owner.register_buffer(leaf, tensor)
            self.nodes[node] = self.graph.get_attr(name)
        return self.nodes[node]

    def look_like(self, node: fx.Node, other: fx.Node) -> None:
        """Same axes for ``node`` of the program as for ``other``, whose value it has."""
        if other in self.views:
            self.views[node] = self.views[other]
        if other in self.squeezed:
            self.squeezed.add(node)

    def kept(self, node: fx.Node) -> fx.Node:
        """Call of ``node``'s operation as it is; parameters that it reads are fetched by name."""
        if not callable(node.target):
            raise ValueError("it is no function")
        args = map_arg(node.args, self.value)
        options = map_arg(node.kwargs, self.value)
        return self.graph.call_function(node.target, args, options)

    def container(self, path: str) -> nn.Module:
        """Module at ``path``, a name of ours, made where there is none."""
        owner: nn.Module = self.module
        for part in filter(None, path.split(".")):
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        return owner

    def tensor(self, node: object) -> Tensor:
        """Parameter or buffer behind ``node``, or what is computed of them as a parameter of its
        own; ValueError for what depends on the images."""
        if isinstance(node, fx.Node) and node.name in self.stored:
            return self.state[self.stored[node.name]]
        if not isinstance(node, fx.Node) or node not in self.constants:
            raise ValueError("its weights must be parameters, or computed of them alone")
        if node not in self.folded:
            self.folded[node] = fold(node, self.constants, self._stored_tensor)
        return self.folded[node]

    def _stored_tensor(self, node: fx.Node) -> Tensor:
        return self.state[self.stored[node.name]]

    def is_constant(self, node: fx.Node) -> bool:
        """True if the value of ``node`` depends on parameters and buffers alone."""
        return node.name in self.stored or node in self.constants

    def computes_constant(self, node: fx.Node) -> bool:
        """True if ``node`` computes a tensor from nothing but constants."""
        return isinstance(node.meta.get("val"), Tensor) and all(
            map(self.is_constant, node.all_input_nodes)
        )

    def optional_tensor(self, node: object) -> Tensor | None:
        """Parameter or buffer behind ``node`` as :meth:`tensor` has it, or None for None."""
        return None if node is None else self.tensor(node)

    def owner(self, node: fx.Node) -> str:
        """Name in the user's model of the layer that holds parameter ``node``: empty for one of
        the model itself, and for one that is computed."""
        return self.stored.get(node.name, "").rpartition(".")[0]

    def layer_call(
        self, weight: fx.Node, module: nn.Module, source: fx.Node, place: str = ""
    ) -> fx.Node:
        """Call of ``module``, named as the layer of ``weight``, with the value of ``source``.

        A further call of an equal module, with the same parameters, is a call of the same module.
        One that shares its weights alone is a module beside it, at the user's ``place`` if the
        weights are that one's, too. Weights of the model itself, and those that are computed, make
        a layer in ``place``.
        """
        owner = self.owner(weight)
        known = self.layers.setdefault(owner or weight.name, [])
        for name, before in known:
            if _is_same(before, module):
                return self.graph.call_module(name, (self.nodes[source],))
        if owner:
            leaf = self.stored[weight.name].rpartition(".")[2]
            theirs = getattr(self.modules.get(place), leaf, None)
            if isinstance(theirs, Tensor) and theirs.data_ptr() == self.tensor(weight).data_ptr():
                owner = place
            name = self.names.claim(owner)
        else:
            name = self.names.free(place, type(module).__name__.lower())
        known.append((name, module))
        return self._insert(name, module, self.nodes[source])

    def module_call(self, node: fx.Node, module: nn.Module, source: fx.Node) -> fx.Node:
        """Call of ``module``, without parameters, for ``node``, with our node ``source``."""
        return self._insert(self.names.free(path_of(node), self._kind(node)), module, source)

    def _insert(self, name: str, module: nn.Module, source: fx.Node) -> fx.Node:
        at, _, leaf = name.rpartition(".")
        owner = self.container(at)
        for part, child in getattr(owner, leaf, nn.Module()).named_children():
            module.add_module(part, child)  # a layer may hold others, such as its own padding
        setattr(owner, leaf, module)
        return self.graph.call_module(name, (source,))

    @staticmethod
    def _kind(node: fx.Node) -> str:
        return operation(node).strip("_")


def _is_same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules compute the same of the same parameters."""
    tensors = [{**m._parameters, **m._buffers} for m in (one, other)]
    return (
        type(one) is type(other)
        and one.extra_repr() == other.extra_repr()
        and all(tensors[0][name] is tensors[1][name] for name in tensors[0] | tensors[1])
    )


#: What writes an operation of ATen into the flat graph: gives its value, or None to keep it.
Rewrite = Callable[[GraphWriter, fx.Node], fx.Node | None]
