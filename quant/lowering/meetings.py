# SPDX-License-Identifier: Apache-2.0
"""Meetings of tensors in one: their codes need one grid, chosen when the network is prepared."""

from collections.abc import Callable

from torch import fx, nn

from quant.capture.nodes import argument, free_submodule, module_of
from quant.nn.activations import ActQuantiser, QuantAvgPool, Tie
from quant.nn.blocks import DepthToSpace, Repeat
from quant.nn.gather import Gather

#: What a ReLU may go in front of.
EXCHANGED = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, Gather, DepthToSpace, Repeat)
Grid = ActQuantiser | QuantAvgPool | None  #: None is the image's


def relus_first(graph: fx.Graph) -> None:
    """Exchange of a ReLU with a maximum pooling or a choice of channels that only it reads.

    The value is the same, and the ReLU may be a layer's quantiser.
    """
    for node in list(graph.nodes):
        if not isinstance(module_of(node), nn.ReLU | nn.Hardtanh):
            continue
        source = argument(node)
        if len(source.users) > 1 or not isinstance(module_of(source), EXCHANGED):
            continue
        node.replace_all_uses_with(source)
        first, *others = dict.fromkeys(source.all_input_nodes)
        node.args = (first,)
        node.meta["shape"] = first.meta["shape"]
        source.prepend(node)
        source.replace_input_with(first, node)
        for other in others:
            with graph.inserting_before(source):
                call = graph.call_module(_copied(node), (other,))
            call.meta |= node.meta | {"shape": other.meta["shape"]}
            source.replace_input_with(other, call)


def _copied(node: fx.Node) -> str:
    """Name of a copy of the module that ``node`` calls."""
    owner, module = node.graph.owning_module, module_of(node)
    assert owner is not None and module is not None
    name = free_submodule(owner, str(node.target))
    copy = nn.Hardtanh(0.0, module.max_val) if isinstance(module, nn.Hardtanh) else nn.ReLU()
    owner.add_submodule(name, copy)
    return name


def regridded(node: fx.Node, grid_of: Callable[[fx.Node], Grid]) -> list[fx.Node]:
    """Inputs of a :class:`~quant.nn.gather.Gather` whose codes lie on a grid that can't be chosen.

    None where all lie on the same one.
    """
    sources = list(dict.fromkeys(node.all_input_nodes))
    chosen = [chooser(grid_of(source)) for source in sources]
    if all(grid_of(source) is grid_of(sources[0]) for source in sources):
        return []
    return [source for source, grid in zip(sources, chosen, strict=True) if grid is None]


def tie_grids(node: fx.Node, grid_of: Callable[[fx.Node], Grid]) -> None:
    """One grid for all inputs of a :class:`~quant.nn.gather.Gather`."""
    grids = [chooser(grid_of(source)) for source in dict.fromkeys(node.all_input_nodes)]
    free = list(dict.fromkeys(grid for grid in grids if grid is not None))
    if len(free) > 1:
        Tie(*free)


def chooser(grid: Grid) -> ActQuantiser | None:
    """Quantiser whose choice ``grid`` is; None for the image's and for averages finer than it."""
    while isinstance(grid, QuantAvgPool) and grid.keeps_grid:
        grid = grid.source
    return grid if isinstance(grid, ActQuantiser) else None
