# SPDX-License-Identifier: Apache-2.0
"""Rewrites of poolings as PyTorch's modules for maps."""

from torch import fx, nn

from quant.capture.nodes import argument, operation
from quant.capture.nodes import bound as _bound
from quant.capture.writer import GraphWriter, Rewrite
from quant.nn.windows import Pool, windows_of


def sizes(value: object) -> tuple[int, int]:
    """Rows and columns as PyTorch takes them, which may be one number for both directions.

    Raises ValueError for what is no constant.
    """
    both = list(value) if isinstance(value, list | tuple) else [value]
    first, last = both[0], both[-1]
    if not isinstance(first, int) or not isinstance(last, int):
        raise ValueError("its sizes must be constants")
    return first, last


def _max_pool(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Maxima of the pooling engine, beside the array; of 8 bits, steps of ``a + relu(b - a)``.

    Cost: a pass of the pooling engine; of 8 bits, some passes of depthwise layers.
    """
    a = _bound(node, stride=[], padding=0, dilation=1, ceil_mode=False)
    kernel = sizes(a["kernel_size"])
    pool = nn.MaxPool2d(
        kernel,
        sizes(a["stride"] or kernel),
        sizes(a["padding"]),
        sizes(a["dilation"]),
        ceil_mode=a["ceil_mode"],
    )
    return _pool(w, node, pool)


def _avg_pool(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Sums of the pooling engine, each divided by what PyTorch divides it by, in the requantiser.

    Cost: a pass of the pooling engine; several where windows differ at the border.
    """
    a = _bound(
        node, stride=[], padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    )
    kernel = sizes(a["kernel_size"])
    pool = nn.AvgPool2d(
        kernel,
        sizes(a["stride"] or kernel),
        sizes(a["padding"]),
        a["ceil_mode"],
        a["count_include_pad"],
        a["divisor_override"],
    )
    return _pool(w, node, pool)


def _adaptive_pool(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Means or maxima of windows that follow from the sizes of input and output.

    Cost: a pass of the pooling engine; several where windows differ.
    """
    source = argument(node).meta["val"].shape[2:]
    largest = "max" in operation(node)
    size = sizes([s if o is None else o for s, o in zip(source, _both(node.args[1]), strict=True)])
    if any(s % o for s, o in zip(source, size, strict=True)):
        kind = nn.AdaptiveMaxPool2d if largest else nn.AdaptiveAvgPool2d
        return _pool(w, node, kind(size))
    kernel = int(source[0]) // size[0], int(source[1]) // size[1]
    return _pool(w, node, (nn.MaxPool2d if largest else nn.AvgPool2d)(kernel, kernel))


def _both(value: object) -> list:
    both = list(value) if isinstance(value, list | tuple) else [value]
    return [both[0], both[-1]]


def _pool(w: GraphWriter, node: fx.Node, pool: Pool) -> fx.Node:
    """Call of ``pool``, if its windows can be had."""
    windows_of(pool, sizes(list(argument(node).meta["val"].shape[2:])))
    call, value = w.module_call(node, pool, w.nodes[argument(node)]), node.meta["val"]
    if isinstance(value, tuple | list):  # with the places of maxima
        call.meta["shape"] = tuple(value[0].shape)
    return call


POOLS: dict[str, Rewrite] = {
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices"), _max_pool),
    "avg_pool2d": _avg_pool,
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
}
