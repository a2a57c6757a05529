# SPDX-License-Identifier: Apache-2.0
"""Design space of a device: the arrays that it holds, whatever network runs on them.

Per shape and number of Fixed-8 rows only one split matters: PoT-4 rows cost LUTs and accuracy,
Fixed-4 rows DSP48E1, and neither changes the cycles. So each shape has as many Fixed-4 rows as its
DSPs allow, and then the deepest weight buffer that is left.
"""

import bisect
import dataclasses
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.flow.target import TARGETS
from ir.ratio import Ratio, largest_remainder

LANES = ("pot4_rows", "fixed4_rows", "fixed8_rows")
FIXED8_SHARE = 0.05  #: the paper's share of 8-bit rows

#: Lanes in PoT-4, Fixed-4 and Fixed-8.
Split = tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """Sizes that are tried on devices of one family.

    rows, pixels, requant_lanes, drain_pixels, act_depths, act_copies : in the order in which they
        are tried
    slot_depths : more let weights be fetched further ahead
    weight_step, weight_max : words of the weight buffer; a block RAM of 64 bits holds a step
    shares : of each resource, what an array may take; above 0.8 of the LUTs routing is hard
    """

    rows: tuple[int, ...]
    pixels: tuple[int, ...]
    requant_lanes: tuple[int, ...] = (4, 8, 16)
    drain_pixels: tuple[int, ...] = (1, 2, 4)
    act_depths: tuple[int, ...]
    act_copies: tuple[int, ...] = (2, 1)
    slot_depths: tuple[int, ...]
    weight_step: int = 512
    weight_max: int
    shares: Mapping[str, float]


DOMAINS = {
    "xc7": Domain(
        rows=(8, 16, 24, 32, 40, 48, 64, 80, 96, 128),
        pixels=(2, 4, 8, 16),
        # A nibble column of fewer words takes as many block RAMs.
        act_depths=(4096, 8192),
        slot_depths=(128, 64),
        weight_max=4096,
        shares={"lut": 0.8, "ff": 1.0, "dsp48e1": 1.0, "bram36": 1.0},
    ),
    # Programs and tensors lie in block RAMs, too: no buffer is deeper than it must be.
    "ecp5": Domain(
        rows=(8, 16, 24, 32),
        pixels=(2, 4),
        requant_lanes=(4, 8),
        drain_pixels=(1,),
        act_depths=(1024, 2048),
        slot_depths=(64,),
        weight_max=512,
        shares={"lut4": 0.8, "ff": 1.0, "mult18": 1.0, "ebr": 1.0},
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """Sizes of an array that the user decided; the rest is searched for.

    ratio : of the lanes, instead of any
    rows, pixels : row lanes and pixels to try, instead of those of the family
    sizes : other fields of AccelConfig
    clock_hz : instead of the board's
    """

    ratio: Ratio | None = None
    rows: tuple[int, ...] | None = None
    pixels: tuple[int, ...] | None = None
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    clock_hz: int | None = None


#: Lanes to try for a number of rows: a list for each number of Fixed-8 rows, the first that fits.
Splits = Callable[[int], list[list[Split]]]


def percent(lanes: Split) -> Ratio | None:
    """Ratio in whole percent that gives these lanes, the nearest one; None without one."""
    ratio = Ratio(*largest_remainder(100, lanes))
    return ratio if ratio.lanes(sum(lanes)) == lanes else None


def limits(board: Board) -> dict[str, int]:
    """Largest number of cells that an array may take, by resource of the device."""
    shares = DOMAINS[board.device.family].shares
    return {name: math.floor(limit * shares[name]) for name, limit in board.device.limits.items()}


@functools.lru_cache(maxsize=1 << 14)
def used(family: str, config: AccelConfig) -> Mapping[str, int]:
    """Estimated cells of an array, by resource of the devices of a family."""
    return TARGETS[family].resources(config)


def splits(rows: int) -> list[list[Split]]:
    """Lanes to try, those with more Fixed-4 rows first, for each number of Fixed-8 rows: the
    paper's share rounded both ways, at least one."""
    share = FIXED8_SHARE * rows
    return [
        [
            lanes
            for fixed4 in range(rows - fixed8, -1, -1)
            if percent(lanes := (rows - fixed8 - fixed4, fixed4, fixed8))
        ]
        for fixed8 in sorted({max(1, math.floor(share)), math.ceil(share)})
    ]


def arrays(
    board: Board,
    given: Given,
    refused: Counter,
    *,
    lanes_of: Splits | None = None,
    tables: bool = False,
) -> Iterator[AccelConfig]:
    """The best split of each shape that fits, and why others are not there in ``refused``."""
    device = _Device(board.device.family, limits(board))
    domain = device.domain
    fixed = {**given.sizes, **TARGETS[board.device.family].sizes}
    ratio = given.ratio
    if lanes_of is None:
        lanes_of = splits if ratio is None else lambda rows: [[ratio.lanes(rows)]]
    for count, width in itertools.product(given.rows or domain.rows, given.pixels or domain.pixels):
        for requant_lanes, drain_pixels in itertools.product(
            _requant_lanes(domain, count, fixed), _drain_pixels(domain, width, fixed)
        ):
            sizes = {
                "pixels": width,
                "requant_lanes": requant_lanes,
                "drain_pixels": drain_pixels,
                "ports": max(1, board.memory.hp_ports),
                "wide_depth": power_of_two(2 * count),
                "clock_hz": given.clock_hz or board.clock_hz,
                "tables": tables,
                **fixed,
            }
            for tried in lanes_of(count):
                try:
                    yield from device.fitting(tried, sizes, refused)
                except ValueError as error:  # sizes that do not go together
                    refused[str(error)] += 1


def power_of_two(least: int) -> int:
    """Smallest power of two that is not below ``least``."""
    return 1 << (least - 1).bit_length()


def _requant_lanes(domain: Domain, rows: int, fixed: Mapping[str, int]) -> tuple[int, ...]:
    if "requant_lanes" in fixed:
        return (fixed["requant_lanes"],)
    fitting = tuple(lanes for lanes in domain.requant_lanes if rows % lanes == 0)
    return fitting or (math.gcd(rows, domain.requant_lanes[0]),)


def _drain_pixels(domain: Domain, pixels: int, fixed: Mapping[str, int]) -> tuple[int, ...]:
    if "drain_pixels" in fixed:
        return (fixed["drain_pixels"],)
    return tuple(count for count in domain.drain_pixels if count <= pixels // 2)


def _config(lanes: Split, **sizes: Any) -> AccelConfig:
    return AccelConfig(**dict(zip(LANES, lanes, strict=True)), **sizes)


@dataclasses.dataclass(frozen=True)
class _Device:
    """Device of a family, and the cells of each resource that an array may take on it."""

    family: str
    most: Mapping[str, int]

    @property
    def domain(self) -> Domain:
        return DOMAINS[self.family]

    def fits(self, config: AccelConfig) -> bool:
        need = used(self.family, config)
        return all(need[name] <= limit for name, limit in self.most.items())

    def shortest(self, config: AccelConfig) -> str:
        """The resource that ``config`` exceeds most."""
        need = used(self.family, config)
        return max(self.most, key=lambda name: need[name] / self.most[name])

    def smallest(self, lanes: Split, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """Sizes with the shallowest of the buffers whose depth is not given."""
        return {
            "weight_depth": self.domain.weight_step,
            "slot_depth": max(self.domain.slot_depths[-1], power_of_two(sum(lanes))),
            **sizes,
        }

    def fitting(
        self, tried: Sequence[Split], sizes: Mapping[str, Any], refused: Counter
    ) -> Iterator[AccelConfig]:
        """The deepest array of each activation buffer; without any, the reason in ``refused``."""
        domain, none = self.domain, True
        for copies, depth in itertools.product(
            [sizes["act_copies"]] if "act_copies" in sizes else domain.act_copies,
            [sizes["act_depth"]] if "act_depth" in sizes else domain.act_depths,
        ):
            config = self.deepest(tried, {**sizes, "act_copies": copies, "act_depth": depth})
            if config is not None:
                none = False
                yield config
        if none:
            least = self.smallest(tried[-1], sizes)
            least = {"act_copies": 1, "act_depth": domain.act_depths[0], **least}
            short = self.shortest(_config(tried[-1], **least))
            refused[f"needs too many {short.upper()}"] += 1

    def deepest(self, tried: Sequence[Split], sizes: Mapping[str, Any]) -> AccelConfig | None:
        """The first of the splits that fits, and with it the most drain slots and the deepest
        weight buffer.

        Fewer Fixed-4 rows take fewer DSPs and more LUTs, so only a few splits are looked at.
        """
        domain, multipliers = self.domain, list(self.most)[2]  # in the order of RESOURCES
        smallest = self.smallest(tried[0], sizes)
        first = bisect.bisect_left(
            tried,
            True,
            key=lambda lanes: (
                used(self.family, _config(lanes, **smallest))[multipliers] <= self.most[multipliers]
            ),
        )
        slots = power_of_two(sum(tried[0]))
        slot_depths = dict.fromkeys(max(depth, slots) for depth in domain.slot_depths)
        if "slot_depth" in sizes:
            slot_depths = [sizes["slot_depth"]]
        weight_depths = range(domain.weight_max, 0, -domain.weight_step)
        if "weight_depth" in sizes:
            weight_depths = [sizes["weight_depth"]]
        for lanes in tried[first : first + 2]:
            if not self.fits(_config(lanes, **smallest)):
                continue
            for slot_depth, weight_depth in itertools.product(slot_depths, weight_depths):
                depths = {"slot_depth": slot_depth, "weight_depth": weight_depth}
                config = _config(lanes, **{**sizes, **depths})
                if self.fits(config):
                    return config
        return None
