# SPDX-License-Identifier: Apache-2.0
"""Dry run of the export before training: what the graph will be, but for its numbers.

Whatever the weights become, a network that passes it is exported and compiled: operations and
shapes decide that.
"""

import copy

import torch
from torch import Tensor, fx, nn

from ir.graph import GraphError, IntGraph
from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.capture.writer import UnsupportedLayer
from quant.lowering.export import graph_of
from quant.nn.activations import ActQuantiser
from quant.nn.layers import RowQuantised

TILE_ROWS = 16


@torch.no_grad()
def untrained_graph(
    model: fx.GraphModule,
    example: Tensor | tuple[Tensor, ...],
    ratio: Ratio,
    tile_rows: int = TILE_ROWS,
) -> IntGraph:
    """Integer graph that a prepared ``model`` will have, with weights of zero.

    Parameters
    ----------
    example : a batch of its inputs, of which only the shape counts
    ratio, tile_rows : that its rows will be assigned by

    Raises :class:`~quant.capture.writer.UnsupportedLayer` where the export would refuse it.
    """
    model = copy.deepcopy(model).cpu()
    for module in model.modules():
        if isinstance(module, RowQuantised):
            _forget(module, ratio.rows(len(module.weight), tile_rows))
        elif isinstance(module, ActQuantiser):
            module.clip.fill_(module.high)  # steps of one
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            for parameter, value in ((module.weight, 1), (module.bias, 0)):
                if parameter is not None:
                    parameter.fill_(value)
    try:
        return graph_of(model, example, name="network", ratio=ratio, tile_rows=tile_rows)
    except GraphError as error:
        raise UnsupportedLayer("", "the model", str(error)) from error


def _forget(layer: RowQuantised, counts: tuple[int, int, int]) -> None:
    schemes = torch.tensor(list(Scheme), dtype=torch.uint8)
    layer.scheme.copy_(schemes.repeat_interleave(torch.tensor(counts)))
    layer.alpha.fill_(1)
    layer.weight.zero_()
    bias = getattr(layer, "bias", None)
    if bias is not None:
        bias.zero_()
