# SPDX-License-Identifier: Apache-2.0
"""From any module to a flat graph of standard modules, by :func:`torch.export.export`.

ATen has many ways to write one layer: methods, functions and modules, in place or not, ``view`` or
``flatten``. Here each becomes one of the modules of :data:`SUPPORTED`, under the name that its
parameters had in the user's model, so that a checkpoint of that model fits the flat one as well.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from quant.aten import REWRITES, class_of, operation, path_of

SUPPORTED = (
    "convolution, linear, batch-norm behind either, ReLU, ReLU6, addition, max and "
    "average pool, zero padding, flatten, dropout"
)

#: Operations without effect on values, or only on bookkeeping.
IDENTITIES = {
    "contiguous",
    "clone",
    "alias",
    "detach",
    "detach_",
    "to",
    "_to_copy",
    "lift_fresh_copy",
}
#: Leaves no value that a layer reads.
CHECKS = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"}


class UnsupportedLayer(ValueError):
    """An operation that the accelerator does not compute, by its name and place in the model."""

    def __init__(self, name: str, operation: str, reason: str = "", kind: str = "") -> None:
        super().__init__(
            f"layer {name or '(model)'!r}{f' of class {kind}' if kind else ''}: "
            f"{operation} is not supported"
            f"{': ' if reason else ''}{reason}; supported are {SUPPORTED}"
        )


def capture(
    model: nn.Module, example: Tensor | tuple[Tensor, ...], *, keep_unknown: bool = False
) -> fx.GraphModule:
    """A flat graph of ``model`` that computes the same, for any batch size.

    Parameters
    ----------
    model : stays as it is; the result has copies of its parameters
    example : its inputs, batch first; all other sizes become fixed
    keep_unknown : keep other operations as calls of ATen instead of refusing them

    Each node has its shape, batch first, in ``node.meta["shape"]``, and its place in the model in
    ``node.meta["path"]``. Raises :class:`UnsupportedLayer`.
    """
    training, model = model.training, copy.deepcopy(model).eval()
    inputs = example if isinstance(example, tuple) else (example,)
    # A batch of one would be taken for a constant.
    inputs = tuple(x if len(x) > 1 else x.repeat(2, *[1] * (x.dim() - 1)) for x in inputs)
    batch = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings(), quiet_logs():
        warnings.simplefilter("ignore")  # about internals of torch and of the user's model
        try:
            program = torch.export.export(
                model, inputs, strict=False, dynamic_shapes=tuple({0: batch} for _ in inputs)
            )
        except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as e:
            reason = str(e).strip().partition("\n")[0]
            if "Constraints violated" in reason:
                reason = "the batch size is part of a shape: use flatten(1) or x.size(0)"
            raise UnsupportedLayer(
                "", type(model).__name__, f"torch.export cannot follow it ({reason})"
            ) from e
    return Rewriter(program, keep_unknown).run().train(training)


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Without what torch logs, tracebacks among it, before it raises the same."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class Rewriter:
    """Walks an exported program and writes the flat graph."""

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

    def run(self) -> fx.GraphModule:
        for node in self.program.graph.nodes:
            if node.op == "output":
                self._output(node)
            elif node.op == "placeholder":
                if node.name not in self.stored:
                    self.nodes[node] = self._note(self.graph.placeholder(node.name), node)
            else:
                self._call(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        return self.module

    def _output(self, node: fx.Node) -> None:
        results = [r for r in node.args[0] if isinstance(r, fx.Node)]
        if len(results) != 1:
            raise UnsupportedLayer("", "the model", f"it returns {len(results)} tensors, not one")
        self.graph.output(self.nodes[results[0]])

    def _call(self, node: fx.Node) -> None:
        name = operation(node)
        if name in CHECKS or (name == "sym_size" and not self.keep_unknown):
            return  # sizes that only a view reads, which becomes a flatten
        if name in IDENTITIES and not self._changes_type(node):
            self.nodes[node] = self.nodes[node.args[0]]
            return
        with self._refusing(node):
            rewrite = REWRITES.get(name)
            result = rewrite(self, node) if rewrite else None
            if result is None:
                result = self._keep(node)
        self.nodes[node] = self._note(result, node)

    @staticmethod
    def _changes_type(node: fx.Node) -> bool:
        values = node.meta.get("val"), node.args[0].meta.get("val")
        return any(not isinstance(v, Tensor) for v in values) or values[0].dtype != values[1].dtype

    @contextlib.contextmanager
    def _refusing(self, node: fx.Node) -> Iterator[None]:
        """ValueErrors inside are the reason why ``node`` cannot be had."""
        try:
            yield
        except ValueError as error:
            raise UnsupportedLayer(
                path_of(node), operation(node), str(error), class_of(node)
            ) from error

    def _note(self, ours: fx.Node, theirs: fx.Node) -> fx.Node:
        value = theirs.meta.get("val")
        if isinstance(value, Tensor) and "shape" not in ours.meta:
            ours.meta["shape"] = tuple(value.shape)
        ours.meta.setdefault("path", path_of(theirs))
        return ours

    def _keep(self, node: fx.Node) -> fx.Node:
        """The node as it is; parameters that it reads are fetched by name."""
        if not self.keep_unknown:
            raise ValueError("")
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._value)
        return self.graph.call_function(node.target, args, kwargs)

    def _value(self, node: fx.Node) -> fx.Node:
        if node not in self.nodes:
            name = self.stored[node.name]
            at, _, leaf = name.rpartition(".")
            owner = self._container(at)
            if not hasattr(owner, leaf):
                tensor = self.state[name]
                if isinstance(tensor, nn.Parameter):
                    owner.register_parameter(leaf, tensor)
                else:
                    owner.register_buffer(leaf, tensor)
            self.nodes[node] = self.graph.get_attr(name)
        return self.nodes[node]

    def _container(self, path: str) -> nn.Module:
        """The module at ``path``, made where there is none."""
        owner = self.module
        for part in filter(None, path.split(".")):
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        return owner

    # What the rewrites below are written with.

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
        setattr(self._container(at), leaf, module)
        return self.graph.call_module(name, (self.nodes[source],))


def module_of(node: fx.Node) -> nn.Module | None:
    """The module that ``node`` calls, if it calls one."""
    if node.op != "call_module":
        return None
    return node.graph.owning_module.get_submodule(node.target)
