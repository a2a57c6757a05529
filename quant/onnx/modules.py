# SPDX-License-Identifier: Apache-2.0
"""Modules for ONNX operators that torch.nn has none of, so that each has the name of its node."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Call(nn.Module):
    """Function of the inputs, with further arguments behind them."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.function, self.arguments, self.options = function, arguments, options

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *self.arguments, **self.options)

    def extra_repr(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__name__", str(self.function))


class Constant(nn.Module):
    """Function of the input and of a constant, which comes first where ``first`` says so."""

    value: Tensor

    def __init__(
        self, function: Callable[..., Tensor], value: Tensor, *, first: bool = False
    ) -> None:
        super().__init__()
        self.function, self.first = function, first
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        value = self.value.item() if self.value.dim() == 0 else self.value
        return self.function(value, x) if self.first else self.function(x, value)


class Reshape(nn.Module):
    """Change of the shape behind the batch, (N, ...) to (N, *shape)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)


class Expand(Reshape):
    """Repetition of values along sides of 1, (N, ...) to (N, *shape)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(x.shape[0], *self.shape)


class Channels(nn.Module):
    """Channels, or places of another dimension, in the order of ``numbers``."""

    numbers: Tensor

    def __init__(self, numbers: list[int], dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("numbers", torch.tensor(numbers))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(self.dim, self.numbers)


class HardSigmoid(nn.Module):
    """Function ``clamp(slope * x + offset, 0, 1)``."""

    def __init__(self, slope: float, offset: float) -> None:
        super().__init__()
        self.slope, self.offset = slope, offset

    def forward(self, x: Tensor) -> Tensor:
        return (self.slope * x + self.offset).clamp(0, 1)
