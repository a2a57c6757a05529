# SPDX-License-Identifier: Apache-2.0
"""Rewrites of ATen operations as standard modules; :mod:`quant.capture.trace` drives them.

A rewrite gets the :class:`~quant.capture.writer.GraphWriter` and a node of the exported program and
adds to the flat graph. It raises ValueError with the reason why it cannot, or gives None where the
operation is to be kept as it is, if the caller allows that."""

from typing import cast

import torch
from torch import Tensor, fx, nn

from ir.nodes import MAX_BORDER
from quant.capture.arithmetic import ARITHMETIC
from quant.capture.blocks import BLOCKS
from quant.capture.gathers import GATHERS, crop, follow_views, is_view, pad_channels
from quant.capture.nodes import argument, bound, operation, path_of, shape_of
from quant.capture.pools import POOLS, sizes
from quant.capture.products import PRODUCTS
from quant.capture.reductions import REDUCTIONS
from quant.capture.writer import GraphWriter, Rewrite
from quant.nn.blocks import Repeat
from quant.nn.fixed import FixedConv2d
from quant.nn.norms import FrozenBatchNorm1d, FrozenBatchNorm2d


def _own(module: nn.Module, **tensors: Tensor | None) -> None:
    """Give ``module`` the parameters and buffers of the exported program."""
    for name, tensor in tensors.items():
        is_parameter = isinstance(getattr(module, name), nn.Parameter)
        if is_parameter and tensor is not None and not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=False)  # a buffer
        setattr(module, name, tensor)


def _convolution(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Rows of weights times windows of the map, with zeros between the taps of a dilated one.
    Weights that are computed of parameters, as by weight_norm, are those of the moment.

    Cost: its multiplications; strides that the array lacks, a way through memory before it.
    """
    a = bound(node, bias=None, stride=1, padding=0, dilation=1, groups=1)
    weight, bias = w.tensor(a["weight"]), w.optional_tensor(a["bias"])
    if weight.dim() == 3:  # computed, of a line
        weight = nn.Parameter(weight.unsqueeze(2), weight.requires_grad)
    kernel, stride = sizes(list(weight.shape[2:])), sizes(a["stride"])
    dilation, padding, source = sizes(a["dilation"]), a["padding"], w.nodes[a["input"]]
    if padding == "same":
        source, padding = _same(w, node, source, kernel, dilation)
    elif padding == "valid":
        padding = 0
    conv = nn.Conv2d(
        weight.shape[1] * a["groups"],
        weight.shape[0],
        kernel,
        stride,
        sizes(padding),
        dilation,
        groups=a["groups"],
        bias=bias is not None,
        device="meta",
    )
    _own(conv, weight=weight, bias=bias)
    call = w.layer_call(a["weight"], conv, a["input"], path_of(node))
    call.args = (source,)
    return call


def _same(
    w: GraphWriter,
    node: fx.Node,
    source: fx.Node,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[fx.Node, tuple[int, int]]:
    """Padding "same" of a layer: zeros of their own where the two sides differ, and the rest."""
    (above, below), (left, right) = (
        (n // 2, n - n // 2) for n in (dilation[i] * (kernel[i] - 1) for i in (0, 1))
    )
    if (above, left) != (below, right):
        count, channels, height, width = source.meta["shape"]
        source = w.module_call(node, nn.ZeroPad2d((0, right - left, 0, below - above)), source)
        source.meta |= {
            "shape": (count, channels, height + below - above, width + right - left),
            "path": path_of(node),
        }
    return source, (above, left)


def _transposed_convolution(w: GraphWriter, node: fx.Node) -> fx.Node:
    """One convolution of all phases of the stride, which come back as pixels. Cost: the taps of
    that convolution, and a way through memory.
    """
    a = bound(node, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    weight, bias = w.tensor(a["weight"]), w.optional_tensor(a["bias"])
    conv = nn.ConvTranspose2d(
        weight.shape[0],
        weight.shape[1] * a["groups"],
        sizes(list(weight.shape[2:])),
        sizes(a["stride"]),
        sizes(a["padding"]),
        sizes(a["output_padding"]),
        groups=a["groups"],
        bias=bias is not None,
        dilation=sizes(a["dilation"]),
        device="meta",
    )
    _own(conv, weight=weight, bias=bias)
    return w.layer_call(a["weight"], conv, a["input"], path_of(node))


def _linear(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Layer over a vector, or over a map that was flattened: a convolution whose kernel is the map.

    Cost: as a convolution of one pixel; weights beyond the buffer need an array with parts.
    """
    a = bound(node, bias=None)
    if a["input"].meta["val"].dim() == 4 and not w.keep_unknown:
        raise ValueError(
            "it goes along the last axis of a map: give it flatten(1), or use a 1x1 convolution"
        )
    weight, bias = w.tensor(a["weight"]), w.optional_tensor(a["bias"])
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    _own(linear, weight=weight, bias=bias)
    return w.layer_call(a["weight"], linear, a["input"], path_of(node))


def _matmul(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Layer over a vector, with the transposed matrix as its weights.

    Cost: as a linear layer.
    """
    vector, matrix = node.args[:2]
    if not isinstance(matrix, fx.Node) or not w.is_constant(matrix):
        if w.keep_unknown:
            return None
        raise ValueError("it multiplies two activations; one must be a parameter")
    weight = w.tensor(matrix)
    if weight.dim() != 2 or not isinstance(vector, fx.Node) or vector.meta["val"].dim() != 2:
        raise ValueError("it must multiply a vector (batch, values) by a matrix")
    linear = nn.Linear(*weight.shape, bias=False, device="meta")
    _own(linear, weight=nn.Parameter(weight.t(), weight.requires_grad))
    return w.layer_call(matrix, linear, vector, path_of(node))


_OF_NORMS = ("weight", "bias", "running_mean", "running_var")


def _batch_norm(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Part of the requantisation of the layer before it, in M and B of its rows; elsewhere of a
    depthwise 1x1 layer with weights of one.

    Cost: none behind a layer that nothing else reads, else a depthwise layer.
    """
    a = bound(node)
    if a["running_mean"] is None:
        raise ValueError("it normalises by its own batch: give it track_running_stats=True")
    name = w.owner(a["running_mean"])
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    if name in w.frozen:
        kinds = (FrozenBatchNorm1d, FrozenBatchNorm2d)
    kind = kinds[node.meta["val"].dim() == 4]
    given = {key: w.optional_tensor(a[key]) for key in _OF_NORMS}
    affine = given["weight"] is not None
    norm = kind(len(w.tensor(a["running_mean"])), a["eps"], a["momentum"], affine=affine)
    _own(norm, **given)
    counter = w.state.get(f"{name}.num_batches_tracked")
    if counter is not None:
        norm.num_batches_tracked = counter
    theirs = w.modules.get(name)
    if isinstance(theirs, nn.modules.batchnorm._NormBase):
        # In evaluation ATen is told 0 instead of None, an average over all batches.
        norm.momentum, norm.track_running_stats = theirs.momentum, theirs.track_running_stats
    return w.layer_call(a["running_mean"], norm, a["input"])


def _instance_norm(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """As a batch-norm, with its running statistics; without them it is refused.

    Cost: as a batch-norm.
    """
    if bound(node)["use_input_stats"]:
        return _other_norm(w, node)
    a = bound(node, weight=None, bias=None)
    given = {key: w.optional_tensor(a[key]) for key in _OF_NORMS}
    norm = FrozenBatchNorm2d(
        len(w.tensor(a["running_mean"])), a["eps"], affine=given["weight"] is not None
    )
    _own(norm, **given)
    return w.layer_call(a["running_mean"], norm, a["input"])


def _other_norm(w: GraphWriter, node: fx.Node) -> None:
    """Refusal of what normalises each image by its own statistics."""
    if not w.keep_unknown:
        raise ValueError(
            "it measures each image in inference, which the accelerator does not: use batch-norm, "
            "whose statistics are known then"
        )


def _relu(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Lower end of the clamp that follows every layer.

    Cost: none behind a layer or an addition, nor where the values have no sign anyway; else a
    depthwise layer.
    """
    return w.module_call(node, nn.ReLU(), w.nodes[argument(node)])


def _prelu(w: GraphWriter, node: fx.Node) -> fx.Node:
    """``u + (1 - slope) * relu(-u)`` with a slope for each channel: a table, and a depthwise layer
    with a residual operand. One slope for all makes an elementwise function.

    Cost: a depthwise layer, and an array with tables.
    """
    slopes = w.tensor(node.args[1])
    prelu = nn.PReLU(slopes.numel(), device="meta")
    _own(prelu, weight=slopes)
    return w.layer_call(cast(fx.Node, node.args[1]), prelu, argument(node))


def _clamp(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Both ends of the clamp that follows every layer, the lower one at 0, as of ReLU6.

    Cost: as a ReLU.
    """
    a = bound(node, min_val=-1.0, max_val=1.0, min=None, max=None)
    if operation(node) == "relu6":
        low, high = 0, 6
    elif "hardtanh" in operation(node):
        low, high = a["min_val"], a["max_val"]
    else:
        low, high = a["min"], a["max"]
    if low != 0:
        raise ValueError("it must clamp at 0 from below, as ReLU6 does")
    module = nn.ReLU() if high is None else nn.Hardtanh(0.0, float(high))
    return w.module_call(node, module, w.nodes[argument(node)])


def _view(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """flatten, view, reshape or squeeze to (batch, everything else), which a linear layer reads as
    the map itself; views that come to another order of the channels are a gather.

    Cost: none, or that of a gather.
    """
    before, after = (n.meta["val"].shape for n in (argument(node), node))
    if before == after and operation(node) not in ("permute", "transpose"):
        w.look_like(node, argument(node))
        return w.nodes[argument(node)]
    squeezed = argument(node) in w.squeezed
    if _adds_ones(before, after) and not squeezed:
        fill = nn.Unflatten(len(before) - 1, (before[-1], *after[len(before) :]))
        return w.module_call(node, fill, w.nodes[argument(node)])
    ours = w.nodes[argument(node)]
    if squeezed and shape_of(ours) == tuple(after[1:]):
        return ours
    whole = before.numel() == after.numel() and not is_view(w, argument(node))
    is_map = len(before) == 4 or squeezed
    if is_map and len(after) == 2 and before[0] == after[0] and whole:
        return w.module_call(node, nn.Flatten(), w.nodes[argument(node)])
    if w.keep_unknown:
        return None
    followed = None if squeezed else follow_views(w, node)
    if followed is None:
        raise ValueError(
            f"it makes {_sizes(after)} of {_sizes(before)}; only (batch, values) can be "
            f"made of (batch, channels, height, width), or channels in another order"
        )
    return followed


def _adds_ones(before: torch.Size, after: torch.Size) -> bool:
    """Whether vectors (N, C) or (N, C, 1) get a height and width of 1."""
    return (
        2 <= len(before) < len(after) <= 4
        and after[: len(before)] == before
        and all(size == 1 for size in after[2:])
    )


def _sizes(shape: torch.Size) -> str:
    return str(("batch", *shape[1:])).replace("'", "")


def _dropout(w: GraphWriter, node: fx.Node) -> fx.Node:
    """Nothing outside of training.

    Cost: none.
    """
    return w.module_call(node, nn.Dropout(bound(node)["p"]), w.nodes[argument(node)])


def _pad(w: GraphWriter, node: fx.Node) -> fx.Node | None:
    """Padding of the layer or maximum behind it, by zeros, elsewhere of a copy; channels of zeros
    are a gather. Padding below 0 is a crop, and that of mode "replicate" repeats pixels.

    Cost: none in front of a layer or a maximum without sign; else that of a copy, gather or crop,
    or a way through memory.
    """
    a = bound(node, mode="constant", value=0.0)
    amounts = list(a["pad"])
    dims = argument(node).meta["val"].dim()
    amounts += [0] * (4 - len(amounts))
    left, right, above, below = amounts[:4]
    of_map = all(isinstance(p, int) for p in amounts) and dims == 4 and not any(amounts[6:])
    of_lines = of_map and not any(amounts[4:]) and not w.keep_unknown
    padded = w.nodes[argument(node)]
    if of_lines and a["mode"] == "replicate" and 0 <= min(amounts) and max(amounts) <= MAX_BORDER:
        return _replicate(w, node, (above, below), (left, right))
    if of_lines and max(amounts[:4]) <= 0 and min(amounts[:4]) < 0:
        return crop(w, node, ((-above, -below), (-left, -right)))
    if a["mode"] != "constant" or a["value"] not in (None, 0) or not of_map or min(amounts[:4]) < 0:
        if w.keep_unknown:
            return None
        raise ValueError(
            "only zeros can be added, above, below, left and right, or as channels, and pixels of "
            "the border be repeated, as of mode 'replicate'"
        )
    if any(amounts[4:6]):
        padded = pad_channels(w, node, *amounts[4:6])
        sizes = argument(node).meta["val"].shape
        channels = sizes[1] + sum(amounts[4:6])
        padded.meta |= {"shape": (sizes[0], channels, *sizes[2:]), "path": path_of(node)}
    if not any(amounts[:4]):
        return padded
    return w.module_call(node, nn.ZeroPad2d(tuple(amounts[:4])), padded)


def _replicate(
    w: GraphWriter, node: fx.Node, rows: tuple[int, int], columns: tuple[int, int]
) -> fx.Node:
    """Pixels of the border repeated; what is too much on one side is cut off again."""
    border = max(rows), max(columns)
    repeated = w.module_call(node, Repeat((1, 1), border), w.nodes[argument(node)])
    kernel = 2 * border[0] - sum(rows) + 1, 2 * border[1] - sum(columns) + 1
    if kernel == (1, 1):
        return repeated
    count, channels, height, width = argument(node).meta["val"].shape
    size = count, channels, height + 2 * border[0], width + 2 * border[1]
    repeated.meta |= {"shape": size, "path": path_of(node)}
    first = border[0] - rows[0], border[1] - columns[0]
    return w.module_call(node, FixedConv2d.crop(channels, first=first, kernel=kernel), repeated)


#: Operations that only arrange values anew.
VIEWS = (
    "flatten",
    "view",
    "reshape",
    "squeeze",
    "squeeze_",
    "_unsafe_view",
    "permute",
    "transpose",
    "transpose_",
    "unflatten",
    "unsqueeze",
    "select",
    "movedim",
)

REWRITES: dict[str, Rewrite] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed_convolution,
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "relu_": _relu,
    "prelu": _prelu,
    "hardtanh": _clamp,
    "hardtanh_": _clamp,
    "relu6": _clamp,
    "clamp": _clamp,
    "clamp_": _clamp,
    "clamp_min": _clamp,
    "clamp_min_": _clamp,
    **ARITHMETIC,
    "group_norm": _other_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _other_norm,
    "rms_norm": _other_norm,
    "local_response_norm": _other_norm,
    **POOLS,
    **REDUCTIONS,
    **PRODUCTS,
    **GATHERS,
    **BLOCKS,
    **dict.fromkeys(VIEWS, _view),
    "dropout": _dropout,
    "dropout_": _dropout,
    "feature_dropout": _dropout,
    "pad": _pad,
    "constant_pad_nd": _pad,
}
