# SPDX-License-Identifier: Apache-2.0
"""Border of the image: padding with a code of each channel's own instead of black."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import numerics


class BorderPad(nn.Module):
    """Padding of an image by ``codes``, one for each channel, of 8-bit pixels in 0..1.

    Parameters
    ----------
    padding : pixels left, right, above and below, as :class:`torch.nn.ZeroPad2d` has them
    codes : 0..255
    """

    def __init__(self, padding: tuple[int, int, int, int], codes: Sequence[int]) -> None:
        super().__init__()
        self.padding, self.codes = padding, tuple(codes)
        values = torch.tensor(self.codes, dtype=torch.float64) * numerics.IMAGE_SCALE
        self.register_buffer("values", values.float()[:, None, None], persistent=False)

    def extra_repr(self) -> str:
        """Padding and codes, for the module's text."""
        return f"{self.padding}, codes={self.codes}"

    def forward(self, x: Tensor) -> Tensor:
        """Padded images (N, C, H', W') of ``x`` (N, C, H, W)."""
        values = self.get_buffer("values").to(x.dtype)
        outside = 1 - F.pad(torch.ones_like(x[:1, :1]), self.padding)
        return F.pad(x, self.padding) + values * outside
