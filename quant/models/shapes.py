# SPDX-License-Identifier: Apache-2.0
"""Shapes of a network by name, for questions that need no weights: cycles, arrays, memory."""

from pathlib import Path

import torch

from ir import cli
from ir.graph import IntGraph
from ir.ratio import Ratio
from quant.lowering.dry_run import untrained_graph
from quant.lowering.prepare import prepare
from quant.models import MODELS, build

RATIO = Ratio(65, 30, 5)


def network_shapes(name: str, size: int = 224, classes: int = 1000) -> IntGraph:
    """Integer graph without weights of an image network of :data:`quant.models.MODELS`.

    ``name`` may also be that of an ONNX file. ``size`` is in pixels. Raises ValueError for an
    unknown name, and for a file that cannot be read.
    """
    shape = (3, size, size)
    if name.endswith(".onnx"):
        model = cli.require("quant.onnx.read").from_onnx(name, shape=shape)
        name = Path(name).stem
    else:
        known = [model for model, kind in MODELS.items() if not kind.source]
        if name not in known:
            raise ValueError(
                f"no network is called {name!r}; known are {', '.join(known)}, and ONNX files"
            )
        model = build(name, shape=shape, classes=classes).eval()
    example = torch.zeros(2, *shape)
    graph = untrained_graph(prepare(model, example), example, RATIO)
    header = graph.header.model_copy(update={"name": name})
    return IntGraph(header, graph.layers, graph.tables)
