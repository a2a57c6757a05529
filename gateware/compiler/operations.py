# SPDX-License-Identifier: Apache-2.0
"""Operations of the tile engine, and moves of tensors between them."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

MEMORY_LIMIT = 1 << 32  #: bytes that descriptors address from a base register


class CompileError(ValueError):
    """Graph that the accelerator cannot run; the message names the layer and the reason."""


@dataclasses.dataclass(frozen=True)
class TensorKey:
    """Tensor of a run.

    Parameters
    ----------
    name : str
        The graph's tensor.
    image : int
        Number of the image, of a run of several.
    reloads : int
        How often it has come back from memory, each time to a place of its own.
    """

    name: str
    image: int = 0
    reloads: int = 0

    @property
    def origin(self) -> "TensorKey":
        """Key of the tensor as it was made."""
        return dataclasses.replace(self, reloads=0)

    def of_image(self, image: int) -> "TensorKey":
        """Key of the same tensor of another image."""
        return dataclasses.replace(self, image=image)

    def reloaded(self) -> "TensorKey":
        """Key of the same tensor after another way through memory."""
        return dataclasses.replace(self, reloads=self.reloads + 1)

    def __str__(self) -> str:
        """Name for people."""
        image = f" of image {self.image}" if self.image else ""
        return self.name + image + " reloaded" * self.reloads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemm:
    """Convolution; a linear layer is one whose kernel is its whole input.

    values : int64 (rows, channels / groups, kernel_y, kernel_x)
    groups : of a grouped convolution: as many equal parts of the rows read equal parts of the
        channels
    partial : operations that follow write the rest of the result
    columns : first and last (exclusive) of the result, which are computed; None for all
    multiplier, bias, shift, scheme : (rows,)
    table : 256 codes that the results are looked up in
    channels : of each row the channel of the result that it gives, by default its number
    """

    name: str
    source: TensorKey
    target: TensorKey
    values: np.ndarray
    scheme: np.ndarray
    multiplier: np.ndarray
    bias: np.ndarray
    shift: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    low: int
    high: int
    wide: bool = False
    residual: TensorKey | None = None
    residual_n: int = 0
    groups: int = 1
    partial: bool = False
    columns: tuple[int, int] | None = None
    table: bytes | None = None
    channels: tuple[int, ...] | None = None

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the kernel."""
        return self.values.shape[2], self.values.shape[3]

    def most_words(self, k: int) -> int:
        """Words of ``k`` channels that any of its :meth:`parts` reads of a pixel."""
        if self.groups == 1:
            return -(-self.values.shape[1] // k)
        channels = self.values.shape[1]
        return max(
            ((group + 1) * channels - 1) // k - group * channels // k + 1
            for group in range(self.groups)
        )

    def parts(self, k: int) -> "list[Part]":
        """Parts of the rows that read the same words of ``k`` channels; several for grouped
        ones."""
        rows, channels, *kernel = self.values.shape
        if self.groups == 1:
            return [Part(0, -(-channels // k), range(rows), self.values)]
        ranges: dict[tuple[int, int], list[int]] = {}
        for group in range(self.groups):
            first, last = group * channels // k, ((group + 1) * channels - 1) // k
            ranges.setdefault((first, last - first + 1), []).append(group)
        parts, per_group = [], rows // self.groups
        for (first, words), members in ranges.items():
            values = np.zeros((len(members) * per_group, words * k, *kernel), np.int64)
            taken = []
            for index, group in enumerate(members):
                mine = range(group * per_group, (group + 1) * per_group)
                channel = group * channels - first * k
                values[
                    index * per_group : (index + 1) * per_group, channel : channel + channels
                ] = self.values[mine.start : mine.stop]
                taken += mine
            parts.append(Part(first, words, taken, values))
        return parts


@dataclasses.dataclass(frozen=True)
class Part:
    """Rows of a layer that read ``words`` words of each pixel, from number ``first`` on.

    rows : numbers of the layer's rows
    values : int64 (len(rows), channels of these words, kernel_y, kernel_x)
    """

    first: int
    words: int
    rows: Sequence[int]
    values: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolPart:
    """Rows and columns of a pooling whose windows have one size and one distance.

    rows, columns : of the result, first and last (exclusive)
    padding : rows above and columns left, negative for a window that begins behind them, and zeros
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    multiplier: int
    bias: int
    shift: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """Maximum or sum over a window, requantised by one M, B, S, and maybe looked up in a table.

    residual, residual_n : operand that a product is taken with, and its multiplier
    broadcast : the operand is one pixel, for all
    parts : what is computed one after the other, where windows differ; then kernel, stride, padding
        and M, B, S are those of the parts
    """

    wide: ClassVar[bool] = False

    name: str
    source: TensorKey
    target: TensorKey
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    total: bool
    multiplier: int
    bias: int
    shift: int
    low: int
    high: int
    table: bytes | None = None
    residual: TensorKey | None = None
    residual_n: int = 0
    product: bool = False
    broadcast: bool = False
    parts: tuple[PoolPart, ...] = ()

    def of(self, part: PoolPart) -> "Pool":
        """Pooling whose windows are those of ``part``."""
        return dataclasses.replace(
            self, kernel=part.kernel, stride=part.stride, padding=part.padding, parts=()
        )


@dataclasses.dataclass(frozen=True)
class Spill:
    """Transfer of a tensor from the activation buffer to memory, until a :class:`Reload`."""

    source: TensorKey


@dataclasses.dataclass(frozen=True)
class Reload:
    """Transfer of the tensor ``spilled`` back from memory, as ``target``."""

    spilled: TensorKey
    target: TensorKey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rearrange:
    """Transfer of a tensor to memory and back, in another shape; see
    :mod:`gateware.compiler.rearrange`.

    Parameters
    ----------
    kind : "merge" makes the phases of each pixel (dy, dx, words) pixels of their own; "repeat"
        gives each pixel so many times; "split" makes pixels side by side words of one
    factor : pixels down and across
    border : of a repetition: how many pixels more of the first and last row and column
    """

    wide: ClassVar[bool] = False
    residual: ClassVar[None] = None

    name: str
    source: TensorKey
    target: TensorKey
    kind: Literal["merge", "repeat", "split"]
    factor: tuple[int, int]
    border: tuple[int, int] = (0, 0)

    @property
    def rows_for_one(self) -> int:
        """Rows of the result for one row, but for those of the border."""
        return 1 if self.kind == "split" else self.factor[0]

    def source_rows(self, height: int, first: int, last: int) -> tuple[int, int]:
        """Rows of a source of ``height`` that rows ``first`` to ``last`` (exclusive) come from."""
        begin, end = ((row - self.border[0]) // self.rows_for_one for row in (first, last - 1))
        return max(0, begin), min(height, end + 1)


Operation = Gemm | Pool | Rearrange | Spill | Reload


def operands(operation: Operation) -> list[TensorKey]:
    """Tensors that an operation reads from the activation buffer."""
    if isinstance(operation, Reload):
        return []
    if isinstance(operation, Gemm | Pool) and operation.residual is not None:
        return [operation.source, operation.residual]
    return [operation.source]


def result(operation: Operation) -> TensorKey | None:
    """Tensor that an operation makes; None for a :class:`Spill`."""
    return None if isinstance(operation, Spill) else operation.target


def touches(operation: Operation, key: TensorKey) -> bool:
    """True if an operation reads or makes the tensor."""
    return key == result(operation) or key in operands(operation)


def input_rows(operation: Gemm | Pool, height: int, first: int, last: int) -> tuple[int, int]:
    """Rows of an input of ``height`` that output rows ``first`` to ``last`` (exclusive) are made
    from.

    First and last, exclusive, both within 0..height; equal where they are made of padding alone.
    """
    if isinstance(operation, Pool) and operation.parts:
        return 0, height
    begin = first * operation.stride[0] - operation.padding[0]
    end = (last - 1) * operation.stride[0] - operation.padding[0] + operation.kernel[0]
    begin = min(max(0, begin), height)
    return begin, max(begin, min(end, height))
