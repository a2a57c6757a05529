# SPDX-License-Identifier: Apache-2.0
"""Float ONNX models as modules of torch, to quantise and to train.

Shapes of all values are inferred first, so that operators which compute shapes are not needed, and
what depends on constants alone is computed. Each operator that is left becomes a module
(:mod:`quant.onnx.conversions`) under the name that PyTorch's exporter made the node's of.
"""

import operator
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google.protobuf.message
import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from torch import Tensor, fx, nn

from ir.cli import did_you_mean
from quant.onnx.conversions import CONVERSIONS
from quant.onnx.nodes import Operator

BATCH = 9973  #: size of a batch that the file leaves open, while shapes are inferred
ROUNDS = 4  #: of inferring shapes and computing constants
MAX_FOLDED = 1 << 24  #: most values of a constant that is computed
#: Operators without effect on floats.
IDENTITIES = ("Identity", "Cast")
#: What onnx raises for a file that is none of its own, or that contradicts itself.
UNREADABLE = (
    google.protobuf.message.DecodeError,
    onnx.checker.ValidationError,
    shape_inference.InferenceError,
    OSError,
    ValueError,
    RuntimeError,
)


def from_onnx(path: Path | str, *, shape: Sequence[int] | None = None) -> fx.GraphModule:
    """Module that computes what the ONNX model in a file does, with its weights as parameters.

    Parameters
    ----------
    path : the file
    shape : (C, H, W) of the images; needed where the file leaves sizes open

    The result takes float images (N, C, H, W) and gives a tensor, or a dict by the names of the
    outputs. It is in evaluation mode. Raises ValueError, one line with the file and the node, for
    what is no ONNX model, for operators that :data:`~quant.onnx.conversions.CONVERSIONS` does not
    have and for sizes that are open.
    """
    model = load_model(Path(path))
    try:
        return Reader(with_sizes(model, shape)).run().eval()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def network(source: Path | str, shape: tuple[int, ...], classes: int) -> fx.GraphModule:
    """Classifier in an ONNX file, for images of ``shape`` (C, H, W).

    Raises ValueError as :func:`from_onnx` does, and for one of another number of classes.
    """
    model = from_onnx(source, shape=shape)
    with torch.no_grad():
        logits = model(torch.zeros(2, *shape))
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        found = logits.shape[1:] if isinstance(logits, Tensor) else (f"{len(logits)} tensors",)
        raise ValueError(
            f"{source} gives {' x '.join(map(str, found))} for an image, and not {classes} logits"
        )
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def load_model(path: Path) -> onnx.ModelProto:
    """Model in a file, without local functions; raises ValueError where there is none."""
    try:
        return _load(path)
    except UNREADABLE as error:
        if not path.is_file():
            raise ValueError(f"no ONNX model at {path}") from error
        raise ValueError(
            f"{path} is no ONNX model that can be read: {_first_line(error)}"
        ) from error


def _load(path: Path) -> onnx.ModelProto:
    model = onnx.load(path)
    if not model.graph.node:
        raise ValueError("it has no operators")
    onnx.checker.check_model(model)
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def with_sizes(model: onnx.ModelProto, shape: Sequence[int] | None) -> onnx.ModelProto:
    """``model`` with all sizes of its input; open ones are those of ``shape``."""
    known = {constant.name for constant in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise ValueError(f"it has {len(inputs)} inputs ({names}), and the accelerator one image")
    (given,) = inputs
    kind = given.type.tensor_type.elem_type
    if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE):
        name = onnx.TensorProto.DataType.Name(kind).lower()
        raise ValueError(f"its input {given.name!r} is {name}, not float")
    sizes = given.type.tensor_type.shape.dim
    wanted = [BATCH, *(shape or [0] * (len(sizes) - 1))]
    found = [dim.dim_value for dim in sizes]
    agrees = len(found) == len(wanted) and all(
        size in (0, asked) or not asked for size, asked in zip(found[1:], wanted[1:], strict=False)
    )
    if not agrees:
        raise ValueError(f"it takes images of {_shape_text(found[1:])}, not {_shape_text(shape)}")
    for dim, size in zip(sizes, wanted, strict=True):
        if not dim.dim_value:
            if not size:
                raise ValueError(
                    f"its input {given.name!r} has the free size {dim.dim_param or '?'!r}: name "
                    "the shape of the images"
                )
            dim.dim_value = size
    return model


def _shape_text(sizes: Sequence[int] | None) -> str:
    return "x".join(str(size or "?") for size in sizes or ())


class Reader:
    """Conversion of one model, operator after operator.

    ``values`` has the node of each value by its name, the input first, and ``weights`` the name of
    each layer's weights by its path.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.model, self.shapes = model, _shapes(model, self.constants)
        for _ in range(ROUNDS):
            if not self._compute_constants():
                break
        self.module = fx.GraphModule(nn.Module(), fx.Graph())
        self.values: dict[str, fx.Node] = {}
        self.weights: dict[str, str] = {}
        self.layers: dict[object, str] = {}  # paths of modules by what they are made of

    def _compute_constants(self) -> bool:
        """Values that follow from constants and shapes; whether there were any."""
        before = len(self.constants)
        for node in self.model.graph.node:
            if node.output[0] in self.constants:
                continue
            if node.op_type == "Shape" and node.input[0] in self.shapes:
                self.constants |= self._evaluated(node, np.empty(self.shapes[node.input[0]], bool))
            elif all(name in self.constants for name in node.input if name):
                self.constants |= self._evaluated(node)
        if len(self.constants) == before:
            return False
        self.shapes = _shapes(self.model, self.constants)
        return True

    def _evaluated(self, node: onnx.NodeProto, *given: np.ndarray) -> dict[str, np.ndarray]:
        """Results of an operator on constants, or on what is ``given``."""
        names = [name for name in node.input if name]
        values = dict(zip(names, given or [self.constants[n] for n in names], strict=True))
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in values.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        model = helper.make_model(
            helper.make_graph([node], "constant", inputs, outputs),
            opset_imports=self.model.opset_import,
        )
        try:
            results = ReferenceEvaluator(model).run(None, values)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError):
            return {}  # told when something reads it
        return {
            name: np.asarray(result)
            for name, result in zip(node.output, results, strict=True)
            if np.size(result) <= MAX_FOLDED
        }

    def run(self) -> fx.GraphModule:
        """Module of all operators that the outputs need; raises ValueError."""
        graph = self.module.graph
        (given,) = (v for v in self.model.graph.input if v.name not in self.constants)
        self.values[given.name] = graph.placeholder(_identifier(given.name))
        needed = self._needed()
        for number, node in enumerate(self.model.graph.node):
            if not needed.intersection(node.output):
                continue
            if node.op_type in IDENTITIES:
                self.values[node.output[0]] = self._value(node.input[0])
                continue
            self._convert(node, number)
        results = {value.name: self._value(value.name) for value in self.model.graph.output}
        graph.output(results if len(results) > 1 else next(iter(results.values())))
        graph.lint()
        self.module.recompile()
        return self.module

    def _needed(self) -> set[str]:
        """Values that the outputs are computed of, constants apart."""
        needed = {value.name for value in self.model.graph.output}
        for node in reversed(self.model.graph.node):
            if needed.intersection(node.output) and node.op_type != "Shape":
                needed |= set(node.input[: 1 if node.op_type in _OF_FIRST else None])
        return needed - set(self.constants)

    def _convert(self, node: onnx.NodeProto, number: int) -> None:
        path = _path(node, number)
        convert = CONVERSIONS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        what = f"node {node.name or path!r}, operator {node.op_type}"
        if convert is None:
            like = did_you_mean(node.op_type, CONVERSIONS)
            raise ValueError(f"{what}: it is not one of those that can be read{like}")
        op = Operator(
            node.op_type,
            node.name,
            list(node.input),
            list(node.output),
            attributes={a.name: _attribute(a) for a in node.attribute},
            constants=self.constants,
            shapes=self.shapes,
            opset=self.opset,
        )
        try:
            module, names = convert(op)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
        key = self._weights_of(op)
        if key is None or key not in self.layers:
            path = self._add(path, module)
            self.layers[key or path] = path
        path = self.layers[key or path]
        if key is not None:
            self.weights[path] = op.inputs[1]
        result = self.module.graph.call_module(path, tuple(self._value(name) for name in names))
        if len(node.output) == 1 or node.op_type != "Split":
            self.values[node.output[0]] = result
            return
        for index, name in enumerate(node.output):
            self.values[name] = self.module.graph.call_function(operator.getitem, (result, index))

    def _weights_of(self, op: Operator) -> object:
        """Of a layer what its module is made of, so that two with the same weights share one."""
        if op.kind not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"):
            return None
        return op.kind, tuple(op.inputs[1:]), repr(sorted(op.attributes.items()))

    def _add(self, path: str, module: nn.Module) -> str:
        """Path of ``module``, which is ``path`` where that is free."""
        taken, free, count = {n for n, _ in self.module.named_modules()}, path, 1
        while free in taken:
            free, count = f"{path}_{count}", count + 1
        self.module.add_submodule(free, module)
        return free

    def _value(self, name: str) -> fx.Node:
        if name not in self.values:
            raise ValueError(f"{name!r} is a constant, or not computed by any node")
        return self.values[name]


#: Operators of whose inputs all but the first are constants or shapes.
_OF_FIRST = (
    "Reshape",
    "Resize",
    "Upsample",
    "Expand",
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Pad",
    "Clip",
)


def _shapes(model: onnx.ModelProto, constants: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Shapes of all values that are known, with ``constants`` in place of what computes them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    computed = {name for node in model.graph.node for name in node.output} & set(constants)
    nodes = [node for node in model.graph.node if node.output[0] not in computed]
    del copy.graph.node[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(
        numpy_helper.from_array(constants[name], name) for name in computed
    )
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = shape_inference.infer_shapes(copy, data_prop=True, strict_mode=True).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.HasField("shape") and all(sizes):
            found[value.name] = tuple(sizes)
    return found | {name: value.shape for name, value in constants.items()}


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def _path(node: onnx.NodeProto, number: int) -> str:
    """Path of a module: that of its weights in PyTorch, or what the node's name says."""
    owners = {name.rpartition(".")[0] for name in node.input if name.endswith(".weight")}
    if len(owners) == 1:
        return _dotted(owners.pop().split("."))
    if not node.name:
        return f"{node.op_type.lower()}_{number}"
    parts: list[str] = []
    for part in node.name.strip("/").split("/"):
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()  # PyTorch names a list, and then a member with the list's name before it
        parts.append(part)
    if len(parts) > 1 and re.fullmatch(rf"{node.op_type}(_\d+)?", parts[-1]):
        parts.pop()
    return _dotted(".".join(parts).split("."))


def _dotted(parts: Sequence[str]) -> str:
    """Path of ``parts``, each a name that a module may have."""
    names = [_identifier(part) if not part.isdecimal() else part for part in parts if part]
    return ".".join(f"{n}_" if hasattr(fx.GraphModule, n) else n for n in names)


def _identifier(name: str) -> str:
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name[:1].isdigit() else name
