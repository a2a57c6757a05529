# SPDX-License-Identifier: Apache-2.0
"""Operators of an ONNX graph, and what conversions of them share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Operator:
    """Operator of an ONNX graph.

    Parameters
    ----------
    kind, name : such as ``Conv``, and the name of its node
    inputs, outputs : names of values; an input that is left out is empty
    attributes : by name, as Python values
    constants : values that are known, of all the graph
    shapes : shapes of values, of all the graph, batch first
    opset : version of the operators
    """

    kind: str
    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    _: dataclasses.KW_ONLY
    attributes: Mapping[str, Any]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """Attribute ``name``."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """True if there is an input of this number."""
        return index < len(self.inputs) and bool(self.inputs[index])

    def constant(self, index: int, attribute: str = "", default: Any = None) -> Any:
        """Value of an input, or of the ``attribute`` that older operators have for it.

        Raises ValueError where it is computed.
        """
        if attribute in self.attributes:
            return self.attributes[attribute]
        if not self.has(index):
            return default
        value = self.constants.get(self.inputs[index])
        if value is None:
            raise ValueError(f"its input {self.inputs[index]!r} is computed, not a constant")
        return value

    def numbers(self, index: int, attribute: str = "") -> list[int] | None:
        """Whole numbers of :meth:`constant`."""
        value = self.constant(index, attribute)
        return None if value is None else [int(n) for n in np.atleast_1d(value)]

    def tensor(self, index: int) -> Tensor:
        """Constant input as float32, or as it is where it has whole numbers."""
        value = np.array(self.constant(index))
        return torch.from_numpy(value.astype(np.float32) if value.dtype.kind == "f" else value)

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """Shape of an input."""
        return self._shape(self.inputs[index])

    def result(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self._shape(self.outputs[0])

    def _shape(self, value: str) -> tuple[int, ...]:
        if value not in self.shapes:
            raise ValueError(f"the shape of {value!r} is not known")
        return self.shapes[value]

    def axis(self, default: int) -> int:
        """Attribute ``axis``, counted from the first dimension."""
        return self.get("axis", default) % len(self.shape())


Converted = tuple[nn.Module, Sequence[str]]
Conversion = Callable[[Operator], Converted]


def unary(make: Callable[[Operator], nn.Module]) -> Conversion:
    """Conversion of what reads its first input alone."""
    return lambda op: (make(op), op.inputs[:1])


def of_rank(name: str, rank: int) -> Any:
    """Class such as ``Conv2d`` for values of ``rank`` dimensions, the batch among them."""
    if rank not in (3, 4):
        raise ValueError(f"it reads values of {rank} dimensions, not images or lines")
    return getattr(nn, f"{name}{rank - 2}d")


def own(module: nn.Module, **tensors: Tensor) -> nn.Module:
    """``module`` with parameters and buffers of these values."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            getattr(module, name).copy_(tensor)
    return module
