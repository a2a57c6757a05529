# SPDX-License-Identifier: Apache-2.0
"""Conversions of operators that put channels and pixels in other places, or repeat them."""

import operator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.onnx.modules import Call, Channels, Expand, Reshape
from quant.onnx.nodes import Converted, Operator


def new_shape(op: Operator) -> Converted:
    """Every change of the shape; what it becomes is known."""
    before, after = op.shape(), op.result()
    if before[0] != after[0]:
        raise ValueError(f"it makes {after} of {before}, across images")
    return Reshape(after[1:]), op.inputs[:1]


def transpose(op: Operator) -> Converted:
    order = op.get("perm", list(reversed(range(len(op.shape())))))
    if order[0] != 0:
        raise ValueError("it moves the batch")
    return Call(torch.permute, tuple(order)), op.inputs[:1]


def concat(op: Operator) -> Converted:
    if known := [name for name in op.inputs if name in op.constants]:
        raise ValueError(f"one of its parts, {known[0]!r}, is a constant")
    axis = op.axis(1)
    if axis == 0:
        raise ValueError("it joins batches")
    return Call(_cat, axis), op.inputs


def _cat(*arguments: Any) -> Tensor:
    *tensors, axis = arguments
    return torch.cat(cast(list[Tensor], tensors), axis)


def split(op: Operator) -> Converted:
    axis = op.axis(0)
    sizes = [op.shapes[name][axis] for name in op.outputs]
    return Call(torch.split, sizes, axis), op.inputs[:1]


def cut(op: Operator) -> Converted:
    rank = len(op.shape())
    starts, ends = op.numbers(1, "starts") or [], op.numbers(2, "ends") or []
    axes = op.numbers(3, "axes") or list(range(len(starts)))
    steps = op.numbers(4) or [1] * len(starts)
    index = [slice(None)] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            raise ValueError("it goes backwards")
        size = op.shape()[axis % rank]
        index[axis % rank] = slice(*slice(start, end, step).indices(size))
    if index[0] not in (slice(None), slice(0, op.shape()[0], 1)):
        raise ValueError("it cuts the batch")
    return Call(operator.getitem, (slice(None), *index[1:])), op.inputs[:1]


def gather(op: Operator) -> Converted:
    axis, numbers = op.axis(0), np.array(op.constant(1))
    if axis == 0 or numbers.ndim > 1:
        raise ValueError("it chooses more than channels or pixels")
    numbers = numbers % op.shape()[axis]
    if numbers.ndim == 0:
        return Call(torch.select, axis, int(numbers)), op.inputs[:1]
    return Channels(numbers.tolist(), axis), op.inputs[:1]


def pad(op: Operator) -> Converted:
    if op.get("mode", "constant") != "constant":
        raise ValueError(f"it pads by {op.get('mode')}")
    rank = len(op.shape())
    pads, axes = op.numbers(1, "pads") or [], op.numbers(3) or list(range(rank))
    value = float(np.ravel(op.constant(2, "value", 0.0))[0])
    sides = {a % rank: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    if any(sides.get(0, (0, 0))):
        raise ValueError("it pads the batch")
    last = rank - min((a for a, pair in sides.items() if any(pair)), default=rank)
    flat = [n for a in range(rank - 1, rank - 1 - last, -1) for n in sides.get(a, (0, 0))]
    return Call(F.pad, flat, value=value), op.inputs[:1]


def expand(op: Operator) -> Converted:
    before, after = op.shape(), op.result()
    if len(before) != len(after) or before[0] != after[0]:
        raise ValueError(f"it makes {after} of {before}")
    return Expand(after[1:]), op.inputs[:1]


def resize(op: Operator) -> Converted:
    before, after = op.shape()[2:], op.result()[2:]
    mode = op.get("mode", "nearest")
    default = "half_pixel" if op.kind == "Resize" else "asymmetric"
    place = op.get("coordinate_transformation_mode", default)
    scales = [new / old for new, old in zip(after, before, strict=True)]
    if mode == "nearest":
        rounding = op.get("nearest_mode", "round_prefer_floor" if op.kind == "Resize" else "floor")
        for old, new in zip(before, after, strict=True):
            if new % old or _places(old, new, place, rounding) != [
                i // (new // old) for i in range(new)
            ]:
                raise ValueError(f"{old} to {new} pixels by {place}, {rounding} is no repetition")
        return nn.Upsample(scale_factor=tuple(scales), mode="nearest"), op.inputs[:1]
    if mode == "linear" and place in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        corners = place == "align_corners"
        kind = "bilinear" if len(before) == 2 else "linear"
        return nn.Upsample(tuple(after), mode=kind, align_corners=corners), op.inputs[:1]
    raise ValueError(f"mode {mode} by {place} is none of PyTorch's")


def _places(old: int, new: int, place: str, rounding: str) -> list[int]:
    """Pixels that a nearest resize from ``old`` to ``new`` pixels takes; none where unknown."""
    scale, numbers = new / old, np.arange(new)
    coordinates = {
        "asymmetric": numbers / scale,
        "half_pixel": (numbers + 0.5) / scale - 0.5,
        "pytorch_half_pixel": (numbers + 0.5) / scale - 0.5 if new > 1 else numbers * 0.0,
    }
    rounded = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    }
    if place not in coordinates or rounding not in rounded:
        return []
    return np.clip(rounded[rounding](coordinates[place]), 0, old - 1).astype(int).tolist()


def depth_to_space(op: Operator) -> Converted:
    block, channels = op.get("blocksize"), op.shape()[1]
    shuffle = nn.PixelShuffle(block)
    if op.get("mode", "DCR") == "CRD":
        return shuffle, op.inputs[:1]
    order = np.arange(channels).reshape(block * block, -1).T.ravel()
    return nn.Sequential(Channels(order.tolist()), shuffle), op.inputs[:1]


def space_to_depth(op: Operator) -> Converted:
    block, channels = op.get("blocksize"), op.shape()[1]
    order = np.arange(channels * block * block).reshape(channels, -1).T.ravel()
    return nn.Sequential(nn.PixelUnshuffle(block), Channels(order.tolist())), op.inputs[:1]
