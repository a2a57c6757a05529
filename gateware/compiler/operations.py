# SPDX-License-Identifier: Apache-2.0
"""What the compiler makes of a graph: operations of the tile engine, and moves between them."""

import dataclasses

import numpy as np


class CompileError(ValueError):
    """A graph that this accelerator cannot run; the message names the layer and the reason."""


@dataclasses.dataclass(frozen=True)
class Gemm:
    """A convolution; a linear layer is one whose kernel is its whole input.

    values : int64 (rows, channels, kernel_y, kernel_x)
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

    @property
    def kernel(self) -> tuple[int, int]:
        return self.values.shape[2:]


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
