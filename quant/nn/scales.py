# SPDX-License-Identifier: Apache-2.0
"""Scales that stay in their useful range, whatever loop trains them.

A step of an optimiser may leave a scale negative, or so small or large that all values are clipped
or rounded to zero; the gradient then shows no way back. After every step of any
:class:`torch.optim.Optimizer` a hook clamps the scales of the modules that it trains.
"""

import weakref
from typing import Any, Self

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

#: Scales are kept at or above this.
MIN_SCALE = 1e-6


class ClampedScales(nn.Module):
    """Base of a module with scales, which are clamped after each step of its optimiser.

    Copies, and modules that come out of a file, are clamped like the original. An optimiser counts
    as the module's where it holds one of the module's own parameters.
    """

    def __new__(cls, *_args: Any, **_options: Any) -> Self:
        # Copying and unpickling come by here too, unlike by __init__.
        module = super().__new__(cls)
        _modules.add(module)
        return module

    def clamp_scales_(self) -> None:
        """Clamp of the scales, in place, to the nearest useful values.

        A second call changes nothing.
        """
        raise NotImplementedError


_modules: "weakref.WeakSet[ClampedScales]" = weakref.WeakSet()


def clamp_scales_(model: nn.Module) -> None:
    """Clamp of the scales of all modules of ``model``, in place, as every optimiser step does."""
    for module in model.modules():
        if isinstance(module, ClampedScales):
            module.clamp_scales_()


def _after_step(optimiser: Optimizer, _args: tuple[Any, ...], _options: dict[str, Any]) -> None:
    held = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    for module in list(_modules):
        own = module.__dict__.get("_parameters", {})  # none while another thread builds it
        if not held.isdisjoint(map(id, own.values())):
            module.clamp_scales_()


register_optimizer_step_post_hook(_after_step)
