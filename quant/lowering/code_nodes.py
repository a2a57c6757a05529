# SPDX-License-Identifier: Apache-2.0
"""Nodes of the integer graph that read codes and give codes: pools, functions, products, moves."""

import math
from typing import cast

import numpy as np
from torch import fx, nn

from ir import numerics
from ir.graph import (
    AvgPool,
    DepthToSpace,
    Flatten,
    LayerArrays,
    Mul,
    Node,
    TensorSpec,
    Upsample,
)
from ir.nodes import Bits
from ir.nodes import Gather as IrGather
from quant.capture.nodes import argument, module_of, name_of, tensor_arguments
from quant.capture.writer import UnsupportedLayer
from quant.lowering.fusion import encode_or_raise
from quant.lowering.pools import lower_pool, lower_zeros
from quant.nn import blocks
from quant.nn.activations import ActQuantiser, QuantAvgPool, Regrid
from quant.nn.border import BorderPad
from quant.nn.elementwise import TableQuantiser
from quant.nn.gather import Gather
from quant.nn.product import ProductQuantiser
from quant.nn.windows import pair

Padding = tuple[int, int, int, int]  #: rows above and below, columns left and right


class CodeNodes:
    """Collector of tensors and nodes; of what has no weights, here is how it is lowered.

    Parameters
    ----------
    model : prepared network
    input_shape : of an image, without the batch
    """

    def __init__(self, model: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
        self.model = model
        self.input_shape = numerics.map_shape(input_shape)
        self.tensors: list[TensorSpec] = []
        self.nodes: list[Node] = []
        self.layers: dict[str, LayerArrays] = {}
        self.tables: dict[str, np.ndarray] = {}
        self.specs: dict[fx.Node, TensorSpec] = {}  # of the codes that a node gives
        self.pads: dict[fx.Node, Padding] = {}  # that await a layer
        self.border: tuple[int, ...] = ()

    def _module(self, node: fx.Node, module: nn.Module | None) -> None:
        source, name = argument(node), name_of(node)
        if isinstance(module, nn.ZeroPad2d | BorderPad):
            left, right, top, bottom = module.padding
            if isinstance(module, BorderPad) and any(module.codes):
                self.border = module.codes
            self.pads[node] = self._padded(source, top, bottom, left, right)
            self.specs[node] = self.specs[source]
        elif isinstance(module, nn.MaxPool2d | nn.AdaptiveMaxPool2d | QuantAvgPool):
            self.specs[node] = self._pool(name, module, source)
        elif isinstance(module, TableQuantiser):
            self.specs[node] = self._function(name, module, node)
        elif isinstance(module, ProductQuantiser):
            self.specs[node] = self._product(name, module, node)
        elif isinstance(module, Regrid):
            self.specs[node] = self._regrid(name, module, source)
        elif isinstance(module, Gather):
            self.specs[node] = self._gather(name, module, node)
        elif isinstance(module, blocks.DepthToSpace | blocks.Repeat):
            self.specs[node] = self._blocks(name, module, source)
        elif isinstance(module, blocks.Spread):
            self.specs[node] = self.specs[source]
        elif isinstance(module, nn.Flatten):
            self.specs[node] = self._flatten(name, source)
        elif isinstance(module, nn.Dropout | nn.Unflatten):
            self.specs[node] = self.specs[source]

    def _tensor(
        self, name: str, shape: tuple[int, int, int], bits: int, scale: float, zero_point: int = 0
    ) -> TensorSpec:
        while any(name == tensor.name for tensor in self.tensors):
            name += "_"  # a module may be called "input" or "logits"
        self.tensors.append(
            TensorSpec(
                name=name, shape=shape, bits=cast(Bits, bits), scale=scale, zero_point=zero_point
            )
        )
        return self.tensors[-1]

    def _grid(self, name: str, shape: tuple[int, int, int], grid: ActQuantiser) -> TensorSpec:
        """Tensor of the codes of a quantiser."""
        return self._tensor(name, shape, grid.bits, grid.scale.item(), grid.zero_point)

    def _table(self, node: fx.Node) -> str | None:
        """Name of the table of a quantiser that has one."""
        quantiser = module_of(node)
        if not isinstance(quantiser, TableQuantiser):
            return None
        source = quantiser.arguments or self.specs[argument(node)]
        scale = source.scale.item() if isinstance(source, ActQuantiser) else source.scale
        name, parameters = name_of(node), tensor_arguments(node)
        self.tables[name] = quantiser.table(scale, source.zero_point, parameters)
        return name

    def _function(self, name: str, quantiser: TableQuantiser, node: fx.Node) -> TensorSpec:
        """A function of codes: an average over one pixel, with a table."""
        source = argument(node)
        spec = self._with_zeros(source)
        result = self._grid(name, spec.shape, quantiser)
        m, b, s = numerics.encode_mean(1, 1)
        self.nodes.append(
            AvgPool(
                name=name,
                input=spec.name,
                output=result.name,
                kernel=(1, 1),
                stride=(1, 1),
                multiplier=m,
                bias=b,
                shift=s,
                high=numerics.act_max(spec.bits),
                table=self._table(node),
            )
        )
        return result

    def _product(self, name: str, quantiser: ProductQuantiser, node: fx.Node) -> TensorSpec:
        operands = argument(node), argument(node, 1)
        spec, factor = (self._with_zeros(operand) for operand in operands)
        result = self._grid(name, spec.shape, quantiser)
        self.tables[name] = quantiser.table(tensor_arguments(node))
        half = 1 << quantiser.shift - 1
        self.nodes.append(
            Mul(
                name=name,
                input=spec.name,
                factor=factor.name,
                output=result.name,
                bias=(quantiser.middle << quantiser.shift) + half,
                shift=quantiser.shift,
                high=numerics.act_max(numerics.TABLE_BITS),
                table=name,
            )
        )
        return result

    def _regrid(self, name: str, grid: Regrid, source: fx.Node) -> TensorSpec:
        """Codes on another grid: an average over one pixel."""
        spec = self._with_zeros(source)
        result = self._grid(name, spec.shape, grid)
        factor = spec.scale / result.scale
        m, b, s = encode_or_raise(
            name, numerics.encode_row, factor, grid.zero_point - factor * spec.zero_point
        )
        low, high = grid.codes
        self.nodes.append(
            AvgPool(
                name=name,
                input=spec.name,
                output=result.name,
                kernel=(1, 1),
                stride=(1, 1),
                multiplier=m,
                bias=b,
                shift=s,
                low=low,
                high=high,
            )
        )
        return result

    def _gather(self, name: str, gather: Gather, node: fx.Node) -> TensorSpec:
        sources = [self._with_zeros(source) for source in node.all_input_nodes]
        inputs = [self.specs[source] for source in node.args if isinstance(source, fx.Node)]
        shape = (
            len(gather.picks),
            -(-sources[0].shape[1] // gather.stride[0]),
            -(-sources[0].shape[2] // gather.stride[1]),
        )
        spec = sources[0]
        result = self._tensor(name, shape, spec.bits, spec.scale, spec.zero_point)
        self.nodes.append(
            IrGather(
                name=name,
                inputs=tuple(spec.name for spec in inputs),
                output=result.name,
                picks=gather.picks,
                stride=gather.stride,
            )
        )
        return result

    def _padded(self, source: fx.Node, top: int, bottom: int, left: int, right: int) -> Padding:
        """Padding that already awaits a layer, and more of it."""
        before = self.pads.get(source, (0, 0, 0, 0))
        return before[0] + top, before[1] + bottom, before[2] + left, before[3] + right

    def _padding(self, source: fx.Node, own: int | str | tuple[int, ...]) -> Padding:
        if isinstance(own, str):
            raise TypeError(f"padding {own!r} is no number of pixels")
        top, left = pair(own)
        return self._padded(source, top, top, left, left)

    def _blocks(
        self, name: str, module: blocks.DepthToSpace | blocks.Repeat, source: fx.Node
    ) -> TensorSpec:
        if source in self.pads:
            raise UnsupportedLayer(name, "zero padding before a larger map")
        spec, (rows, columns) = self.specs[source], module.block
        channels, height, width = spec.shape
        merges = isinstance(module, blocks.DepthToSpace)
        above, left = (0, 0) if merges else module.border
        shape = (
            channels // (rows * columns if merges else 1),
            height * rows + 2 * above,
            width * columns + 2 * left,
        )
        result = self._tensor(name, shape, spec.bits, spec.scale, spec.zero_point)
        options = {"name": name, "input": spec.name, "output": result.name, "block": module.block}
        self.nodes.append(
            DepthToSpace(**options) if merges else Upsample(**options, border=module.border)
        )
        return result

    def _pool(
        self,
        name: str,
        pool: nn.MaxPool2d | nn.AdaptiveMaxPool2d | QuantAvgPool,
        source: fx.Node,
    ) -> TensorSpec:
        spec = self._with_zeros(source)
        result, node = lower_pool(name, pool, spec)
        result = self._tensor(name, result.shape, result.bits, result.scale, result.zero_point)
        self.nodes.append(node.model_copy(update={"output": result.name}))
        return result

    def _with_zeros(self, source: fx.Node) -> TensorSpec:
        """Codes of ``source`` with the zeros around them that await a layer."""
        spec = self.specs[source]
        if source not in self.pads:
            return spec
        name = f"{name_of(source)}.zeros"
        result, node = lower_zeros(name, self.pads[source], spec)
        result = self._tensor(name, result.shape, result.bits, result.scale, result.zero_point)
        self.nodes.append(node.model_copy(update={"output": result.name}))
        self.specs[source] = result
        del self.pads[source]
        return result

    def _flatten(self, name: str, source: fx.Node) -> TensorSpec:
        spec = self._with_zeros(source)
        if len(source.meta.get("shape", ())) == 2:
            return spec
        shape = (math.prod(spec.shape), 1, 1)
        result = self._tensor(name, shape, spec.bits, spec.scale, spec.zero_point)
        self.nodes.append(Flatten(name=name, input=spec.name, output=result.name))
        return result
