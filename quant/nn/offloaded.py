# SPDX-License-Identifier: Apache-2.0
"""Linear layers between two stays on the host: they read codes, and give real numbers.

The accelerator gives the wide ``t = acc*M + B`` of such a layer, which the host divides by ``2^S``.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import numerics
from ir.arrays import ExportError
from quant.nn.activations import ActQuantiser
from quant.nn.layers import QuantLinear
from quant.nn.quantizers import act_to_steps, denominators


class Requantisation(NamedTuple):
    """M, B and S of each row, int64 (O,); B is for codes less their zero point."""

    multiplier: np.ndarray
    bias: np.ndarray
    shift: np.ndarray


class OffloadedLinear(QuantLinear):
    """Linear layer of a network whose other operations stay on the host.

    In training it is a :class:`~quant.nn.layers.QuantLinear`. In evaluation it gives what the host
    gets from the accelerator, to the bit: exact sums of codes, times the integer multipliers,
    rounded to float32 once. A transformer does not forgive less: where sums differ by a fraction d
    of a code's step, a share d of the codes is another one, an error of sqrt(d) steps for the next
    layer. Plain float32 decided up to 4 of 1,056 sentences differently than the integers.
    """

    name: str  #: in the model
    last: bool  #: whether it gives the graph's output
    _source: list[ActQuantiser]

    @classmethod
    def from_linear(cls, layer: nn.Linear, name: str, source: ActQuantiser, last: bool) -> Self:
        """Copy of a float ``layer`` that reads the codes of ``source``.

        The rows of the ``last`` one share one S, as a graph's output must.
        """
        offloaded = cls.from_float(layer)
        offloaded.name = name
        offloaded._source = [source]  # in a list: it is no child of this module
        offloaded.last = last
        return offloaded

    @property
    def source(self) -> ActQuantiser:
        """Quantiser of the codes that it reads."""
        return self._source[0]

    def forward(self, input: Tensor) -> Tensor:
        """Sums as of a QuantLinear in training; in evaluation the accelerator's result."""
        if self.training or not self.quantise:
            return super().forward(input)
        exact = self._from_accelerator(input)
        if not torch.is_grad_enabled():
            return exact
        slope = super().forward(input)
        return exact + (slope - slope.detach())  # adds zero, and the gradient

    @torch.no_grad()
    def _from_accelerator(self, x: Tensor) -> Tensor:
        m, b, s = self.requantisation()
        scale, offset = (torch.from_numpy(np.ldexp(v, -s)).to(x.device) for v in (m, b))
        codes = act_to_steps(x, self.source.scale, self.source.low, self.source.high)
        with torch.autocast(x.device.type, enabled=False):
            total = F.linear(codes, self.to_int().float())  # exact, see numerics.ACC_BITS
        return total.double().mul_(scale).add_(offset).to(x.dtype)  # 48 bits: exact

    def factors(self) -> Tensor:
        """Real value of each row's unit of the accumulator, float64 (O,)."""
        alpha = self.alpha.detach().double() / denominators(self.scheme)
        return alpha * self.source.scale.detach().double()

    def requantisation(self) -> Requantisation:
        """M, B and S of all rows.

        Raises :class:`~ir.arrays.ExportError` for a row that M cannot express.
        """
        factors = self.factors().tolist()
        try:
            rows = [numerics.encode_multiplier(f) for f in factors]
        except ValueError as error:
            raise ExportError(f"layer {self.name!r}: {error}") from error
        if self.last:
            least = min(shift for _, shift in rows)
            rows = [(numerics.round_scaled(f, least), least) for f in factors]
        bias = [0.0] * len(rows) if self.bias is None else self.bias.tolist()
        return Requantisation(
            *map(
                np.array,
                zip(
                    *(
                        (m, numerics.round_scaled(b, s), s)
                        for (m, s), b in zip(rows, bias, strict=True)
                    ),
                    strict=True,
                ),
            )
        )
