# SPDX-License-Identifier: Apache-2.0
"""Modules that put activations on the grid of an unsigned integer."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import numerics
from quant.nn import quantizers
from quant.nn.scales import MIN_SCALE, ClampedScales
from quant.nn.windows import window_means, windows_of

MAX_RESIDUAL = 3.99  #: steps of a sum per step of its residual operand; n / 2^14 is less than 4
SAMPLES = 10_000  #: values of each quantiser that decide a zero point or a common grid


class ActQuantiser(ClampedScales):
    """Quantiser of activations: the grid of an unsigned integer with a learned clip.

    Parameters
    ----------
    bits : 4 or 8
    signed : values of both signs, stored with a zero point. Otherwise negative values become 0,
        which makes the module a ReLU.
    limit : largest value that comes out, as of a ReLU6; None for no limit

    ``quantise`` switches rounding and clip; off, it is a ReLU, a clamp or nothing. ``observe``
    makes the next forward set clip and zero point from the data and pass it unquantised. ``tie``
    is what makes the grid a common one of several quantisers.
    """

    #: Grid of the codes that are added to the sums that it takes, None for an image's: one or
    #: none, in a list, because it is no child of this module.
    residual: "Sequence[ActQuantiser | QuantAvgPool | None]" = ()

    def __init__(self, bits: int, signed: bool = False, limit: float | None = None) -> None:
        super().__init__()
        self.bits, self.signed, self.limit = bits, signed, limit
        self.quantise, self.observe = True, False
        self.tie: Tie | None = None
        self.zero_point = 1 << (bits - 1) if signed else 0
        self.clip = nn.Parameter(
            torch.ones((), dtype=torch.float32)
        )  #: real value of the largest code

    def extra_repr(self) -> str:
        """Bits, zero point and limit, for the module's text."""
        limit = "" if self.limit is None else f", limit={self.limit:g}"
        return f"bits={self.bits}, zero_point={self.zero_point}{limit}"

    def widen(self) -> None:
        """Change to 8 bits; calibrate afterwards."""
        if self.tie is not None:
            self.tie.widen()
            return
        self.bits = 8
        self.zero_point = 128 if self.signed else 0

    def get_extra_state(self) -> Tensor:
        """Zero point, for a state dict."""
        return torch.tensor(self.zero_point)

    def set_extra_state(self, state: Tensor) -> None:
        """Update of the zero point from a state dict."""
        self.zero_point = int(state)

    @property
    def requantised(self) -> "ActQuantiser":
        """Grid that sums are requantised to: this one, unless a table follows."""
        return self

    @property
    def low(self) -> int:
        """Smallest code that comes out, less the zero point."""
        return -self.zero_point if self.signed else 0

    @property
    def high(self) -> int:
        """Largest code of the grid less the zero point."""
        return numerics.act_max(self.bits) - self.zero_point

    @property
    def codes(self) -> tuple[int, int]:
        """Least and largest code that come out."""
        if self.tie is None or self.limit is None:
            return self.zero_point + self.low, numerics.act_max(self.bits)
        limit = torch.tensor(self.limit, device=self.clip.device)
        return self.zero_point + self.low, int(self.to_int(limit))

    @property
    def scale(self) -> Tensor:
        """Step of the grid, a float32 scalar."""
        return self.clip / self.high

    def forward(self, x: Tensor) -> Tensor:
        """Values on the grid, in the shape and type of ``x``; observing, ``x`` after its clamp."""
        if self.observe and self.tie is None:
            self._observe(x)
        if self.observe or not self.quantise:
            x = x if self.signed else F.relu(x)
            x = x if self.limit is None else x.clamp_max(self.limit)
            if self.observe and self.tie is not None:
                self.tie.observe(self, x)
            return x
        if self.tie is not None and self.limit is not None:
            x = x.clamp_max(self.limit)
        return quantizers.fake_quantise_act(x, self.clip, self.low, self.high)

    def _observe(self, x: Tensor) -> None:
        if self.signed:
            self.zero_point = _best_zero_point(x, self.bits)
        self.clip.data.copy_(quantizers.best_clip(x, self.low, self.high, MIN_SCALE))
        self.clamp_scales_()

    @torch.no_grad()
    def clamp_scales_(self) -> None:
        """Clamp of ``clip`` to MIN_SCALE and ``limit``, in place.

        A step of a residual operand is at most MAX_RESIDUAL steps of this grid, whatever the limit.
        """
        self.clip.clamp_(MIN_SCALE, self.limit if self.tie is None else self.tie.limit)
        for grid in self.residual:
            scale = self.scale.new_tensor(numerics.IMAGE_SCALE) if grid is None else grid.scale
            self.clip.clamp_(min=scale / MAX_RESIDUAL * self.high)

    def to_int(self, x: Tensor) -> Tensor:
        """Stored integers of ``x``, int64 in its shape, 0 to 15 or 255."""
        steps = quantizers.act_to_steps(x, self.scale, self.low, self.high)
        return steps.to(torch.int64) + self.zero_point


class Tie:
    """Quantisers with one grid: the members share the parameter ``clip``, and all else is equal.

    A member without sign still gives no value below 0, one with a limit none above.

    Parameters
    ----------
    members : at least one; of different bits, all take the fewest
    """

    def __init__(self, *members: ActQuantiser) -> None:
        self.members: list[ActQuantiser] = []
        self._seen: dict[int, Tensor] = {}
        for member in members:
            others = [member] if member.tie is None else member.tie.members
            self.members += [other for other in others if other not in self.members]
        bits = min(member.bits for member in self.members)
        for member in self.members:
            member.tie, member.clip = self, self.members[0].clip
            member.bits = bits
        self._set_zero_point(1 << bits - 1 if self._signed else 0)

    @property
    def limit(self) -> float | None:
        """Largest value of any member; None where one has no limit."""
        limits = [member.limit for member in self.members]
        return None if None in limits else max(limit for limit in limits if limit is not None)

    @property
    def _signed(self) -> bool:
        return any(member.signed for member in self.members)

    def _set_zero_point(self, zero_point: int) -> None:
        for member in self.members:
            member.zero_point = zero_point

    def widen(self) -> None:
        """Change to 8 bits."""
        for member in self.members:
            member.bits = 8
        self._set_zero_point(128 if self._signed else 0)

    @torch.no_grad()
    def observe(self, member: ActQuantiser, x: Tensor) -> None:
        """Common grid of all values that the members have had, with ``x`` as the newest of one."""
        self._seen[self.members.index(member)] = quantizers.sample(x, SAMPLES).float()
        values, first = torch.cat(list(self._seen.values())), self.members[0]
        if len(self._seen) == len(self.members):
            self._seen = {}
        if self._signed:
            self._set_zero_point(_best_zero_point(values, first.bits))
        high = first.high
        clip = quantizers.best_clip(values, -first.zero_point, high, MIN_SCALE)
        first.clip.data.copy_(clip)
        first.clamp_scales_()


@torch.no_grad()
def _best_zero_point(x: Tensor, bits: int) -> int:
    """The one of 15 zero points with the least squared error: GELU's output is lopsided."""
    x = quantizers.sample(x, SAMPLES)
    best, least = 0, torch.inf
    for zero_point in range(1 << bits - 4, 1 << bits, 1 << bits - 4):
        low, high = -zero_point, numerics.act_max(bits) - zero_point
        clip = quantizers.best_clip(x, low, high, MIN_SCALE)
        error = quantizers.fake_quantise_act(x, clip, low, high).sub_(x).square_().mean().item()
        if error < least:
            best, least = zero_point, error
    return best


class Regrid(ActQuantiser):
    """Quantiser of codes that lie on another grid already: they are rounded a second time.

    For tensors whose grid cannot be chosen, the image and fine averages, where they meet others.
    """


class QuantAvgPool(nn.Module):
    """Average as an unsigned integer: the sum of the input's codes where it fits, else its most.

    A window of ``n`` codes of ``source`` has ``n`` times as fine a mean. ``bits`` decides how much
    of that is kept: 8 for a pool in front of a classifier, the source's own bits to stay on the
    source's grid.

    Parameters
    ----------
    source : the :class:`ActQuantiser` or :class:`QuantAvgPool` whose codes it reads, None for an
        image's
    pool : the float module
    size : rows and columns of the input
    bits : 4 or 8, of the output
    most : largest code of the output, where that is less than the bits allow: 2,048 channels of 8
        bits would overflow the accumulator of the classifier behind them
    """

    def __init__(
        self,
        *,
        source: "ActQuantiser | QuantAvgPool | None",
        pool: nn.AvgPool2d | nn.AdaptiveAvgPool2d,
        size: tuple[int, int],
        bits: int,
        most: int = numerics.act_max(8),
    ) -> None:
        super().__init__()
        self.pool = pool
        self.rows, self.columns = windows_of(pool, size)
        self._source = [source]  # in a list: it is no child of this module
        self.bits, self.most = bits, most

    def extra_repr(self) -> str:
        """Bits, for the module's text."""
        return f"bits={self.bits}"

    @property
    def source(self) -> "ActQuantiser | QuantAvgPool | None":
        """Quantiser or pool whose codes it reads; None for an image."""
        return self._source[0]

    @property
    def steps(self) -> int:
        """Codes of the output per code of the input."""
        area = max(w.count for w in self.rows) * max(w.count for w in self.columns)
        most = min(self.most, numerics.act_max(self.bits))
        return max(1, min(area, most // numerics.act_max(self._source_bits)))

    @property
    def keeps_grid(self) -> bool:
        """True if the output lies on the grid of the source."""
        return self.steps == 1 and self._gain == 1

    @property
    def high(self) -> int:
        """Largest code of the output."""
        return min(self.steps * numerics.act_max(self._source_bits), numerics.act_max(self.bits))

    @property
    def _source_bits(self) -> int:
        return 8 if self.source is None else self.source.bits

    @property
    def _source_scale(self) -> Tensor:
        return torch.tensor(numerics.IMAGE_SCALE) if self.source is None else self.source.scale

    @property
    def _gain(self) -> float:
        """What a mean is multiplied with, where the divisor is not the window."""
        divisor = getattr(self.pool, "divisor_override", None)
        return 1.0 if divisor is None else self.rows[0].count * self.columns[0].count / divisor

    def widen(self) -> None:
        """Change to 8 bits."""
        self.bits = 8

    @property
    def zero_point(self) -> int:
        """Code of the real value 0."""
        return 0 if self.source is None else self.source.zero_point * self.steps

    @property
    def quantise(self) -> bool:
        """True if the source rounds, and the pool with it."""
        return self.source is None or self.source.quantise

    @property
    def observe(self) -> bool:
        """True while the source is being calibrated."""
        return self.source is not None and self.source.observe

    @property
    def scale(self) -> Tensor:
        """Step of the output, a float32 scalar."""
        return self._source_scale * self._gain / self.steps

    def forward(self, input: Tensor) -> Tensor:
        """Means (N, C, H', W'), on the output's grid where the source quantises."""
        mean = self.pool(input)
        if self.observe or not self.quantise:
            return mean
        # In codes, where sums are exact: half of a step is common in a mean of few of them.
        zero = 0 if self.source is None else self.source.zero_point
        scale = self._source_scale.detach().to(input)
        codes = torch.round(input.detach() / scale).to(torch.int64) + zero
        means = window_means(codes, self.rows, self.columns, zero, self.steps, self.high)
        quantised = (means - self.zero_point).to(input.dtype) * self.scale.detach().to(input)
        return mean + (quantised - mean).detach()
