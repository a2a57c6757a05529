# SPDX-License-Identifier: Apache-2.0
"""Ratio of the three schemes, and the row counts that follow from it for training and hardware."""

import dataclasses

from ir.numerics import Scheme

FORM = "PoT4:Fixed4:Fixed8 such as 65:30:5"


def largest_remainder(total: int, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Parts of ``total`` in proportion to ``weights``, which sum to ``total`` exactly.

    Each part is its quota rounded down or up. Of equal remainders the later weight, which is the
    more precise scheme, is served first.
    """
    scale = sum(weights)
    parts = [total * w // scale for w in weights]
    order = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % scale), -i))
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return tuple(parts)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """PoT-W4A4 : Fixed-W4A4 : Fixed-W8A4 in percent, the same for all layers (paper, section 3.3).

    Raises ValueError when a share is negative or the shares do not sum to 100.
    """

    pot4: int
    fixed4: int
    fixed8: int

    def __post_init__(self) -> None:
        if min(self.shares) < 0:
            raise ValueError(f"ratio {self} has a negative share; use {FORM}")
        if sum(self.shares) != 100:
            raise ValueError(f"ratio {self} sums to {sum(self.shares)}, not 100; use {FORM}")

    @property
    def shares(self) -> tuple[int, int, int]:
        """Percent of PoT-4, Fixed-4 and Fixed-8."""
        return (self.pot4, self.fixed4, self.fixed8)

    def __str__(self) -> str:
        return ":".join(str(s) for s in self.shares)

    @classmethod
    def parse(cls, text: str) -> "Ratio":
        """Ratio in a text such as ``"65:30:5"``; raises ValueError with the expected form."""
        try:
            shares = [int(part) for part in text.split(":")]
        except (AttributeError, ValueError):
            shares = []
        if len(shares) != len(Scheme):
            raise ValueError(f"ratio {text!r} is not of the form {FORM}")
        return cls(*shares)

    def lanes(self, tile_rows: int) -> tuple[int, int, int]:
        """Rows of each scheme in one row tile: ``lanes(64) == (42, 19, 3)`` at 65:30:5."""
        pot4, fixed4, fixed8 = largest_remainder(tile_rows, self.shares)
        return pot4, fixed4, fixed8

    def rows(self, n_rows: int, tile_rows: int) -> tuple[int, int, int]:
        """Rows of each scheme in a layer of ``n_rows``, so that its row tiles are filled.

        Whole tiles carry ``lanes(tile_rows)`` each; a last partial tile is split in proportion to
        the lanes, and therefore always fits one tile.
        """
        lanes = self.lanes(tile_rows)
        whole, rest = divmod(n_rows, tile_rows)
        parts = largest_remainder(rest, lanes)
        pot4, fixed4, fixed8 = (whole * n + part for n, part in zip(lanes, parts, strict=True))
        return pot4, fixed4, fixed8
