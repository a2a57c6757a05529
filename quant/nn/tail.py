# SPDX-License-Identifier: Apache-2.0
"""Functions at the end of a network, which the host computes: :mod:`ir.tail` in torch."""

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir.nodes import HostFunction

#: By the names of :data:`ir.tail.FUNCTIONS`, with the same arguments.
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "softmax": torch.softmax,
    "log_softmax": torch.log_softmax,
    "argmax": torch.argmax,
    "sigmoid": torch.sigmoid,
    "log_sigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "maximum": torch.clamp_min,
    "minimum": torch.clamp_max,
    "add": torch.add,
    "multiply": torch.mul,
    "reshape": lambda x, *shape: x.reshape(-1, *shape),
    "permute": lambda x, *axes: x.permute(0, *(axis + x.dim() for axis in axes)),
}


class Tail(nn.Module):
    """Functions that the host computes in floating point, one after the other.

    ``enabled`` off, the module gives its input as it is: logits instead of probabilities.
    """

    def __init__(self, functions: tuple[HostFunction, ...]) -> None:
        super().__init__()
        self.functions, self.enabled = functions, True

    def extra_repr(self) -> str:
        """Names of the functions and their arguments, for the module's text."""
        return ", ".join(f"{f.name}{list(f.arguments) or ''}" for f in self.functions)

    def forward(self, x: Tensor) -> Tensor:
        """Values of the functions, for ``x`` (N, ...)."""
        for function in self.functions if self.enabled else ():
            x = FUNCTIONS[function.name](x, *function.arguments)
        return x


@contextlib.contextmanager
def without_tails(model: nn.Module) -> Iterator[None]:
    """Context in which ``model`` gives what the accelerator computes, before its tails."""
    tails = [m for m in model.modules() if isinstance(m, Tail)]
    for tail in tails:
        tail.enabled = False
    try:
        yield
    finally:
        for tail in tails:
            tail.enabled = True
