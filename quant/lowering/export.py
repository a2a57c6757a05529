# SPDX-License-Identifier: Apache-2.0
"""From a trained model to the integer graph.

Real values on both sides of a layer (``x = s_in * a`` for the input, ``y = s_out * (q - z)`` for
the output, ``w = alpha * k / d`` for the weights of a row) turn ``gamma * (conv - mean) / sigma +
beta`` into ``q = M/2^S * acc + B/2^S`` with ``M/2^S = |gamma| / sigma * alpha / d * s_in / s_out``.
The sign of gamma moves into the weight values, which are symmetric in all three schemes. An input
with a zero point z adds ``-z * sum(w)`` to every accumulator, which moves into B.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from ir import numerics
from ir.arrays import ExportError
from ir.graph import (
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Header,
    HostFunction,
    IntGraph,
    LayerArrays,
    Linear,
    Mul,
    Node,
    Output,
    Residual,
    TensorSpec,
    Upsample,
)
from ir.nodes import Bits
from ir.nodes import Gather as IrGather
from ir.ratio import Ratio
from quant.capture.nodes import argument, module_of, name_of, shape_of, tensor_arguments
from quant.capture.results import leaves
from quant.capture.writer import UnsupportedLayer
from quant.lowering.align import align_scales
from quant.lowering.fusion import FusionGroup, encode_or_raise, fusion_groups
from quant.lowering.hybrid import HybridLowering
from quant.lowering.partition import is_hybrid
from quant.lowering.pools import lower_pool, lower_zeros
from quant.lowering.transposed import SpreadConv2d, phases
from quant.nn import blocks
from quant.nn.activations import ActQuantiser, QuantAvgPool, Regrid
from quant.nn.border import BorderPad
from quant.nn.elementwise import TableQuantiser
from quant.nn.gather import Gather
from quant.nn.layers import QuantConv2d, quantised_layers, training_only
from quant.nn.product import ProductQuantiser
from quant.nn.tail import Tail
from quant.nn.windows import pair

LOGITS = "logits"
Padding = tuple[int, int, int, int]  #: rows above and below, columns left and right


def export(
    model: fx.GraphModule,
    example: Tensor | tuple[Tensor, ...],
    *,
    name: str,
    ratio: Ratio,
    tile_rows: int,
    class_names: tuple[str, ...] = (),
    provenance: dict[str, str] | None = None,
) -> IntGraph:
    """Integer graph of a model made by :func:`quant.lowering.prepare.prepare` and trained.

    The model's scales are aligned first, in place (:func:`quant.lowering.align.align_scales`), so
    that it computes afterwards what the graph does.

    Parameters
    ----------
    example : a batch of its inputs, of which only the shape counts
    name : of the network
    ratio, tile_rows : of the accelerator that rows were assigned for
    class_names : of the logits, or none
    provenance : facts that the file records; equal runs need equal ones for equal digests

    Raises :class:`~ir.arrays.ExportError` for a value that does not fit, or a model that is no
    prepared one, and :class:`~quant.capture.writer.UnsupportedLayer` for a place where the
    accelerator cannot compute what torch did."""
    _check_exportable(model)
    align_scales(model)
    return graph_of(
        model,
        example,
        name=name,
        ratio=ratio,
        tile_rows=tile_rows,
        class_names=class_names,
        provenance=provenance,
    )


def graph_of(
    model: fx.GraphModule,
    example: Tensor | tuple[Tensor, ...],
    *,
    name: str,
    ratio: Ratio,
    tile_rows: int,
    class_names: tuple[str, ...] = (),
    provenance: dict[str, str] | None = None,
) -> IntGraph:
    """Integer graph of a model as it is, aligned or not; see :func:`export`."""
    if is_hybrid(model):
        lowering = HybridLowering(model)
    else:
        images = example[0] if isinstance(example, tuple) else example
        lowering = Lowering(model, images.shape[1:])
    lowering.run()
    header = Header(
        name=name,
        tensors=tuple(lowering.tensors),
        nodes=tuple(lowering.nodes),
        input=None if lowering.host_inputs else lowering.tensors[0].name,
        host_inputs=lowering.host_inputs,
        outputs=lowering.outputs,
        border=lowering.border,
        ratio=str(ratio),
        tile_rows=tile_rows,
        class_names=class_names,
        provenance=provenance or {},
    )
    return IntGraph(header, lowering.layers, lowering.tables)


def _check_exportable(model: nn.Module) -> None:
    """Raises :class:`~ir.arrays.ExportError`."""
    if not isinstance(model, fx.GraphModule) or not quantised_layers(model):
        cure = "give its .module" if hasattr(model, "module") else "prepare and train it first"
        raise ExportError(
            f"export takes the model that prepare gave, not {type(model).__name__}: {cure}"
        )
    for layer in quantised_layers(model).values():
        try:
            layer.check_scales()
        except ValueError as error:
            raise ExportError(str(error)) from error
        if layer.weight.dtype != torch.float32:
            kind = str(layer.weight.dtype).removeprefix("torch.")
            raise ExportError(f"the network is {kind}, export takes float32: call model.float()")
    for name in training_only(model):
        raise ExportError(f"layer {name!r} has rows of a scheme that is for training only")


class Lowering:
    """Collector of tensors, nodes and arrays, in the order of the flat graph."""

    host_inputs = ()

    def __init__(self, model: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
        self.model = model
        channels, height, width = (*input_shape, 1, 1)[:3]
        self.input_shape = channels, height, width
        self.tensors: list[TensorSpec] = []
        self.nodes: list[Node] = []
        self.layers: dict[str, LayerArrays] = {}
        self.tables: dict[str, np.ndarray] = {}
        self.specs: dict[fx.Node, TensorSpec] = {}  # of the codes that a node gives
        self.pads: dict[fx.Node, Padding] = {}  # that await a layer
        self.border: tuple[int, ...] = ()

    def run(self) -> None:
        """Lowering of every node of the flat graph; raises ExportError."""
        found = fusion_groups(self.model)
        for node in self.model.graph.nodes:
            if node.op == "placeholder":
                self.specs[node] = self._tensor("input", self.input_shape, 8, numerics.IMAGE_SCALE)
            elif node in found:
                self.specs[node] = self._group(found[node])
            elif node.op == "call_module" and argument(node) in self.specs:
                self._module(node, module_of(node))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Outputs of the graph, in the order in which the network returns them."""
        return tuple(self._output(name, node) for name, node in self._results())

    def _results(self) -> Iterator[tuple[str, fx.Node]]:
        return leaves(self.model.graph.output_node().args[0])

    def _output(self, name: str, node: fx.Node) -> Output:
        tail: list[HostFunction] = []
        while isinstance(module := module_of(node), Tail):
            tail[:0] = module.functions
            node = argument(node)
        shape = shape_of(node)
        while isinstance(module_of(node), nn.Flatten) or (
            isinstance(module_of(node), nn.Dropout)
            and self.specs[node] is self.specs.get(argument(node))
        ):
            node = argument(node)
        spec = self.specs[node]
        if shape == spec.shape:
            shape = ()
        return Output(tensor=spec.name, name=name, shape=shape, tail=tuple(tail))

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

    def _group(self, group: FusionGroup) -> TensorSpec:
        """Layer, batch-norm, an addition if there is one, and a quantiser; or logits."""
        layer, source = group.layer, self.specs[group.source]
        if isinstance(layer, SpreadConv2d):
            return self._transposed(group, layer, source)
        if isinstance(layer, QuantConv2d):
            kernel = spread_kernel(layer)
            stride, padding = pair(layer.stride), self._padding(group.source, layer.padding)
            shape = (layer.out_channels, *_windows(source.shape, kernel, stride, padding))
            node: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
            kind, node["groups"] = Conv, layer.groups
        else:
            kind, node, shape = Linear, {}, (layer.out_features, 1, 1)
        if group.quantiser is None:
            spec = self._raw(group, source, shape)
            node["wide"] = True
        else:
            spec, node["residual"] = self._quantised(group, source, shape)
            node["low"], node["high"] = group.output.codes
            node["table"] = self._table(group.result)
        self.nodes.append(kind(name=group.name, input=source.name, output=spec.name, **node))
        return spec

    def _quantised(
        self, group: FusionGroup, source: TensorSpec, shape: tuple[int, int, int]
    ) -> tuple[TensorSpec, Residual | None]:
        sums = group.output
        spec = self._grid(name_of(group.result), shape, group.quantiser or sums)
        scale, residual, constant = sums.scale.item(), None, sums.zero_point
        if group.residual is not None:
            operand = self.specs[group.residual]
            n = encode_or_raise(group.name, numerics.encode_residual, operand.scale / scale)
            residual = Residual(tensor=operand.name, n=n)
            constant -= operand.zero_point * n / (1 << numerics.SHIFT_MIN)
        values, factor, offset = _affine(group, source, scale)
        rows = [
            encode_or_raise(group.name, numerics.encode_row, f, o + constant)
            for f, o in zip(factor, offset, strict=True)
        ]
        self._arrays(group, values, rows)
        return spec, residual

    def _raw(
        self, group: FusionGroup, source: TensorSpec, shape: tuple[int, int, int]
    ) -> TensorSpec:
        """All rows with one shift, so that logits compare."""
        values, factor, offset = _affine(group, source, 1.0)
        _, shift = encode_or_raise(group.name, numerics.encode_multiplier, max(factor))
        rows = [
            (
                encode_or_raise(group.name, numerics.round_scaled, f, shift),
                encode_or_raise(group.name, numerics.round_scaled, o, shift),
                shift,
            )
            for f, o in zip(factor, offset, strict=True)
        ]
        self._arrays(group, values, rows)
        name = LOGITS if len(list(self._results())) == 1 else name_of(group.result)
        return self._tensor(name, shape, 8, math.ldexp(1, -shift))

    def _transposed(
        self, group: FusionGroup, layer: SpreadConv2d, source: TensorSpec
    ) -> TensorSpec:
        """A transposed convolution: its phases, which become pixels."""
        spread, before = module_of(group.source), argument(group.source)
        assert isinstance(spread, blocks.Spread)
        pads, sums = self.pads.get(before, (0, 0, 0, 0)), group.output
        size = source.shape[1] + sum(pads[:2]), source.shape[2] + sum(pads[2:])
        unsigned = source.model_copy(update={"zero_point": 0})
        values, factor, offset = _affine(group, unsigned, sums.scale.item())
        made = phases(values, layer, spread, size)
        rows = [
            encode_or_raise(
                group.name,
                numerics.encode_row,
                factor[row],
                offset[row] + sums.zero_point - factor[row] * source.zero_point * total,
            )
            for row, total in zip(made.rows, made.values.flatten(1).sum(1).tolist(), strict=True)
        ]
        top, bottom, left, right = (a + b for a, b in zip(made.padding, pads, strict=True))
        padding = top, bottom, left, right
        kernel = made.values.shape[2], made.values.shape[3]
        shape = len(made.rows), *_windows(source.shape, kernel, (1, 1), padding)
        grid, name = group.quantiser or sums, name_of(group.result)
        block = spread.stride
        phased = self._grid(name if block == (1, 1) else f"{name} phases", shape, grid)
        self._arrays(group, made.values, rows, layer.scheme[made.rows])
        self.nodes.append(
            Conv(
                name=group.name,
                input=source.name,
                output=phased.name,
                kernel=kernel,
                padding=padding,
                groups=layer.groups,
                low=sums.codes[0],
                high=sums.codes[1],
                table=self._table(group.result),
            )
        )
        if block == (1, 1):
            return phased
        if layer.groups > 1:
            ordered = self._grid(f"{name} in order", shape, grid)
            self.nodes.append(
                IrGather(
                    name=f"{group.name} in order",
                    inputs=(phased.name,),
                    output=ordered.name,
                    picks=tuple(made.order),
                )
            )
            phased = ordered
        height, width = (shape[i + 1] * block[i] - made.crop[i] for i in (0, 1))
        result = self._grid(name, (layer.out_channels, height, width), grid)
        self.nodes.append(
            DepthToSpace(
                name=f"{group.name} blocks",
                input=phased.name,
                output=result.name,
                block=block,
                crop=made.crop,
            )
        )
        return result

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

    def _arrays(
        self,
        group: FusionGroup,
        values: Tensor,
        rows: list[tuple[int, int, int]],
        schemes: Tensor | None = None,
    ) -> None:
        schemes = group.layer.scheme if schemes is None else schemes
        layer = group.layer
        if isinstance(layer, QuantConv2d) and not isinstance(layer, SpreadConv2d):
            values = spread_taps(values, pair(layer.dilation))
        scheme = schemes.cpu().numpy()
        multiplier, bias, shift = map(np.array, zip(*rows, strict=True))
        self.layers[group.name] = LayerArrays(
            values=values.cpu().numpy(),
            scheme=scheme,
            multiplier=multiplier,
            bias=bias,
            shift=shift,
        )

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


def spread_kernel(layer: QuantConv2d) -> tuple[int, int]:
    """Size of the kernel of ``layer``, with the zeros of its dilation."""
    kernel, dilation = pair(layer.kernel_size), pair(layer.dilation)
    return dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1


def spread_taps(values: Tensor, dilation: tuple[int, int]) -> Tensor:
    """Weight values (O, C, ky, kx), with zeros between them where they are dilated."""
    if dilation == (1, 1):
        return values
    kernel = [dilation[i] * (values.shape[i + 2] - 1) + 1 for i in (0, 1)]
    spread = values.new_zeros((*values.shape[:2], *kernel))
    spread[:, :, :: dilation[0], :: dilation[1]] = values
    return spread


def _windows(
    shape: tuple[int, int, int], kernel: tuple[int, int], stride: tuple[int, int], padding: Padding
) -> tuple[int, int]:
    rows, columns = (
        (shape[1 + i] + padding[2 * i] + padding[2 * i + 1] - kernel[i]) // stride[i] + 1
        for i in (0, 1)
    )
    return rows, columns


def _affine(
    group: FusionGroup, source: TensorSpec, target_scale: float
) -> tuple[Tensor, list[float], list[float]]:
    """Weight values with the sign of gamma; positive factor and offset of each row in steps of the
    output."""
    steps = group.steps(source.scale, target_scale)
    values = group.layer.to_int()
    sign = torch.where(steps < 0, -1, 1).view(-1, *[1] * (values.dim() - 1))
    values, factor = values * sign, steps.abs()
    offset = group.affine[1] / target_scale
    if source.zero_point:
        offset = offset - factor * source.zero_point * values.flatten(1).sum(1)
    return values, factor.tolist(), offset.tolist()
