# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions of one tensor, and their lookup in a table of 256 codes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from ir import numerics
from quant.nn import quantizers
from quant.nn.activations import ActQuantiser
from quant.nn.scales import MIN_SCALE

SAMPLES = 10_000  #: values of a sum that its grid is chosen by
SHRINK = np.geomspace(
    1, 1 / 16, 17
).tolist()  #: steps tried, as parts of one that holds every value


@dataclasses.dataclass(frozen=True)
class Ref:
    """Reference to a value of an :class:`Elementwise`: its arguments, then the results of its
    steps."""

    index: int


@dataclasses.dataclass(frozen=True)
class Step:
    """Call of an ATen operation.

    Parameters
    ----------
    operation : such as ``"silu.default"``
    args, options : with a :class:`Ref` where a value is
    """

    operation: str
    args: tuple[Any, ...]
    options: dict[str, Any]


class Elementwise(nn.Module):
    """Function of one tensor, element by element, as a sequence of ATen operations.

    Parameters
    ----------
    steps : the last one gives the result
    parameters : how many tensors of one element it takes beside ``x``
    """

    def __init__(self, steps: Sequence[Step], parameters: int = 0) -> None:
        super().__init__()
        self.steps, self.parameter_count = tuple(steps), parameters

    def extra_repr(self) -> str:
        """Names of the operations, for the module's text."""
        return ", ".join(step.operation.partition(".")[0] for step in self.steps)

    def forward(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """Values of the function, in the shape of ``x``."""
        values: list[Any] = [x, *parameters]

        def value(given: Any) -> Any:
            return values[given.index] if isinstance(given, Ref) else given

        for step in self.steps:
            name, _, overload = step.operation.partition(".")
            function = getattr(getattr(torch.ops.aten, name), overload)
            # Pyright knows the result of map_aggregate as an argument of a node.
            args: Any = map_aggregate(step.args, value)
            options: Any = map_aggregate(step.options, value)
            values.append(function(*args, **options))
        return values[-1]

    @torch.no_grad()
    def never_negative(self) -> bool:
        """True if no value of the function is below 0; False where parameters decide that."""
        if self.parameter_count:
            return False
        values = self(torch.linspace(-64, 64, 4097).view(-1, 1, 1, 1))
        return not bool((values < 0).any())


def clamp_function(most: float | None) -> Elementwise:
    """ReLU, with a largest value or none."""
    if most is None:
        return Elementwise([Step("relu.default", (Ref(0),), {})])
    return Elementwise([Step("clamp.default", (Ref(0), 0.0, most), {})])


class TableQuantiser(ActQuantiser):
    """Quantiser of an elementwise function, which the accelerator looks up in a table.

    What is rounded twice is what the hardware has: the function's argument, as a code of
    ``arguments`` or as codes that it reads already, and its value.

    Parameters
    ----------
    function : of the real argument
    bits : 4 or 8, of the codes that come out
    of_sums : whether it takes sums, which the 8-bit grid ``arguments`` rounds first, rather than
        codes
    """

    def __init__(self, function: Elementwise, bits: int, *, of_sums: bool) -> None:
        super().__init__(bits, signed=not function.never_negative())
        self.function = function
        self.arguments = ActQuantiser(numerics.TABLE_BITS, signed=True) if of_sums else None

    @property
    def requantised(self) -> ActQuantiser:
        """Grid of the sums; raises TypeError where it takes codes."""
        if self.arguments is None:
            raise TypeError("a function of codes takes no sums")
        return self.arguments

    def forward(self, x: Tensor, *parameters: Tensor) -> Tensor:
        """Values of the function on the grid, in the shape of ``x``."""
        if self.arguments is not None:
            if self.observe:
                sample = quantizers.sample(x, SAMPLES).view(-1, 1, 1, 1)
                _choose_grid(self.arguments, sample, self.function, *parameters)
            else:
                x = self.arguments(x)
        return super().forward(self.function(x, *parameters))

    def _observe(self, x: Tensor) -> None:
        if self.signed:
            _choose_grid(self, quantizers.sample(x, SAMPLES), nn.Identity())
        else:
            super()._observe(x)

    def table(self, scale: float, zero_point: int, parameters: Sequence[Tensor]) -> np.ndarray:
        """Code of the value for each code of 0..255 of the argument, as :func:`look_up` has it."""
        return look_up(self, self.function, scale, zero_point, parameters)


@torch.no_grad()
def look_up(
    grid: ActQuantiser,
    function: nn.Module,
    scale: float,
    zero_point: int,
    parameters: Sequence[Tensor],
) -> np.ndarray:
    """Code on ``grid`` of the function of each code of 0..255, uint8 (256,).

    The argument of code ``a`` is ``scale * (a - zero_point)``. Where the function has no value it
    counts as 0.
    """
    steps = torch.arange(numerics.TABLE_SIZE, device=grid.clip.device) - zero_point
    x = steps.float().view(-1, 1, 1, 1) * torch.tensor(scale, device=grid.clip.device)
    values = function(x, *parameters).nan_to_num(0, torch.inf, -torch.inf)
    return grid.to_int(values).flatten().cpu().numpy().astype(np.uint8)


@torch.no_grad()
def _choose_grid(grid: ActQuantiser, x: Tensor, function: nn.Module, *parameters: Tensor) -> None:
    """Zero point and clip of ``grid`` with the least squared error of ``function`` of ``x``."""
    wanted, best = function(x, *parameters), torch.inf
    most, least, codes = x.max().item(), x.min().item(), numerics.act_max(grid.bits)
    for zero_point in range(1 << grid.bits - 4, codes, 1 << grid.bits - 4):
        low, high = -zero_point, codes - zero_point
        whole = max(most / high, least / low, MIN_SCALE / high)
        for step in (whole * part for part in SHRINK):
            rounded = quantizers.act_to_steps(x, torch.tensor(step), low, high).mul_(step)
            error = function(rounded, *parameters).sub(wanted).square_().mean().item()
            if error < best:
                best, grid.zero_point = error, zero_point
                grid.clip.fill_(step * high)
    grid.clamp_scales_()
