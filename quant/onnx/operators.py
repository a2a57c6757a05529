# SPDX-License-Identifier: Apache-2.0
"""ONNX graph under construction: operators with the name of the layer that they are part of."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Operators:
    """Operators and constants, each named ``layer/Operator`` as in PyTorch's exporter.

    Parameters
    ----------
    taken : names of tensors that no operator may give to a value of its own
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self.layer = ""  #: name that the next operators begin with
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._taken = set(taken)

    def add(self, operator: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Name of the result of a new operator, whose ``inputs`` are names or constants."""
        name = self._free(operator)
        names = [
            self._constant(f"{name}/{i}", value) if isinstance(value, np.ndarray) else value
            for i, value in enumerate(inputs)
        ]
        self.nodes.append(helper.make_node(operator, names, [name], name=name, **attributes))
        return name

    def call_result(self, value: str, name: str) -> None:
        """Change of the name of ``value``, the last operator's result or another's, to ``name``."""
        if not self.nodes or self.nodes[-1].output[0] != value:
            self.add("Identity", value)
        self.nodes[-1].output[0] = name

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def _free(self, operator: str) -> str:
        name, count = f"{self.layer}/{operator}", 1
        while name in self._taken:
            name, count = f"{self.layer}/{operator}_{count}", count + 1
        self._taken.add(name)
        return name
