# SPDX-License-Identifier: Apache-2.0
"""What the compiler makes of a graph: operations of the tile engine, and moves between them."""

import dataclasses
from collections.abc import Sequence

import numpy as np


class CompileError(ValueError):
    """A graph that this accelerator cannot run; the message names the layer and the reason."""


@dataclasses.dataclass(frozen=True)
class Gemm:
    """A convolution; a linear layer is one whose kernel is its whole input.

    values : int64 (rows, channels / groups, kernel_y, kernel_x)
    groups : of a grouped convolution: as many equal parts of the rows read equal parts of the
        channels
    multiplier, bias, shift, scheme : (rows,)
    """

    name: str
    source: str
    target: str
    values: np.ndarray
    scheme: np.ndarray
    multiplier: np.ndarray
    bias: np.ndarray
    shift: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    low: int
    high: int
    wide: bool
    residual: str | None
    residual_n: int
    groups: int = 1
    image: int = 0  #: of a run of several

    @property
    def kernel(self) -> tuple[int, int]:
        return self.values.shape[2:]

    def parts(self, k: int) -> "list[Part]":
        """Rows that read the same words of ``k`` channels, together."""
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


@dataclasses.dataclass(frozen=True)
class Pool:
    """Maximum or sum over a window, requantised by one M, B, S."""

    name: str
    source: str
    target: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    total: bool
    multiplier: int
    bias: int
    shift: int
    low: int
    high: int
    wide: bool = False
    residual: str | None = None
    image: int = 0


@dataclasses.dataclass(frozen=True)
class Spill:
    """A tensor leaves the activation buffer for memory, until a :class:`Reload`."""

    source: str
    target: None = None
    residual: None = None
    wide: bool = False


@dataclasses.dataclass(frozen=True)
class Reload:
    """The tensor ``spilled`` comes back from memory, as ``target``."""

    spilled: str
    target: str
    source: None = None
    residual: None = None
    wide: bool = False


Operation = Gemm | Pool | Spill | Reload


def operands(operation: Operation) -> list[str]:
    """The tensors that an operation reads from the activation buffer."""
    return [name for name in (operation.source, operation.residual) if name]
