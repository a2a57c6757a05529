# SPDX-License-Identifier: Apache-2.0
"""From a model with operations for the host to tensors, nodes and arrays of the integer graph.

A linear layer over a sequence is a 1x1 convolution, over one vector a linear node. Both are wide:
with ``x = s_in * (a - z)`` and ``w = alpha * k / d`` a row's ``M/2^S = alpha/d * s_in``, and
``B = 2^S * bias - M * z * sum(k)`` takes the zero point off exactly. Each row keeps its own S,
because the host divides by ``2^S`` as it reads.
"""

import math
from typing import cast

import numpy as np
from torch import fx

from ir import numerics
from ir.arrays import ExportError
from ir.graph import Conv, LayerArrays, Linear, Node, Output, TensorSpec
from ir.nodes import Bits
from quant.capture.nodes import argument, name_of
from quant.lowering.partition import (
    offloaded_layer,
    offloaded_shape,
    quantiser_of,
    segments,
)


class HybridLowering:
    """Collector of tensors, nodes and arrays of a hybrid model; the last tensor is the result."""

    def __init__(self, model: fx.GraphModule) -> None:
        self.model = model
        self.tensors: list[TensorSpec] = []
        self.nodes: list[Node] = []
        self.layers: dict[str, LayerArrays] = {}
        self.border: tuple[int, ...] = ()
        self.tables: dict[str, np.ndarray] = {}

    @property
    def host_inputs(self) -> tuple[str, ...]:
        """Names of the model's inputs, which host nodes read."""
        return tuple(n.name for n in self.model.graph.nodes if n.op == "placeholder")

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Output of the graph, the last linear layer's."""
        return (Output(tensor=self.tensors[-1].name),)

    def run(self) -> None:
        """Lowering of the host segments and of the layers behind each."""
        for segment in segments(self.model):
            self.nodes.append(segment.node)
            specs = {}
            for node in segment.outputs:
                quantiser = quantiser_of(node)
                specs[node] = TensorSpec(
                    name=name_of(node),
                    shape=offloaded_shape(node),
                    bits=cast(Bits, quantiser.bits),
                    scale=quantiser.scale.item(),
                    zero_point=quantiser.zero_point,
                )
            self.tensors += specs.values()
            for node in segment.linears:
                self._linear(node, specs[argument(node)])

    def _linear(self, node: fx.Node, source: TensorSpec) -> None:
        name, shape = name_of(node), offloaded_shape(node)
        arrays = self.layers[name] = self._arrays(node, source)
        if shape[1:] == (1, 1):
            self.nodes.append(Linear(name=name, input=source.name, output=name, wide=True))
        else:
            self.nodes.append(
                Conv(name=name, input=source.name, output=name, wide=True, kernel=(1, 1))
            )
        self.tensors.append(
            TensorSpec(
                name=name, shape=shape, bits=8, scale=math.ldexp(1, -int(arrays.shift.max()))
            )
        )

    def _arrays(self, node: fx.Node, source: TensorSpec) -> LayerArrays:
        layer = offloaded_layer(node)
        scheme, values = layer.scheme.cpu().numpy(), layer.to_int().cpu().numpy()
        multiplier, bias, shift = layer.requantisation()
        bias -= multiplier * source.zero_point * values.sum(1)
        if np.abs(bias).max() >= numerics.BIAS_LIMIT:
            raise ExportError(
                f"layer {node.target!r} has a bias that does not fit {numerics.BIAS_BITS} bits"
            )
        if offloaded_shape(node)[1:] != (1, 1):
            values = values[:, :, None, None]
        return LayerArrays(
            values=values, scheme=scheme, multiplier=multiplier, bias=bias, shift=shift
        )
