# SPDX-License-Identifier: Apache-2.0
"""From any module to a flat graph of standard modules, by :func:`torch.export.export`.

ATen has many ways to write one layer: methods, functions and modules, in place or not, ``view`` or
``flatten``. Here each becomes one of a few modules of torch.nn, under the name that its
parameters had in the user's model, so that a checkpoint of that model fits the flat one as well.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from ir.nodes import HostFunction
from quant.capture.functions import Found, find_functions
from quant.capture.gathers import GATHERS, is_view
from quant.capture.lines import lift_lines
from quant.capture.nodes import argument, class_of, is_mutable, operation, path_of
from quant.capture.reductions import REDUCTIONS
from quant.capture.results import find_tails, structure_of
from quant.capture.rewrites import REWRITES, VIEWS
from quant.capture.writer import GraphWriter, UnsupportedLayer
from quant.nn.tail import Tail

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
COPIES = {"clone", "_to_copy", "lift_fresh_copy"}  #: of those, what has memory of its own
#: Leaves no value that a layer reads.
CHECKS = {"_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"}


def capture(
    model: nn.Module, example: Tensor | tuple[Tensor, ...], *, keep_unknown: bool = False
) -> fx.GraphModule:
    """Flat graph of ``model`` that computes the same, for any batch size.

    Parameters
    ----------
    model : stays as it is; the result has copies of its parameters
    example : its inputs, batch first; all other sizes become fixed
    keep_unknown : keep other operations as calls of ATen instead of refusing them

    Each node has its shape, batch first, in ``node.meta["shape"]``, and its place in the model in
    ``node.meta["path"]``. Raises :class:`UnsupportedLayer`, and TypeError for
    an example that is no batch.
    """
    from torch._dynamo.exc import TorchDynamoException  # here, because importing it takes a second

    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not all(isinstance(x, Tensor) and x.dim() and len(x) for x in inputs):
        raise TypeError("the example must be a batch, a tensor, or a tuple of tensors, batch first")
    training, model = model.training, copy.deepcopy(model)
    frozen = _frozen(model)
    model.eval()
    # A batch of one would be taken for a constant.
    inputs = tuple(x if len(x) > 1 else x.repeat(2, *[1] * (x.dim() - 1)) for x in inputs)
    batch = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings(), quiet_logs():
        warnings.simplefilter("ignore")  # about internals of torch and of the user's model
        try:
            program = torch.export.export(
                model, inputs, strict=False, dynamic_shapes=tuple({0: batch} for _ in inputs)
            )
        except (RuntimeError, TypeError, ValueError, TorchDynamoException) as e:
            reason = str(e).strip().partition("\n")[0]
            if "Constraints violated" in reason:
                reason = "the batch size is part of a shape: use flatten(1) or x.size(0)"
            raise UnsupportedLayer(
                "", type(model).__name__, f"torch.export cannot follow it ({reason})"
            ) from e
    modules = dict(model.named_modules(remove_duplicate=False))
    rewriter = Rewriter(program, modules=modules, frozen=frozen, keep_unknown=keep_unknown)
    return rewriter.run().train(training)


def _is_view(node: fx.Node) -> bool:
    """Whether the value of ``node`` is memory of its argument's."""
    if not isinstance(node.target, torch._ops.OpOverload) or is_mutable(node):
        return False
    returns = node.target._schema.returns
    return bool(returns) and returns[0].alias_info is not None


def _changes_base(node: fx.Node) -> bool:
    """Whether ``node`` works in place on a part of a tensor that is read behind it."""
    if not is_mutable(node):
        return False
    view, later = argument(node), set(_behind(node))
    while _is_view(view) and operation(view) not in IDENTITIES:
        view = argument(view)
        if later & set(view.users):
            return True
    return False


def _behind(node: fx.Node) -> Iterator[fx.Node]:
    while node.op != "output":
        node = node.next
        yield node


def _read(graph: fx.Graph, functions: Mapping[fx.Node, Found]) -> set[fx.Node]:
    """Nodes that the outputs of ``graph`` need where its functions are nodes of their own; what
    works in place is needed by those behind it."""
    inner = {node for found in functions.values() for node in found.inner}
    waiting = [n for n in graph.nodes if n.op == "output" or (is_mutable(n) and n not in inner)]
    read = set(waiting)
    while waiting:
        node = waiting.pop()
        found = functions.get(node)
        before = node.all_input_nodes if found is None else (found.source, *found.parameters)
        waiting += set(before) - read
        read.update(before)
    return read


def _frozen(model: nn.Module) -> set[str]:
    """Names of the modules that are in evaluation mode although ``model`` is trained."""
    names = {n for n, m in model.named_modules() if model.training and not m.training}
    model.train()
    # A class may keep its layers frozen in its own train().
    return names | {n for n, m in model.named_modules() if not m.training}


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Context without torch's logs, which repeat, with tracebacks, what it raises next."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class Rewriter(GraphWriter):
    """Walk over an exported program that writes the flat graph."""

    def run(self) -> fx.GraphModule:
        """Flat graph; raises :class:`~quant.capture.writer.UnsupportedLayer`."""
        lines = set() if self.keep_unknown else self._lift_lines()
        tails = {} if self.keep_unknown else find_tails(self.program.graph, self.stored)
        functions = {} if self.keep_unknown else find_functions(self.program, self.stored, tails)
        read = None if self.keep_unknown else _read(self.program.graph, functions)
        for node in self.program.graph.nodes:
            if node in tails:
                self._tail(node, tails[node])
            elif node in functions:
                self._function(node, functions[node])
            elif node.op == "output":
                self._output()
            elif node.op == "placeholder":
                if node.name not in self.stored:
                    self._input(node, node in lines)
            elif read is None or node in read:
                self._call(node)
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module.recompile()
        return self.module

    def _lift_lines(self) -> set[fx.Node]:
        try:
            return lift_lines(self.program, self.stored, self.state)
        except ValueError as error:
            raise UnsupportedLayer("", "the model", str(error)) from error

    def _input(self, node: fx.Node, of_line: bool) -> None:
        place = self.graph.placeholder(node.name)
        if of_line:
            batch, channels, _, length = node.meta["val"].shape
            place.meta["shape"] = (batch, channels, length)
            lifted = self.module_call(node, nn.Unflatten(1, (channels, 1)), place)
            self.nodes[node] = self.note(lifted, node)
        self.note(place, node)
        self.nodes.setdefault(node, place)

    def _function(self, node: fx.Node, found: Found) -> None:
        parameters = [self.value(parameter) for parameter in found.parameters]
        call = self.module_call(node, found.function, self.nodes[found.source])
        call.args = (*call.args, *parameters)
        self._give(node, self.note(call, node))

    def _tail(self, node: fx.Node, functions: tuple[HostFunction, ...]) -> None:
        with self._refusing(node):
            if self._reads_squeezed(node):
                raise ValueError("it reads a map without an axis: give keepdim=True before it")
        source = self.nodes[argument(node)]
        if functions:
            source = self.note(self.module_call(node, Tail(functions), source), node)
        self.nodes[node] = source

    def _output(self) -> None:
        for node in self.program.graph.output_node().all_input_nodes:
            if node in self.squeezed:
                reason = "its result is a map without an axis: give keepdim=True"
                raise UnsupportedLayer(path_of(node), operation(node), reason, class_of(node))
            if is_view(self, node):
                reason = "only channels can be put in another order, or all values in a row"
                raise UnsupportedLayer(path_of(node), operation(node), reason, class_of(node))
        results = structure_of(self.program, self.nodes)
        if self.keep_unknown and not isinstance(results, fx.Node):
            raise UnsupportedLayer("", "the model", "with operations on the host it returns one")
        self.graph.output(results)

    def _call(self, node: fx.Node) -> None:
        name = operation(node)
        if name in CHECKS or (name == "sym_size" and not self.keep_unknown):
            return  # sizes that only a view reads, which becomes a flatten
        if name in IDENTITIES and argument(node).name in self.stored:
            self.stored[node.name] = self.stored[argument(node).name]
            return
        if not self.keep_unknown and self.computes_constant(node):
            self.constants.add(node)
            return
        if name in IDENTITIES and not self._changes_type(node):
            self.nodes[node] = self.nodes[argument(node)]
            self.look_like(node, argument(node))
            if name not in COPIES:
                self.aliases[node] = self._storage(argument(node))
            return
        with self._refusing(node):
            rewrite = REWRITES.get(name)
            if self.keep_unknown and name in GATHERS:
                rewrite = None  # the host moves channels itself
            if name not in VIEWS and any(is_view(self, n) for n in node.all_input_nodes):
                raise ValueError("it reads a view that is more than a choice of channels")
            if name not in (*VIEWS, *REDUCTIONS, "getitem") and self._reads_squeezed(node):
                raise ValueError("it reads a map without an axis: give keepdim=True before it")
            if not self.keep_unknown and _changes_base(node):
                raise ValueError("it works in place on a view of what is read again: copy it first")
            result = rewrite(self, node) if rewrite else None
            if result is None:
                result = self._keep(node)
        self._give(node, self.note(result, node))

    def _reads_squeezed(self, node: fx.Node) -> bool:
        return any(n in self.squeezed for n in node.all_input_nodes)

    def _give(self, node: fx.Node, result: fx.Node) -> None:
        """``result`` for the value of ``node``, and for what that is in place of."""
        if is_mutable(node) and not self.keep_unknown:
            self.aliases[node] = before = self._storage(argument(node))
            for other in self.nodes:
                if self._storage(other) is before:
                    self.nodes[other] = result
        self.nodes[node] = result

    def _storage(self, node: fx.Node) -> fx.Node:
        """First node whose memory the value of ``node`` is."""
        return self.aliases.get(node, node)

    @staticmethod
    def _changes_type(node: fx.Node) -> bool:
        after, before = node.meta.get("val"), argument(node).meta.get("val")
        if isinstance(after, Tensor) and isinstance(before, Tensor):
            return after.dtype != before.dtype
        return True

    @contextlib.contextmanager
    def _refusing(self, node: fx.Node) -> Iterator[None]:
        """ValueErrors inside are the reason why ``node`` cannot be had."""
        try:
            yield
        except ValueError as error:
            raise UnsupportedLayer(
                path_of(node), operation(node), str(error), class_of(node)
            ) from error

    def _keep(self, node: fx.Node) -> fx.Node:
        """The node as it is; parameters that it reads are fetched by name."""
        if not self.keep_unknown:
            raise ValueError("")
        return self.kept(node)
