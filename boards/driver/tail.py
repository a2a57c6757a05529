# SPDX-License-Identifier: Apache-2.0
"""Functions at the very end of a network, which the host computes: ``ir/tail.py`` for boards."""

import math
from typing import Any, Callable, Dict, Sequence

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


#: By name: ``f(x, *arguments)`` for float64 arrays with the batch first; an axis counts from the
#: end, and is negative.
FUNCTIONS: Dict[str, Callable[..., np.ndarray]] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "argmax": lambda x, axis: x.argmax(axis),
    "sigmoid": _sigmoid,
    "log_sigmoid": lambda x: -np.logaddexp(0, -x),
    "tanh": np.tanh,
    "exp": np.exp,
    "softplus": lambda x, beta: np.logaddexp(0, beta * x) / beta,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "leaky_relu": lambda x, slope: np.where(x < 0, slope * x, x),
    "elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
    "maximum": np.maximum,
    "minimum": np.minimum,
    "add": lambda x, value: x + value,
    "multiply": lambda x, value: x * value,
    "reshape": lambda x, *shape: x.reshape(len(x), *shape),
    "permute": lambda x, *axes: x.transpose(0, *(axis + x.ndim for axis in axes)),
}


def apply(functions: Sequence[Dict[str, Any]], values: np.ndarray) -> np.ndarray:
    """Values after functions, each a ``name`` and ``arguments``, of ``values`` float (N, ...).

    They are float32, or int64 of an argmax.
    """
    values = values.astype(np.float64)
    for function in functions:
        values = FUNCTIONS[function["name"]](values, *function["arguments"])
    return values if values.dtype == np.int64 else values.astype(np.float32)
