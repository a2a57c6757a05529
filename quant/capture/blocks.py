# SPDX-License-Identifier: Apache-2.0
"""Rewrites of what makes maps larger, or smaller, without a weight of the user's."""

from collections.abc import Callable

import torch
from torch import fx

from quant.capture.gathers import gather, shape
from quant.capture.nodes import argument, bound, path_of
from quant.capture.writer import GraphWriter
from quant.nn.blocks import DepthToSpace, Repeat
from quant.nn.fixed import FixedConv2d


def _factors(node: fx.Node) -> tuple[int, int]:
    """How many pixels each becomes, down and across; ValueError where it is no whole number."""
    before, after = shape(argument(node))[1:], shape(node)[1:]
    if any(new % old for old, new in zip(before, after, strict=True)):
        raise ValueError(
            f"it makes {after} pixels of {before}; each side must grow by a whole number of times"
        )
    return after[0] // before[0], after[1] // before[1]


def _nearest(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Stores and loads that write each pixel several times. Cost: a way through memory."""
    before, after = shape(argument(node)), shape(node)
    if any(old % new == 0 and old > new for old, new in zip(before[1:], after[1:], strict=True)):
        stride = before[1] // after[1], before[2] // after[2]
        if min(stride) and all(after[i + 1] * stride[i] == before[i + 1] for i in (0, 1)):
            return gather(w, node, [argument(node)], range(before[0]), stride)
    return w.module_call(node, Repeat(_factors(node)), w.nodes[argument(node)])


def _nearest_exact(w: GraphWriter, node: fx.Node) -> fx.Node:
    """As the nearest pixel, of larger maps only. Cost: a way through memory."""
    return w.module_call(node, Repeat(_factors(node)), w.nodes[argument(node)])


def _pixel_shuffle(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Channels in order of their phases, which come back as pixels. Cost: a copy, and a way through
    memory.
    """
    side, channels = bound(node)["upscale_factor"], shape(argument(node))[0]
    phases = torch.arange(channels).view(-1, side * side).t().flatten().tolist()
    source = gather(w, node, [argument(node)], phases)
    source.meta.setdefault("shape", argument(node).meta["val"].shape)
    source.meta.setdefault("path", path_of(node))
    return w.module_call(node, DepthToSpace((side, side)), source)


def _bilinear(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Pixels repeated, also beyond the border, and smoothed by a depthwise layer with fixed
    weights. Cost: a way through memory, and that layer.
    """
    if bound(node, align_corners=False)["align_corners"]:
        raise ValueError("it needs align_corners=False, with which all pixels are alike")
    block, channels = _factors(node), shape(node)[0]
    border = block[0] // 2, block[1] // 2
    repeated = w.module_call(node, Repeat(block, border), w.nodes[argument(node)])
    count, (height, width) = node.meta["val"].shape[0], shape(node)[1:]
    size = count, channels, height + 2 * border[0], width + 2 * border[1]
    repeated.meta |= {"shape": size, "path": path_of(node)}
    return w.module_call(node, FixedConv2d.smoothing(channels, block), repeated)


def _pixel_unshuffle(w: GraphWriter, node: fx.Node) -> fx.Node:
    """A depthwise layer with a stride whose weights choose pixels. Cost: that layer."""
    side, channels = bound(node)["downscale_factor"], shape(argument(node))[0]
    return w.module_call(node, FixedConv2d.phases(channels, side), w.nodes[argument(node)])


BLOCKS: dict[str, Callable[[GraphWriter, fx.Node], fx.Node | None]] = {
    "upsample_nearest2d": _nearest,
    "_upsample_nearest_exact2d": _nearest_exact,
    "upsample_bilinear2d": _bilinear,
    "pixel_unshuffle": _pixel_unshuffle,
    "pixel_shuffle": _pixel_shuffle,
}
