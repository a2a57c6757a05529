# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation mode, module by module."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

LAYERS = (nn.Conv2d, nn.Linear)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context in evaluation mode; afterwards each module has its former mode, frozen ones, too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def frozen_norms(model: nn.Module) -> set[nn.Module]:
    """Batch-norms in evaluation mode although the layers around them are trained."""
    if not any(m.training for m in model.modules() if isinstance(m, LAYERS)):
        return set()
    return {m for m in model.modules() if isinstance(m, _BatchNorm) and not m.training}


def train(model: nn.Module) -> None:
    """Change of all modules to training mode, but for batch-norms that the user has frozen."""
    frozen = frozen_norms(model)
    model.train()
    for norm in frozen:
        norm.eval()
