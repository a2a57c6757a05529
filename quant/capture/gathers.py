# SPDX-License-Identifier: Apache-2.0
"""Rewrites of what only moves channels: concatenation, parts, shuffles, padding of channels.

Each becomes one :class:`~quant.nn.gather.Gather`. A chain of views, as of a shuffle written by
hand, is followed with numbers in place of values: it is one where every number that comes out names
a channel.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from quant.capture.nodes import argument, operation, path_of
from quant.capture.nodes import bound as _bound
from quant.capture.writer import GraphWriter
from quant.nn.fixed import FixedConv2d
from quant.nn.gather import Gather

ALL = 2**63 - 1  #: the end of a slice that has none
MAX_CROP = 31  #: lines of one direction that a depthwise layer cuts off


def shape(node: object) -> tuple[int, ...]:
    """Sizes of an activation of the exported program behind the batch; ValueError for others."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor) or not all(isinstance(s, int) for s in value.shape[1:]):
        raise ValueError("its sizes must be constants")
    return tuple(value.shape[1:])


def gather(
    w: GraphWriter,
    node: fx.Node,
    sources: Sequence[fx.Node],
    picks: Sequence[int],
    stride: tuple[int, int] = (1, 1),
) -> fx.Node:
    """Call of a Gather for ``node``, of nodes of the program."""
    for source in sources:
        if source not in w.nodes:
            raise ValueError("it takes activations only")
    ours = [w.nodes[source] for source in sources]
    channels = sum(shape(source)[0] for source in sources)
    if len(ours) == 1 and stride == (1, 1) and tuple(picks) == tuple(range(channels)):
        return ours[0]
    call = w.module_call(node, Gather(picks, stride), ours[0])
    call.args = tuple(ours)
    return call


def _axis(node: fx.Node, dim: int, source: object = None) -> int:
    """Axis of an activation, counted from the front; ValueError for the batch's."""
    value = (source if isinstance(source, fx.Node) else argument(node)).meta["val"]
    axis = dim % value.dim()
    if axis == 0:
        raise ValueError("images of a batch cannot be mixed")
    return axis


def _concatenation(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Channels of several tensors side by side, on one grid that training chooses.

    Cost: a copy of the channels through the array, a pass of a 1x1 layer.
    """
    a = _bound(node, dim=0)
    sources = list(a["tensors"])
    if _axis(node, a["dim"], sources[0]) != 1:
        raise ValueError("only channels can be joined, along axis 1")
    if any(len(shape(source)) == 0 for source in sources):
        raise ValueError("it takes activations only")
    return gather(w, node, sources, range(sum(shape(source)[0] for source in sources)))


def _parts(w: GraphWriter, node: fx.Node) -> fx.Node:
    """chunk and split stand for their input; :func:`_part` takes a part of it."""
    if argument(node) not in w.nodes:
        raise ValueError("it takes activations only")
    return w.nodes[argument(node)]


def _part(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Some of the channels, as of chunk, split or unbind.

    Cost: a copy of the channels.
    """
    whole, number = argument(node), cast(int, node.args[1])
    if operation(whole) in MAXIMA:
        if number and node.users:
            raise ValueError("only the values of a maximum can be read, not their places")
        w.look_like(node, whole)
        return w.nodes[whole]
    if operation(whole) not in PARTS:
        raise ValueError("")
    sizes = [shape_of_part[1] for shape_of_part in _result_shapes(whole)]
    axis = _axis(whole, _bound(whole, dim=0)["dim"])
    if axis != 1:
        raise ValueError("only channels can be parted, along axis 1")
    number %= len(sizes)
    first = sum(sizes[:number])
    return gather(w, node, [argument(whole)], range(first, first + sizes[number]))


def _result_shapes(node: fx.Node) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in node.meta["val"]]


def _slice(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Some of the channels, or of the rows and columns: a crop is a depthwise layer whose weights
    choose a pixel, every n-th line is taken from the first on.

    Cost: a copy of the channels or pixels, and a depthwise layer as large as what is cut off.
    """
    a = _bound(node, dim=0, start=None, end=None, step=1)
    value = argument(node).meta["val"]
    axis = a["dim"] % value.dim()
    if operation(node) == "narrow":
        a["end"] = a["start"] + a["length"]
    size = value.shape[axis]
    end = ALL if a["end"] is None else a["end"]
    if axis == 0 and a["start"] in (None, 0) and end == ALL and a["step"] == 1:
        return _parts(w, node)
    _axis(node, axis)
    chosen = range(size)[slice(a["start"], end, a["step"])]
    channels = shape(argument(node))[0]
    if axis == 1:
        return gather(w, node, [argument(node)], chosen)
    if chosen == range(size):
        return _parts(w, node)
    if len(value.shape) != 4 or not chosen:
        raise ValueError("lines can be taken of height and width only, at least one")
    down, across = (chosen.step, 1) if axis == 2 else (1, chosen.step)
    if chosen.step == 1:
        cut = (chosen.start, size - chosen.stop)
        return crop(w, node, (cut, (0, 0)) if axis == 2 else ((0, 0), cut))
    source = argument(node)
    if chosen.start == 0 and len(chosen) == -(-size // chosen.step):
        return gather(w, node, [source], range(channels), (down, across))
    cut = chosen.start, size - 1 - chosen[-1]
    cropped = crop(w, node, (cut, (0, 0)) if axis == 2 else ((0, 0), cut))
    sizes = list(value.shape)
    sizes[axis] -= sum(cut)
    cropped.meta |= {"shape": tuple(sizes), "path": path_of(node)}
    return w.module_call(node, Gather(range(channels), (down, across)), cropped)


def crop(w: GraphWriter, node: fx.Node, cut: tuple[tuple[int, int], tuple[int, int]]) -> fx.Node:
    """Input of ``node`` without so many lines above and below, left and right."""
    (above, below), (left, right) = cut
    kernel = above + below + 1, left + right + 1
    if max(kernel) > MAX_CROP + 1:
        raise ValueError(
            f"it cuts off {max(kernel) - 1} lines of one direction; {MAX_CROP} are possible"
        )
    layer = FixedConv2d.crop(shape(argument(node))[0], first=(above, left), kernel=kernel)
    return w.module_call(node, layer, w.nodes[argument(node)])


def _index(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Channels by a constant list of numbers.

    Cost: a copy of the channels.
    """
    if operation(node) == "index_select":
        a = _bound(node)
        axis, numbers = _axis(node, a["dim"]), a["index"]
    else:
        given = list(cast(Sequence[object], node.args[1]))
        axis = next((i for i, number in enumerate(given) if number is not None), 0)
        numbers = given.pop(axis) if given else None
        if any(number is not None for number in given):
            numbers = None
    if axis != 1 or not isinstance(numbers, fx.Node) or numbers.name not in w.stored:
        raise ValueError("only channels can be chosen, by numbers that are constant")
    channels = shape(argument(node))[0]
    picks = [int(number) % channels for number in w.tensor(numbers).tolist()]
    return gather(w, node, [argument(node)], picks)


def _shuffle(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Channels in another order.

    Cost: a copy of the channels.
    """
    groups, channels = cast(int, node.args[1]), shape(argument(node))[0]
    picks = torch.arange(channels).view(groups, -1).t().flatten().tolist()
    return gather(w, node, [argument(node)], picks)


def pad_channels(w: GraphWriter, node: fx.Node, front: int, back: int) -> fx.Node:
    """Channels of zeros before and behind those of the input, or fewer channels."""
    channels = shape(argument(node))[0]
    picks = [p if 0 <= p < channels else -1 for p in range(-front, channels + back)]
    return gather(w, node, [argument(node)], picks)


def follow_views(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """View of an activation: the choice of channels that the chain of views up to it comes to.

    None where it is none; the views behind it may make it one.
    """
    source = argument(node)
    base, numbers = w.views.get(source, (source, None))
    if base not in w.nodes or len(shape(base)) not in (1, 3):
        return None
    if numbers is None:
        sizes = shape(base)
        numbers = torch.arange(torch.Size(sizes).numel()).view(1, *sizes)
    target = cast(Callable[..., Tensor], node.target)
    args = map_aggregate(node.args[1:], _batch_of_one)
    options = map_aggregate(node.kwargs, _batch_of_one)
    try:
        numbers = target(
            numbers.contiguous(), *cast(tuple[Any, ...], args), **cast(dict[str, Any], options)
        )
    except RuntimeError:
        return None
    w.views[node] = base, numbers
    picks = _picks(numbers, shape(base))
    if picks is None or numbers.shape[1:] != shape(node):
        return w.nodes[base]
    return gather(w, node, [base], picks)


def is_view(w: GraphWriter, node: fx.Node) -> bool:
    """True if ``node`` is a chain of views that has not come to a choice of channels."""
    if node not in w.views:
        return False
    base, numbers = w.views[node]
    return _picks(numbers, shape(base)) is None


def _batch_of_one(value: Any) -> Any:
    """Argument of a view, with 1 in place of a batch of any size."""
    return value if not isinstance(value, fx.Node | torch.SymInt) else 1


def _picks(numbers: Tensor, source: tuple[int, ...]) -> list[int] | None:
    """Channels that ``numbers`` (1, C, H, W) are made of; None unless each is one as it was."""
    if numbers.dim() != len(source) + 1 or numbers.shape[2:] != torch.Size(source[1:]):
        return None
    pixels = torch.Size(source[1:]).numel()
    flat = numbers[0].reshape(numbers.shape[1], -1)
    if not torch.equal(flat - flat[:, :1], torch.arange(pixels).expand_as(flat)):
        return None
    first = flat[:, 0]
    return None if (first % pixels).any() else (first // pixels).tolist()


#: Operations that give values and their places.
MAXIMA = ("max_pool2d_with_indices", "adaptive_max_pool2d", "max")
PARTS = ("chunk", "split", "split_with_sizes", "tensor_split")

GATHERS: dict[str, Callable[[GraphWriter, fx.Node], fx.Node | None]] = {
    "cat": _concatenation,
    "concat": _concatenation,
    "concatenate": _concatenation,
    **dict.fromkeys(PARTS, _parts),
    "getitem": _part,
    "slice": _slice,
    "narrow": _slice,
    "index_select": _index,
    "index": _index,
    "channel_shuffle": _shuffle,
    "native_channel_shuffle": _shuffle,
}
