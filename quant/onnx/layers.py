# SPDX-License-Identifier: Apache-2.0
"""Conversions of layers with weights, of batch-norm and of pools."""

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from quant.onnx.modules import Call
from quant.onnx.nodes import Conversion, Converted, Operator, of_rank, own


def _pads(op: Operator, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and behind, of each side."""
    count = len(kernel)
    auto = op.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        strides, dilations = op.get("strides", [1] * count), op.get("dilations", [1] * count)
        sides = zip(op.shape()[2:], op.result()[2:], kernel, strides, dilations, strict=True)
        whole = [max(0, (n - 1) * s + (k - 1) * d + 1 - size) for size, n, k, s, d in sides]
        less, more = [n // 2 for n in whole], [n - n // 2 for n in whole]
        return (less, more) if auto == "SAME_UPPER" else (more, less)
    pads = op.get("pads", [0] * 2 * count)
    return list(pads[:count]), list(pads[count:])


def _padded(module: nn.Module, before: list[int], behind: list[int], value: float) -> nn.Module:
    """``module`` behind a padding, whose sides differ."""
    if before == behind:
        return module
    sides = [n for pair in zip(before[::-1], behind[::-1], strict=True) for n in pair]
    return nn.Sequential(Call(F.pad, sides, value=value), module)


def conv(op: Operator) -> Converted:
    weight, bias = op.tensor(1), op.tensor(2) if op.has(2) else None
    kernel, groups = list(weight.shape[2:]), op.get("group", 1)
    before, behind = _pads(op, kernel)
    layer = of_rank("Conv", weight.dim())(
        weight.shape[1] * groups,
        weight.shape[0],
        kernel,
        op.get("strides", 1),
        before if before == behind else 0,
        op.get("dilations", 1),
        groups=groups,
        bias=bias is not None,
    )
    own(layer, weight=weight, **({} if bias is None else {"bias": bias}))
    return _padded(layer, before, behind, 0.0), op.inputs[:1]


def conv_transpose(op: Operator) -> Converted:
    weight, bias = op.tensor(1), op.tensor(2) if op.has(2) else None
    kernel, groups = list(weight.shape[2:]), op.get("group", 1)
    before, behind = _pads(op, kernel)
    if (
        before != behind
        or op.get("auto_pad", "NOTSET") != "NOTSET"
        or "output_shape" in op.attributes
    ):
        raise ValueError("its padding differs from side to side")
    layer = of_rank("ConvTranspose", weight.dim())(
        weight.shape[0],
        weight.shape[1] * groups,
        kernel,
        op.get("strides", 1),
        before,
        op.get("output_padding", 0),
        groups=groups,
        bias=bias is not None,
        dilation=op.get("dilations", 1),
    )
    return own(layer, weight=weight, **({} if bias is None else {"bias": bias})), op.inputs[:1]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return own(linear, weight=weight, **({} if bias is None else {"bias": bias}))


def gemm(op: Operator) -> Converted:
    weight = op.tensor(1)
    if op.get("transA", 0) or weight.dim() != 2:
        raise ValueError("its first operand is transposed")
    weight = (weight if op.get("transB", 0) else weight.T) * op.get("alpha", 1.0)
    bias = None
    if op.has(2):
        bias = (op.tensor(2) * op.get("beta", 1.0)).broadcast_to(1, len(weight))[0]
    return _linear(weight, bias), op.inputs[:1]


def matmul(op: Operator) -> Converted:
    if op.inputs[1] not in op.constants or len(op.shape(1)) != 2:
        raise ValueError("it multiplies two computed matrices")
    return _linear(op.tensor(1).T, None), op.inputs[:1]


def batch_norm(op: Operator) -> Converted:
    weight, bias, mean, variance = (op.tensor(i) for i in range(1, 5))
    rank = len(op.shape())
    norm = nn.BatchNorm1d if rank == 2 else of_rank("BatchNorm", rank)
    module = norm(len(weight), eps=op.get("epsilon", 1e-5), momentum=1 - op.get("momentum", 0.9))
    own(module, weight=weight, bias=bias, running_mean=mean, running_var=variance)
    return module, op.inputs[:1]


# Pools.


def max_pool(op: Operator) -> Converted:
    kernel = op.get("kernel_shape")
    before, behind = _pads(op, kernel)
    pool = of_rank("MaxPool", len(op.shape()))(
        kernel,
        op.get("strides", 1),
        before if before == behind else 0,
        op.get("dilations", 1),
        ceil_mode=bool(op.get("ceil_mode", 0)),
    )
    return _padded(pool, before, behind, -math.inf), op.inputs[:1]


def average_pool(op: Operator) -> Converted:
    kernel, counts = op.get("kernel_shape"), bool(op.get("count_include_pad", 0))
    before, behind = _pads(op, kernel)
    if before != behind and not counts:
        raise ValueError("its padding differs from side to side, and is not counted")
    if any(n != 1 for n in op.get("dilations", [1])):
        raise ValueError("its window has holes")
    pool = of_rank("AvgPool", len(op.shape()))(
        kernel,
        op.get("strides", 1),
        before if before == behind else 0,
        bool(op.get("ceil_mode", 0)),
        counts,
    )
    return _padded(pool, before, behind, 0.0), op.inputs[:1]


def reduction(function: Callable[..., Tensor]) -> Conversion:
    def convert(op: Operator) -> Converted:
        rank = len(op.shape())
        axes = sorted(a % rank for a in op.numbers(1, "axes") or range(rank))
        if 0 in axes:
            raise ValueError("it reduces over the batch")
        call = Call(function, dim=tuple(axes), keepdim=bool(op.get("keepdims", 1)))
        return call, op.inputs[:1]

    return convert
