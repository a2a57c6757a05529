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
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ir import numerics
from ir.arrays import ExportError
from ir.graph import (
    Conv,
    DepthToSpace,
    Header,
    HostFunction,
    IntGraph,
    LayerArrays,
    Linear,
    Output,
    Residual,
    TensorSpec,
)
from ir.nodes import Gather as IrGather
from ir.ratio import Ratio
from quant.capture.nodes import argument, module_of, name_of, shape_of
from quant.capture.results import leaves
from quant.lowering.align import align_scales
from quant.lowering.code_nodes import CodeNodes, Padding
from quant.lowering.fusion import FusionGroup, encode_or_raise, fusion_groups
from quant.lowering.hybrid import HybridLowering
from quant.lowering.partition import is_hybrid
from quant.lowering.transposed import SpreadConv2d, phases
from quant.nn import blocks
from quant.nn.layers import QuantConv2d, quantised_layers, training_only
from quant.nn.tail import Tail
from quant.nn.windows import pair

LOGITS = "logits"


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


class Lowering(CodeNodes):
    """Collector of tensors, nodes and arrays, in the order of the flat graph."""

    host_inputs = ()

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
