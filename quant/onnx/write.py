# SPDX-License-Identifier: Apache-2.0
"""Integer graph as an ONNX model of standard operators, which computes the same integers.

A tensor of the graph is a value of the same name: codes are uint8 (N, C, H, W), the raw results of
wide layers int64. A layer is a ConvInteger, whose weights are unsigned with a zero point of 128:
unsigned by unsigned is exact on every processor, while products of unsigned by signed saturate on
some. Requantisation is int64: ``t = acc*M + B + r*N`` is clamped before the shift, to what lies
between ``low << S`` and ``((high + 1) << S) - 1``, so that it is not negative and a division by
``2^S`` is the arithmetic shift of :func:`ir.numerics.requantise`.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from ir import numerics
from ir.cli import UserError
from ir.graph import (
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Gather,
    GraphError,
    Host,
    IntegerNode,
    IntGraph,
    Linear,
    MaxPool,
    Mul,
    Upsample,
    Window,
    WindowPool,
)
from ir.numerics import Scheme
from quant.onnx.operators import Operators

OPSET = 18  #: of ONNX 1.13, the first with ReduceMax as it still is
IR_VERSION = 8  #: that release's
WEIGHT_ZERO = 128  #: zero point of weights


def onnx_model(graph: IntGraph, *, every: bool = False) -> onnx.ModelProto:
    """ONNX model of ``graph``, whose outputs are those of the graph, or ``every`` tensor.

    The input, uint8 (N, C, H, W), has the codes of the graph's input: of an image its pixels.
    Schemes of the rows, scales and zero points are in the metadata. Raises :class:`GraphError`,
    naming the node, for a graph with float operations of the host.
    """
    for node in graph.nodes:
        if isinstance(node, Host):
            raise GraphError(
                f"node {node.name!r} of graph {graph.header.name!r} is the host's "
                f"({', '.join(node.ops) or 'float operations'}): there are no integers to write"
            )
    wide = {node.output for node in graph.nodes if isinstance(node, Conv | Linear) and node.wide}
    values = {
        spec.name: helper.make_tensor_value_info(
            spec.name,
            onnx.TensorProto.INT64 if spec.name in wide else onnx.TensorProto.UINT8,
            ["N", *spec.shape],
        )
        for spec in graph.header.tensors
    }
    operators = Operators(values)
    writer = _Writer(graph, operators)
    for node in graph.nodes:
        assert not isinstance(node, Host)
        operators.layer = node.name
        operators.call_result(writer.write(node), node.output)
    written = [node.output for node in graph.nodes if not isinstance(node, Host)]
    outputs = written if every else list(graph.header.output_tensors)
    model = helper.make_model(
        helper.make_graph(
            operators.nodes,
            graph.header.name,
            [values[graph.input.name]],
            [values[name] for name in outputs],
            operators.constants,
            value_info=[values[name] for name in written if name not in outputs],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="rmsmp",
    )
    helper.set_model_props(model, _metadata(graph))
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Export to ``path``; the old file stays until the new one is complete. Raises UserError."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(model.SerializeToString(deterministic=True))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _metadata(graph: IntGraph) -> dict[str, str]:
    """Properties of the model, as JSON: what the integers mean, and the scheme of every row."""
    header = graph.header
    schemes = {
        name: [Scheme(number).name for number in layer.scheme]
        for name, layer in graph.layers.items()
    }
    tensors = {
        spec.name: {"scale": spec.scale, "zero_point": spec.zero_point, "bits": spec.bits}
        for spec in header.tensors
    }
    content: dict[str, object] = {
        "digest": graph.digest,
        "ratio": header.ratio,
        "tile_rows": header.tile_rows,
        "schemes": schemes,
        "tensors": tensors,
        "outputs": [output.model_dump() for output in header.outputs],
        "class_names": header.class_names,
    }
    return {f"rmsmp.{key}": json.dumps(value) for key, value in content.items()}


def _int64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _rows(values: np.ndarray | int) -> np.ndarray:
    """Values of rows, int64 (O, 1, 1) as they stand beside maps; one for all is (1, 1, 1)."""
    return np.atleast_1d(np.asarray(values, np.int64))[:, None, None]


class _Writer:
    """Operators of one node after the other; methods give names of values."""

    def __init__(self, graph: IntGraph, operators: Operators) -> None:
        self.graph, self.add = graph, operators.add

    def write(self, node: IntegerNode) -> str:
        """Operators of ``node``; name of its result, which is not the tensor's yet."""
        match node:
            case Conv() | Linear():
                return self.layer(node)
            case MaxPool():
                x = self.pad(node.input, node.padding)
                return self.add("MaxPool", x, kernel_shape=node.kernel, strides=node.stride)
            case AvgPool():
                return self.average(node)
            case WindowPool():
                return self.window_means(node) if node.mean else self.window_maxima(node)
            case Mul():
                return self.product(node)
            case Flatten():
                features = self.graph.tensor(node.output).shape[0]
                return self.add("Reshape", node.input, _int64(0, features, 1, 1))
            case Gather():
                return self.gather(node)
            case DepthToSpace():
                return self.depth_to_space(node)
            case Upsample():
                return self.upsample(node)

    # Layers and requantisation.

    def layer(self, node: Conv | Linear) -> str:
        arrays = self.graph.layers[node.name]
        weights = arrays.values.reshape(arrays.values.shape + (1,) * (4 - arrays.values.ndim))
        x, options = node.input, {}
        if isinstance(node, Conv):
            x = self.pad(x, node.padding, *self.graph.pad_codes(x))
            options = {"strides": node.stride, "group": node.groups}
        total = self.sums(x, weights, **options)
        t = self.scaled(total, _rows(arrays.multiplier), _rows(arrays.bias))
        if node.wide:
            return t
        if node.residual is not None:
            factor = node.residual.n << arrays.shift - numerics.SHIFT_MIN
            t = self.add("Add", t, self.add("Mul", self.wide(node.residual.tensor), _rows(factor)))
        return self.codes(self.shifted(t, _rows(arrays.shift), node.low, node.high), node.table)

    def sums(self, x: str, weights: np.ndarray, **options: object) -> str:
        """Sums of products, int32 (N, O, H, W), for weights (O, I, kh, kw) in -127..127."""
        unsigned = (weights + WEIGHT_ZERO).astype(np.uint8)
        zeros = np.array(0, np.uint8), np.array(WEIGHT_ZERO, np.uint8)
        return self.add("ConvInteger", x, unsigned, *zeros, **options)

    def scaled(self, total: str, multiplier: np.ndarray, bias: np.ndarray) -> str:
        """Value ``total * multiplier + bias``, int64."""
        return self.add("Add", self.add("Mul", self.wide(total), multiplier), bias)

    def shifted(self, t: str, shift: np.ndarray, low: int, high: int) -> str:
        """Value ``clamp(t >> shift, low, high)``, int64."""
        one = np.int64(1)
        t = self.add("Max", t, low * (one << shift))
        t = self.add("Min", t, ((high + 1) * (one << shift)) - 1)
        return self.add("Div", t, one << shift)

    def codes(self, y: str, table: str | None = None) -> str:
        """Codes, uint8, of integers in 0..255, or what ``table`` has for them."""
        if table is not None:
            return self.add("Gather", self.graph.tables[table], y, axis=0)
        return self.add("Cast", y, to=onnx.TensorProto.UINT8)

    def wide(self, x: str) -> str:
        """``x`` as int64."""
        return self.add("Cast", x, to=onnx.TensorProto.INT64)

    def pad(self, x: str, padding: tuple[int, int, int, int], *codes: int) -> str:
        """Map with ``padding`` (top, bottom, left, right) of ``codes``, one or one a channel."""
        if not any(padding):
            return x
        codes = codes or (0,)
        top, bottom, left, right = padding
        pads = _int64(0, 0, top, left, 0, 0, bottom, right)
        if len(codes) == 1:
            return self.add("Pad", x, pads, np.array(codes[0], np.uint8))
        less = self.add("Sub", self.add("Cast", x, to=onnx.TensorProto.INT32), _border(codes))
        more = self.add("Add", self.add("Pad", less, pads), _border(codes))
        return self.codes(more)

    # Pools and products.

    def average(self, node: AvgPool) -> str:
        channels = self.graph.tensor(node.input).shape[0]
        ones = np.ones((channels, 1, *node.kernel), np.int64)
        total = self.sums(node.input, ones, strides=node.stride, group=channels)
        t = self.scaled(total, _rows(node.multiplier), _rows(node.bias))
        return self.codes(self.shifted(t, _rows(node.shift), node.low, node.high), node.table)

    def window_means(self, node: WindowPool) -> str:
        """Sums of windows as products with matrices of ones, each then by its own M, B and S."""
        spec = self.graph.tensor(node.input)
        rows, columns = (
            np.array([[w.first <= i < w.last for i in range(size)] for w in windows], np.int64)
            for windows, size in ((node.rows, spec.shape[1]), (node.columns, spec.shape[2]))
        )
        counts = np.outer([w.count for w in node.rows], [w.count for w in node.columns])
        there = np.outer([w.size for w in node.rows], [w.size for w in node.columns])
        total = self.add("MatMul", self.add("MatMul", rows, self.wide(node.input)), columns.T)
        total = self.add("Add", total, (counts - there) * spec.zero_point)
        encoded = [numerics.encode_mean(node.steps, int(count)) for count in counts.flat]
        multiplier, bias, shift = (
            np.array(part, np.int64).reshape(counts.shape) for part in zip(*encoded, strict=True)
        )
        t = self.add("Add", self.add("Mul", total, multiplier), bias)
        return self.codes(self.shifted(t, shift, 0, node.high))

    def window_maxima(self, node: WindowPool) -> str:
        """Maxima along columns, then along rows, of pixels that are gathered window by window."""
        x = self.add("Gather", node.input, _members(node.rows), axis=2)
        x = self.add("ReduceMax", x, _int64(3), keepdims=0)
        x = self.add("Gather", x, _members(node.columns), axis=3)
        return self.add("ReduceMax", x, _int64(4), keepdims=0)

    def product(self, node: Mul) -> str:
        factors = [
            self.add("Sub", self.wide(name), _int64(self.graph.tensor(name).zero_point))
            for name in (node.input, node.factor)
        ]
        t = self.add("Add", self.add("Mul", *factors), _int64(node.bias))
        return self.codes(self.shifted(t, _int64(node.shift), node.low, node.high), node.table)

    # Codes in another order.

    def gather(self, node: Gather) -> str:
        x = node.input if len(node.inputs) == 1 else self.add("Concat", *node.inputs, axis=1)
        if node.stride != (1, 1):
            height, width = self.graph.tensor(node.input).shape[1:]
            ends, axes = _int64(height, width), _int64(2, 3)
            x = self.add("Slice", x, _int64(0, 0), ends, axes, _int64(*node.stride))
        channels = sum(self.graph.tensor(name).shape[0] for name in node.inputs)
        picks = [channels if pick < 0 else pick for pick in node.picks]
        if channels in picks:  # one more, of zeros
            zero = np.array(self.graph.tensor(node.output).zero_point, np.uint8)
            x = self.add("Pad", x, _int64(0, 0, 0, 0, 0, 1, 0, 0), zero)
        return (
            x if picks == list(range(channels)) else self.add("Gather", x, _int64(*picks), axis=1)
        )

    def depth_to_space(self, node: DepthToSpace) -> str:
        (channels, height, width), (down, across) = self.graph.tensor(node.input).shape, node.block
        depth = channels // (down * across)
        x = self.add("Reshape", node.input, _int64(0, down, across, depth, height, width))
        x = self.add("Transpose", x, perm=(0, 3, 4, 1, 5, 2))
        x = self.add("Reshape", x, _int64(0, depth, height * down, width * across))
        if node.crop == (0, 0):
            return x
        ends = _int64(*self.graph.tensor(node.output).shape[1:])
        return self.add("Slice", x, _int64(0, 0), ends, _int64(2, 3))

    def upsample(self, node: Upsample) -> str:
        scales = np.array((1, 1, *node.block), np.float32)
        x = self.add(
            "Resize",
            node.input,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        if node.border == (0, 0):
            return x
        return self.add("Pad", x, _int64(0, 0, *node.border, 0, 0, *node.border), mode="edge")


def _border(codes: tuple[int, ...]) -> np.ndarray:
    return np.array(codes, np.int32)[:, None, None]


def _members(windows: tuple[Window, ...]) -> np.ndarray:
    """Numbers of the rows or columns of each window, int64 (windows, longest)."""
    longest = max(window.size for window in windows)
    return np.array(
        [[min(w.first + i, w.last - 1) for i in range(longest)] for w in windows], np.int64
    )
