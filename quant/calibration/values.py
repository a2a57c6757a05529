# SPDX-License-Identifier: Apache-2.0
"""Values of a network's nodes for calibration samples, kept no longer than they are read.

Values on a grid of codes are kept as integers of 8 bits. Others are kept where several nodes read
them; all else is computed again where it is asked for.
"""

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from quant.capture.nodes import module_of
from quant.nn.activations import ActQuantiser


class Values:
    """Values of the nodes of a flat graph, a part of the samples at a time.

    Parameters
    ----------
    model : in evaluation
    inputs : of the samples, each (N, ...)
    part : samples computed at once
    half : keep what is on no grid of codes in float16
    """

    def __init__(
        self, model: fx.GraphModule, inputs: tuple[Tensor, ...], part: int, half: bool = False
    ) -> None:
        self.half, self.inputs = half, inputs
        self._interpreter = fx.Interpreter(model)
        self._nodes = {node.name: node for node in model.graph.nodes}
        places = [node for node in model.graph.nodes if node.op == "placeholder"]
        self.parts = -(-len(inputs[0]) // part)
        self._kept: dict[fx.Node, list] = {
            node: list(x.split(part)) for node, x in zip(places, inputs, strict=True)
        }
        self._given = set(places)
        self._last = self._last_reads(model.graph)

    @staticmethod
    def keeps(node: fx.Node) -> bool:
        """True if the values of ``node`` are kept until they were read."""
        return node.op != "get_attr" and (
            len(node.users) > 1 or isinstance(module_of(node), ActQuantiser)
        )

    def _last_reads(self, graph: fx.Graph) -> dict[fx.Node, fx.Node]:
        """Last kept node, or output, that needs the values of each kept one."""
        last: dict[fx.Node, fx.Node] = {}
        needs: dict[fx.Node, set[fx.Node]] = {}
        for node in graph.nodes:
            read: set[fx.Node] = set()
            for source in node.all_input_nodes:
                read |= {source} if self.keeps(source) else needs[source]
            needs[node] = read
            if self.keeps(node) or node.op == "output":
                for source in read:
                    last[source] = node
        return last

    def of(self, node: fx.Node, part: int) -> Tensor:
        """Value of ``node`` for a part of the samples."""
        node = self._nodes[node.name]
        env: dict[fx.Node, object] = {}
        self._interpreter.env = env
        self._compute(node, part, env)
        value = env[node]
        assert isinstance(value, Tensor)
        return value

    def _compute(self, node: fx.Node, part: int, env: dict[fx.Node, object]) -> None:
        """Value of ``node`` into ``env``, and of all that it is made of."""
        todo = [node]
        while todo:
            current = todo[-1]
            if current in env:
                todo.pop()
            elif current in self._kept:
                env[current] = self._unpack(current, self._kept[current][part])
            elif missing := [n for n in current.all_input_nodes if n not in env]:
                todo += missing
            else:
                env[current] = self._interpreter.run_node(current)

    def keep(self, node: fx.Node) -> None:
        """Computation of the values of ``node``, which are kept; drops what no later one reads."""
        node = self._nodes[node.name]
        if node not in self._given:
            kept = []
            for part in range(self.parts):
                env: dict[fx.Node, object] = {}
                self._interpreter.env = env
                self._compute(node, part, env)
                kept.append(self._pack(node, env[node]))
            self._kept[node] = kept
        for source in [n for n, last in self._last.items() if last is node]:
            if source not in self._given:
                self._kept.pop(source, None)

    def _grid(self, node: fx.Node) -> ActQuantiser | None:
        module = module_of(node)
        return module if isinstance(module, ActQuantiser) and module.quantise else None

    def _pack(self, node: fx.Node, value: object) -> object:
        grid = self._grid(node)
        if grid is not None and isinstance(value, Tensor):
            return (value / grid.scale).round_().add_(grid.zero_point).to(torch.uint8)

        def smaller(x: object) -> object:
            fits = self.half and isinstance(x, Tensor) and x.dtype == torch.float32
            return x.half() if fits and isinstance(x, Tensor) else x

        return tree_map(smaller, value)

    def _unpack(self, node: fx.Node, value: object) -> object:
        grid = self._grid(node)
        if grid is not None and isinstance(value, Tensor):
            return (value.float() - grid.zero_point) * grid.scale
        return tree_map(
            lambda x: x.float() if isinstance(x, Tensor) and x.dtype == torch.float16 else x, value
        )
