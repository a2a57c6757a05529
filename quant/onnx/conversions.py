# SPDX-License-Identifier: Apache-2.0
"""ONNX operators as modules of torch: those of elements are here, and the table of all.

A conversion gets an :class:`~quant.onnx.nodes.Operator` and gives the module and the names of the
values that it is called with. It raises ValueError with the reason why there is no such module.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from quant.onnx import layers, views
from quant.onnx.modules import Call, Constant, HardSigmoid
from quant.onnx.nodes import Conversion, Converted, Operator, of_rank, own, unary

NO_LIMIT = 3.4e38  #: a clip beyond it is none


def _binary(function: Callable[..., Tensor]) -> Conversion:
    def convert(op: Operator) -> Converted:
        for index in (0, 1):
            if op.inputs[index] in op.constants:
                value = op.tensor(index)
                if value.dim() == len(op.result()) and value.shape[0] != 1:
                    raise ValueError("it has a constant for each image of a batch")
                if value.numel() == 1 and len(op.result()) == len(op.shape(1 - index)):
                    value = value.reshape(())
                constant = Constant(function, value, first=index == 0)
                return constant, [op.inputs[1 - index]]
        return Call(function), op.inputs[:2]

    return convert


def _of_several(function: Callable[..., Tensor]) -> Conversion:
    def convert(op: Operator) -> Converted:
        if len(op.inputs) != 2:
            raise ValueError(f"it has {len(op.inputs)} operands, not 2")
        return _binary(function)(op)

    return convert


def _clip(op: Operator) -> Converted:
    low, high = (op.constant(i, name) for i, name in ((1, "min"), (2, "max")))
    limits = [None if x is None or abs(float(x)) > NO_LIMIT else float(x) for x in (low, high)]
    if limits == [0, None]:
        return nn.ReLU(), op.inputs[:1]
    if limits == [0, 6]:
        return nn.ReLU6(), op.inputs[:1]
    if limits == [None, None]:
        return nn.Identity(), op.inputs[:1]
    return Call(torch.clamp, *limits), op.inputs[:1]


def _prelu(op: Operator) -> Converted:
    slope = op.tensor(1).squeeze()
    if slope.dim() > 1:
        raise ValueError("it has a slope for each pixel")
    return own(nn.PReLU(slope.numel()), weight=slope.reshape(-1)), op.inputs[:1]


def _hard_sigmoid(op: Operator) -> nn.Module:
    slope, offset = op.get("alpha", 0.2), op.get("beta", 0.5)
    if math.isclose(slope, 1 / 6, rel_tol=1e-6) and offset == 0.5:
        return nn.Hardsigmoid()
    return HardSigmoid(slope, offset)


def _dropout(op: Operator) -> nn.Module:
    return nn.Dropout(float(op.constant(1, "ratio", 0.5)))


def _softmax(make: Callable[[int], nn.Module]) -> Conversion:
    def convert(op: Operator) -> Converted:
        old = op.opset < 13  # of all values from the axis on
        axis = op.axis(1 if old else -1)
        if old and math.prod(op.shape()[axis + 1 :]) != 1:
            raise ValueError("it is one of several dimensions, as before opset 13")
        return make(axis), op.inputs[:1]

    return convert


def _argmax(op: Operator) -> nn.Module:
    return Call(torch.argmax, op.axis(0), keepdim=bool(op.get("keepdims", 1)))


#: By operator.
CONVERSIONS: dict[str, Conversion] = {
    "Add": _binary(torch.add),
    "ArgMax": unary(_argmax),
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Clip": _clip,
    "Concat": views.concat,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "DepthToSpace": views.depth_to_space,
    "Div": _binary(torch.div),
    "Dropout": unary(_dropout),
    "Elu": unary(lambda op: nn.ELU(op.get("alpha", 1.0))),
    "Erf": unary(lambda op: Call(torch.erf)),
    "Exp": unary(lambda op: Call(torch.exp)),
    "Expand": views.expand,
    "Flatten": views.new_shape,
    "Gather": views.gather,
    "Gelu": unary(lambda op: nn.GELU(op.get("approximate", "none"))),
    "Gemm": layers.gemm,
    "GlobalAveragePool": unary(lambda op: of_rank("AdaptiveAvgPool", len(op.shape()))(1)),
    "GlobalMaxPool": unary(lambda op: of_rank("AdaptiveMaxPool", len(op.shape()))(1)),
    "HardSigmoid": unary(_hard_sigmoid),
    "HardSwish": unary(lambda op: nn.Hardswish()),
    "Identity": unary(lambda op: nn.Identity()),
    "LeakyRelu": unary(lambda op: nn.LeakyReLU(op.get("alpha", 0.01))),
    "LogSoftmax": _softmax(nn.LogSoftmax),
    "MatMul": layers.matmul,
    "Max": _of_several(torch.maximum),
    "MaxPool": layers.max_pool,
    "Min": _of_several(torch.minimum),
    "Mish": unary(lambda op: nn.Mish()),
    "Mul": _binary(torch.mul),
    "Neg": unary(lambda op: Call(torch.neg)),
    "PRelu": _prelu,
    "Pad": views.pad,
    "ReduceMax": layers.reduction(torch.amax),
    "ReduceMean": layers.reduction(torch.mean),
    "Relu": unary(lambda op: nn.ReLU()),
    "Reshape": views.new_shape,
    "Resize": views.resize,
    "Sigmoid": unary(lambda op: nn.Sigmoid()),
    "Slice": views.cut,
    "Softmax": _softmax(nn.Softmax),
    "Softplus": unary(lambda op: nn.Softplus()),
    "SpaceToDepth": views.space_to_depth,
    "Split": views.split,
    "Squeeze": views.new_shape,
    "Sub": _binary(torch.sub),
    "Sum": _of_several(torch.add),
    "Tanh": unary(lambda op: nn.Tanh()),
    "Transpose": views.transpose,
    "Unsqueeze": views.new_shape,
    "Upsample": views.resize,
}
