# SPDX-License-Identifier: Apache-2.0
"""Shapes of a network by name, for questions that need no weights: cycles, arrays, memory."""

import torch

from ir.graph import IntGraph
from ir.ratio import Ratio
from quant.lowering.dry_run import untrained_graph
from quant.lowering.prepare import prepare
from quant.models import MODELS, build

RATIO = Ratio(65, 30, 5)


def network_shapes(name: str, size: int = 224, classes: int = 1000) -> IntGraph:
    """Integer graph without weights of an image network of :data:`quant.models.MODELS`.

    ``size`` is in pixels. Raises ValueError for an unknown name, and for a network of texts.
    """
    known = [model for model, kind in MODELS.items() if kind.reads == "images"]
    if name not in known:
        raise ValueError(f"no network is called {name!r}; known are {', '.join(known)}")
    model = build(name, shape=(3, size, size), classes=classes).eval()
    example = torch.zeros(2, 3, size, size)
    graph = untrained_graph(prepare(model, example), example, RATIO)
    header = graph.header.model_copy(update={"name": name})
    return IntGraph(header, graph.layers, graph.tables)
