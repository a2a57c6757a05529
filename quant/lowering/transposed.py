# SPDX-License-Identifier: Apache-2.0
"""Transposed convolutions: trained as convolutions of zeros between pixels, computed in phases.

Each output pixel of a phase, its place modulo the stride, meets the same taps of the kernel; the
phases are rows of one convolution of stride 1 over the input itself.
"""

import dataclasses

import torch
from torch import Tensor, fx, nn

from quant.capture.nodes import argument, free_submodule, is_affine, module_of, name_of, shape_of
from quant.capture.nodes import replace_submodule as replace
from quant.nn.blocks import Spread
from quant.nn.layers import QuantConv2d


class SpreadConv2d(QuantConv2d):
    """Convolution behind a :class:`~quant.nn.blocks.Spread`, of a transposed one's weights.

    ``weight`` is (O, C / groups, ky, kx), flipped; that of a float checkpoint is turned when it is
    loaded.
    """

    spread: tuple[tuple[int, int], tuple[int, int]]  #: stride, and zeros at the end, of its input

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **options) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and f"{prefix}alpha" not in state_dict:
            state_dict[f"{prefix}weight"] = by_rows(weight, self.groups)
        super()._load_from_state_dict(state_dict, prefix, *args, **options)


def by_rows(weight: Tensor, groups: int) -> Tensor:
    """Weights (O, C / groups, ky, kx) of a convolution of ``weight`` (C, O / groups, ky, kx)."""
    grouped = weight.unflatten(0, (groups, -1)).transpose(1, 2)
    return grouped.flatten(0, 1).flip(2, 3)


def lower_transposed(
    module: fx.GraphModule, node: fx.Node, layer: nn.ConvTranspose2d, memo: dict
) -> SpreadConv2d:
    """Replacement of the transposed convolution ``layer`` of ``node``.

    Raises ValueError for one whose padding exceeds its kernel.
    """
    stride, kernel, padding, dilation, more = (
        (int(value[0]), int(value[1]))
        for value in (
            layer.stride,
            layer.kernel_size,
            layer.padding,
            layer.dilation,
            layer.output_padding,
        )
    )
    before = [dilation[i] * (kernel[i] - 1) - padding[i] for i in (0, 1)]
    if min(before) < 0:
        raise ValueError("its padding must be less than its kernel")
    conv = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        kernel,
        padding=(before[0], before[1]),
        dilation=dilation,
        groups=layer.groups,
        bias=layer.bias is not None,
        device="meta",
    )
    weight = by_rows(layer.weight.detach(), layer.groups).contiguous()
    conv.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    conv.bias = layer.bias
    memo.setdefault("transposed", []).append(conv)  # alive, as its id is in the memo
    quantised = SpreadConv2d.from_float(conv, memo)
    quantised.spread = stride, more
    replace(module, name_of(node), quantised)
    return quantised


def insert_spread(module: fx.GraphModule, node: fx.Node, layer: SpreadConv2d) -> None:
    """Zeros between the pixels that ``node``, a call of ``layer``, reads."""
    stride, more = layer.spread
    name = free_submodule(module, f"{name_of(node)}_spread")
    module.add_submodule(name, Spread(stride, more))
    source = argument(node)
    channels, height, width = shape_of(source)
    with module.graph.inserting_before(node):
        spread = module.graph.call_module(name, (source,))
    sizes = [(n - 1) * stride[i] + 1 + more[i] for i, n in enumerate((height, width))]
    spread.meta |= source.meta | {"shape": (source.meta["shape"][0], channels, *sizes)}
    node.replace_input_with(source, spread)


def in_phases(node: fx.Node) -> bool:
    """True for a sum of a transposed convolution.

    Its pixels come in another order, so that it takes no residual operand, and leaves as codes.
    """
    while isinstance(module_of(node), nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout) or is_affine(
        node
    ):
        node = argument(node)
    return isinstance(module_of(node), SpreadConv2d)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phases:
    """Convolution of stride 1 whose rows are the phases (dy, dx) of a transposed one.

    Parameters
    ----------
    values : int64 (dy * dx * O, C / groups, ky, kx), the rows of each group together
    rows : of each row the row of the transposed one
    order : number of the row of each (dy, dx, o)
    padding : top, bottom, left, right
    crop : rows and columns of the output that are too much
    """

    values: Tensor
    rows: list[int]
    order: list[int]
    padding: tuple[int, int, int, int]
    crop: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Taps of each phase along an axis: pairs of one of the layer's, and one of the phase's."""

    taps: list[list[tuple[int, int]]]
    size: int
    _: dataclasses.KW_ONLY
    before: int
    after: int
    crop: int


def _axis(size: int, out: int, kernel: int, stride: int, dilation: int, padding: int) -> _Axis:
    found = [
        [
            (tap, (phase - padding + tap * dilation) // stride)
            for tap in range(kernel)
            if (phase - padding + tap * dilation) % stride == 0
        ]
        for phase in range(stride)
    ]
    places = [place for taps in found for _, place in taps]
    before = max(0, -min(places))
    count = -(-out // stride)
    after = max(0, count - 1 + max(places) + 1 - size)
    length = size + before + after - count + 1
    shifted = [[(tap, place + before) for tap, place in taps] for taps in found]
    return _Axis(shifted, length, before=before, after=after, crop=count * stride - out)


def phases(values: Tensor, layer: SpreadConv2d, spread: Spread, source: tuple[int, int]) -> Phases:
    """Phases of ``layer``, with its ``values`` (O, C / groups, ky, kx), of an input of ``source``
    rows and columns."""
    assert not isinstance(layer.padding, str)
    axes = []
    for i in (0, 1):
        grown = (source[i] - 1) * spread.stride[i] + 1 + spread.more[i]
        reach = layer.dilation[i] * (layer.kernel_size[i] - 1)
        out = grown + 2 * int(layer.padding[i]) - reach
        axes.append(
            _axis(
                source[i],
                out,
                layer.kernel_size[i],
                spread.stride[i],
                layer.dilation[i],
                int(layer.padding[i]),
            )
        )
    y, x = axes
    count, per_row = values.shape[:2]
    blocks = values.new_zeros((len(y.taps), len(x.taps), count, per_row, y.size, x.size))
    for dy, rows in enumerate(y.taps):
        for dx, columns in enumerate(x.taps):
            for tap_y, at_y in rows:
                for tap_x, at_x in columns:
                    blocks[dy, dx, :, :, at_y, at_x] = values[:, :, tap_y, tap_x]
    number = torch.arange(blocks.shape[0] * blocks.shape[1] * count)
    grouped = number.view(-1, layer.groups, count // layer.groups).transpose(0, 1).flatten()
    return Phases(
        values=blocks.flatten(0, 2)[grouped],
        rows=(grouped % count).tolist(),
        order=grouped.argsort().tolist(),
        padding=(y.before, y.after, x.before, x.after),
        crop=(y.crop, x.crop),
    )
