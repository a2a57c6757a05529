# SPDX-License-Identifier: Apache-2.0
"""Product of two tensors of codes, such as a map and a factor for each of its channels."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ir import numerics
from quant.nn.activations import ActQuantiser, QuantAvgPool
from quant.nn.elementwise import Elementwise, look_up

Grid = ActQuantiser | QuantAvgPool


class ProductQuantiser(ActQuantiser):
    """Quantiser of the product of two tensors, or of a function of it.

    The product of two codes is exact; 8 bits of it, from bit ``shift`` on, are looked up in a table
    that brings them to this grid. So they have a scale of ``2^shift`` times those of both operands,
    and the operands keep theirs.

    Parameters
    ----------
    grids : of the operands: first of the map, then of the factor; None is the image's
    bits : 4 or 8, of the codes that come out
    signed : whether the product, or the function of it, may be negative
    function : of the product
    """

    def __init__(
        self,
        grids: tuple[Grid | None, Grid | None],
        bits: int,
        *,
        signed: bool,
        function: Elementwise | None = None,
    ) -> None:
        super().__init__(bits, signed=signed)
        self.grids = grids  # in a tuple: they are no children of this module
        self.function = function or nn.Identity()
        self.shift, self.middle = numerics.PRODUCT_SHIFT_MIN, 0

    def get_extra_state(self) -> Tensor:
        """Zero point, shift and zero point of the product, for a state dict."""
        return torch.tensor([self.zero_point, self.shift, self.middle])

    def set_extra_state(self, state: Tensor) -> None:
        """Update of what :meth:`get_extra_state` gives."""
        self.zero_point, self.shift, self.middle = state.tolist()

    @property
    def product_scale(self) -> float:
        """Step of the 8-bit product, a real number."""
        return math.prod(_scale(grid) for grid in self.grids) * 2.0**self.shift

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Values of ``x`` times the first of ``others`` on the grid, in the shape of ``x``; the
        rest are parameters of the function."""
        factor, *parameters = others
        product = x * factor
        if self.observe:
            self._observe_product(product)
        elif self.quantise:
            product = self._rounded(x, factor, product)
        return super().forward(self.function(product, *parameters))

    @torch.no_grad()
    def _observe_product(self, product: Tensor) -> None:
        """Shift and zero point with which all products of ``product`` have a code, if one can."""
        unit = math.prod(_scale(grid) for grid in self.grids)
        least, most = (v.item() / unit for v in product.aminmax())
        least, most = min(least, 0), max(most, 0)
        codes = numerics.act_max(numerics.TABLE_BITS)
        shift = math.ceil(math.log2(max((most - least) / codes, 1)))
        low, high = numerics.PRODUCT_SHIFT_MIN, numerics.PRODUCT_SHIFT_MAX
        self.shift = min(max(shift, low), high)
        self.middle = min(math.ceil(-least / 2**self.shift), codes)

    def _rounded(self, x: Tensor, factor: Tensor, product: Tensor) -> Tensor:
        """8-bit product; its gradient is the product's where no code is clamped."""
        codes = [
            torch.round(value.detach().float() / _scale(grid))
            for value, grid in zip((x, factor), self.grids, strict=True)
        ]
        steps = torch.floor(codes[0] * codes[1] / 2**self.shift + 0.5)
        low, high = -self.middle, numerics.act_max(numerics.TABLE_BITS) - self.middle
        scale = self.product_scale
        inside = product.clamp(low * scale, high * scale)
        return inside + (steps.clamp(low, high) * scale - inside).detach()

    def table(self, parameters: Sequence[Tensor]) -> np.ndarray:
        """Code for each of the 256 products, uint8 (256,)."""
        return look_up(self, self.function, self.product_scale, self.middle, parameters)


def _scale(grid: Grid | None) -> float:
    return numerics.IMAGE_SCALE if grid is None else grid.scale.item()
