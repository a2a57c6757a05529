# SPDX-License-Identifier: Apache-2.0
"""Parts of an integer graph: tensors, nodes and the header that lists them."""

from typing import Annotated, Literal

import pydantic

from ir import numerics

FORMAT = "rmsmp-intgraph"
VERSION = 3


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Bits = Literal[4, 8]  #: of the codes of a tensor


class TensorSpec(_Model):
    """Activation tensor: unsigned integers ``a`` with ``x = scale * (a - zero_point)``.

    A sequence of vectors is (channels, length, 1), so that a linear layer over it is a 1x1
    convolution. The tensor of a wide layer holds its ``t``, with ``x = t / 2^S`` for the S of each
    row; ``scale`` is the smallest of these steps.
    """

    name: str
    shape: tuple[int, int, int]  #: channels, height, width; a vector is (channels, 1, 1)
    bits: Bits
    scale: float = pydantic.Field(gt=0)
    zero_point: int = 0


class Residual(_Model):
    """Second operand of a layer's requantisation: ``t += r * N``, ``N = n * 2^(S - 14)``."""

    tensor: str
    n: int = pydantic.Field(ge=0, lt=1 << numerics.RESIDUAL_BITS)


class _Node(_Model):
    name: str
    input: str
    output: str  #: tensor written


class _Gemm(_Node):
    """A layer with weights; its arrays are a :class:`LayerArrays` under the node's name.

    The result of a ``wide`` layer is ``t`` itself, for host nodes or as an output. The rows of an
    output have one S, so that they compare. ``table`` names one of the graph's tables, which gives
    the output's code for each code of 0..255 after the clamp.
    """

    low: int = 0
    high: int = numerics.NIBBLE_MAX
    residual: Residual | None = None
    wide: bool = False
    table: str | None = None


class Conv(_Gemm):
    """2-D convolution, (C, H, W) to (O, H', W'); padding has the input's zero point."""

    op: Literal["conv"] = "conv"
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    #: top, bottom, left, right; filled with the input's zero_point
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1


class Linear(_Gemm):
    """Product with (O, C) weights, (C, 1, 1) to (O, 1, 1)."""

    op: Literal["linear"] = "linear"


class MaxPool(_Node):
    """Largest code of each window; input and output have the same bits, scale and zero point."""

    op: Literal["max_pool"] = "max_pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    #: top, bottom, left, right; filled with 0, the smallest code
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


class AvgPool(_Node):
    """Average ``y = clamp((sum * multiplier + bias) >> shift)`` over each window.

    A ``table`` of the graph is applied to that, as in a layer; an average of one pixel with one is
    a function of its input's codes.
    """

    op: Literal["avg_pool"] = "avg_pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    multiplier: int = pydantic.Field(ge=0, lt=1 << numerics.MULTIPLIER_BITS)
    bias: int = pydantic.Field(ge=-numerics.BIAS_LIMIT, lt=numerics.BIAS_LIMIT)
    shift: int = pydantic.Field(ge=numerics.SHIFT_MIN, le=numerics.SHIFT_MAX)
    low: int = 0
    high: int = numerics.NIBBLE_MAX
    table: str | None = None


class Window(_Model):
    """Rows or columns ``first`` to ``last`` (exclusive) that one result of a pooling is made of.

    ``count`` is what a mean divides by: their number, or more, where padding counts as well.
    """

    first: int = pydantic.Field(ge=0)
    last: int = pydantic.Field(ge=0)
    count: int = pydantic.Field(ge=1)

    @property
    def size(self) -> int:
        """Number of the rows or columns."""
        return self.last - self.first


class WindowPool(_Node):
    """Maximum or mean of windows of any size and place, one for each row and column.

    A maximum keeps bits, scale and zero point. A mean is ``y = clamp((sum * M + B) >> S)`` with
    M, B and S of :func:`ir.numerics.encode_mean` for ``steps`` and the product of both counts; a
    place that is counted and not there has the zero point in the sum.
    """

    op: Literal["window_pool"] = "window_pool"
    mean: bool
    rows: tuple[Window, ...] = pydantic.Field(min_length=1)
    columns: tuple[Window, ...] = pydantic.Field(min_length=1)
    steps: int = pydantic.Field(default=1, ge=1, le=numerics.act_max(8))  #: see encode_mean
    high: int = numerics.NIBBLE_MAX


class Mul(_Node):
    """Product of two tensors, element by element: :func:`ir.numerics.multiply` of their codes.

    The ``factor`` has 8 bits and the shape of the input, or (C, 1, 1), a factor for each channel.
    A ``table`` is applied to the result, as in a layer.
    """

    op: Literal["mul"] = "mul"
    factor: str
    bias: int = pydantic.Field(gt=-numerics.PRODUCT_BIAS_LIMIT, lt=numerics.PRODUCT_BIAS_LIMIT)
    shift: int = pydantic.Field(ge=numerics.PRODUCT_SHIFT_MIN, le=numerics.PRODUCT_SHIFT_MAX)
    low: int = 0
    high: int = numerics.NIBBLE_MAX
    table: str | None = None


class Flatten(_Node):
    """Reshape of (C, H, W) to (C*H*W, 1, 1), as ``torch.flatten``; codes stay the same."""

    op: Literal["flatten"] = "flatten"


class Gather(_Model):
    """Channels of tensors with one grid, in any order, (C, H, W) to (O, H', W'); codes stay.

    A concatenation, a part of the channels, their shuffle, channels of zeros, every other pixel.
    """

    op: Literal["gather"] = "gather"
    name: str
    inputs: tuple[str, ...] = pydantic.Field(min_length=1)
    output: str
    #: of each output channel: its number among the channels of all inputs, one input after the
    #: other; -1 for zeros
    picks: tuple[int, ...] = pydantic.Field(min_length=1)
    stride: tuple[int, int] = (1, 1)  #: of the pixels that are taken, from the first one on

    @property
    def input(self) -> str:
        """Name of the first input."""
        return self.inputs[0]


class DepthToSpace(_Node):
    """Channels (dy, dx, c) of a pixel as pixels of their own, (by*bx*C, H, W) to (C, by*H, bx*W).

    The last rows and columns may be cut off. Codes stay. A transposed convolution is one of its
    phases with this behind it.
    """

    op: Literal["depth_to_space"] = "depth_to_space"
    block: tuple[int, int]  #: pixels down and across
    crop: tuple[int, int] = (0, 0)  #: rows and columns that are cut off, fewer than of a block


MAX_BORDER = 16  #: of repeated rows or columns


class Upsample(_Node):
    """Each pixel several times, (C, H, W) to (C, by*H, bx*W): nearest neighbour; codes stay."""

    op: Literal["upsample"] = "upsample"
    block: tuple[int, int]  #: how often, down and across
    #: how many rows above and below, and columns left and right, repeat the first and last ones,
    #: at most MAX_BORDER
    border: tuple[int, int] = (0, 0)


class Host(_Model):
    """Float operations between integer layers, which the accelerator leaves to the host.

    The host reads the real values of its ``inputs``, float32 in the shape of their tensors, and
    what earlier host nodes kept. What it gives for its ``outputs`` is quantised by their tensors;
    what it ``keeps`` stays in its memory as it is, for later host nodes, and is no tensor of the
    graph.
    """

    op: Literal["host"] = "host"
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = pydantic.Field(min_length=1)
    keeps: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()  #: names of its float operations, each once


#: Nodes of the accelerator; but for a Gather each of one tensor and maybe a residual operand.
IntegerNode = (
    Conv
    | Linear
    | MaxPool
    | AvgPool
    | WindowPool
    | Mul
    | Flatten
    | Gather
    | DepthToSpace
    | Upsample
)
Node = Annotated[IntegerNode | Host, pydantic.Field(discriminator="op")]


class HostFunction(_Model):
    """Function of :mod:`ir.tail` that the host applies to real values."""

    name: str
    arguments: tuple[float | int, ...] = ()


class Output(_Model):
    """Tensor that leaves the graph, and what it means to whoever called the network.

    The real values of ``tensor`` have the ``shape`` that the network's layer gave them, without the
    batch; the functions of ``tail`` follow, one after the other. ``name`` is the place in what the
    network returns, such as ``boxes`` or ``1``; a single result has none.
    """

    tensor: str
    name: str = ""
    shape: tuple[int, ...] = ()  #: () for the tensor's own
    tail: tuple[HostFunction, ...] = ()


class Header(_Model):
    """JSON part of a graph file.

    A graph has either an ``input`` tensor or, where it begins on the host, ``host_inputs``: names
    of arrays that only host nodes read, such as the numbers of tokens.
    """

    format: Literal["rmsmp-intgraph"] = FORMAT
    version: int = VERSION
    name: str
    tensors: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]
    input: str | None
    #: code of each channel of what lies outside the image, where a convolution pads it; () for
    #: its zero point
    border: tuple[int, ...] = ()
    host_inputs: tuple[str, ...] = ()
    #: in the order in which the network returns them; the first one's values are the logits
    outputs: tuple[Output, ...] = pydantic.Field(min_length=1)
    ratio: str  #: PoT4:Fixed4:Fixed8 that the rows were assigned with
    tile_rows: int = pydantic.Field(gt=0)  #: rows per tile of that assignment
    class_names: tuple[str, ...] = ()
    provenance: dict[str, str] = {}

    @property
    def output_tensors(self) -> tuple[str, ...]:
        """Names of the tensors that leave, each once; the logits first."""
        return tuple(dict.fromkeys(output.tensor for output in self.outputs))
