# SPDX-License-Identifier: Apache-2.0
"""Row tiles of layers whose parts have few rows, as those of depthwise convolutions do.

Such a part leaves most lanes without a row. They take rows of the result below, and parts that
read other words:

- *Folded*: each kernel is there several times, moved down by the stride. One pass over the pixels
  gives as many rows of the result, from words most of which several of them need: four rows of a
  3x3 convolution read six rows, not twelve.
- *Together*: several parts share a row tile, which is loaded once. Each has an EXECUTE of its own,
  which drains its lanes alone.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.arch.isa import EXECUTE
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import Gemm, Part
from gateware.compiler.pack import pack_weights
from gateware.compiler.slices import needs_slices
from ir.numerics import Scheme

#: Share of the loads that the array waits for, while the rest comes as it works: cycles of
#: MobileNet-v2 on the XC7Z045 differ by 1 % from 0.1 to 0.5.
EXPOSED = 0.5
MAX_STRIDE = (1 << EXECUTE["stride_y"].width) - 1


@dataclasses.dataclass(frozen=True)
class SharedTile:
    """Row tile of ``parts``, each for several rows of the result.

    lanes : of each part, for each of these rows of the result: the lane of each row of the part
    """

    parts: Sequence[Part]
    lanes: Sequence[Sequence[Sequence[int]]]

    @property
    def fold(self) -> int:
        """Rows of the result that are made at once."""
        return len(self.lanes[0])

    def pack(self, stride: int, config: AccelConfig) -> bytes:
        """Stored weights; ``stride`` is that of the convolution, downwards."""
        _, channels, height, width = self.parts[0].values.shape
        values = np.zeros(
            (config.rows, channels, height + (self.fold - 1) * stride, width), np.int64
        )
        for part, of_part in zip(self.parts, self.lanes, strict=True):
            for below, lanes in enumerate(of_part):
                first = below * stride
                values[lanes, :, first : first + height] = part.values
        return pack_weights(values, list(range(config.rows)), config)


def shared_tiles(
    gemm: Gemm, source: TensorLayout, target: TensorLayout, config: AccelConfig
) -> Iterator[Part | SharedTile]:
    """Row tiles with several parts or rows of the result; a part that has none of both."""
    parts = gemm.parts(config.k)
    if gemm.wide or gemm.groups == 1 or needs_slices(gemm, source, config):
        yield from parts
        return
    first = 0
    for count, lanes in _choices(gemm, parts, source, target, config):
        yield SharedTile(parts[first : first + count], lanes) if lanes else parts[first]
        first += count


#: Lanes of each part, for each row of the result at once.
_Lanes = list[list[list[int]]]


def _choices(
    gemm: Gemm,
    parts: Sequence[Part],
    source: TensorLayout,
    target: TensorLayout,
    config: AccelConfig,
) -> list[tuple[int, _Lanes]]:
    """Tiles with the fewest cycles together: how many parts each has, and their lanes, none for a
    part by itself."""
    #: For the parts from a number on: cycles, and the first tile.
    best: list[tuple[float, tuple[int, _Lanes]]] = [(0.0, (0, []))]
    for first in reversed(range(len(parts))):
        alone = _cycles(gemm, parts[first], source, target, config)
        options: list[tuple[float, tuple[int, _Lanes]]] = [(alone + best[0][0], (1, []))]
        for fold, lanes in _folds(gemm, parts[first:], target, config):
            cycles = 0.0
            for count, of_part in enumerate(lanes, 1):
                slots = _slots(of_part, config)
                cycles += _cycles(gemm, parts[first], source, target, config, fold, slots)
                total = cycles + _loads(gemm, parts[first], fold, config) + best[count - 1][0]
                options.append((total, (count, lanes[:count])))
        best.insert(0, min(options, key=lambda option: option[0]))
    chosen, first = [], 0
    while first < len(parts):
        chosen.append(best[first][1])
        first += chosen[-1][0]
    return chosen


def _folds(
    gemm: Gemm, parts: Sequence[Part], target: TensorLayout, config: AccelConfig
) -> Iterator[tuple[int, _Lanes]]:
    """Rows of the result that the first of ``parts`` can have at once, and the lanes of those that
    fit beside it."""
    for fold in range(1, target.height + 1):
        words = parts[0].words * _kernel_height(gemm, fold) * gemm.kernel[1]
        lanes = _place(gemm, parts, fold, config)
        if not lanes or fold * gemm.stride[0] > MAX_STRIDE or words > config.weight_depth:
            return
        yield fold, lanes


def _kernel_height(gemm: Gemm, fold: int) -> int:
    return gemm.kernel[0] + (fold - 1) * gemm.stride[0]


def _place(gemm: Gemm, parts: Sequence[Part], fold: int, config: AccelConfig) -> _Lanes:
    """Lanes of the first parts, as many as find one for every row. Of rows that drain together
    each takes a lane whose requantiser has the fewest of them."""
    free = {}
    for scheme, lanes in zip(Scheme, config.lanes, strict=True):
        first = sum(config.lanes[:scheme])
        free[scheme] = list(range(first, first + lanes))
    placed = []
    for part in parts:
        schemes = [Scheme(gemm.scheme[row]) for row in part.rows]
        if part.words != parts[0].words or any(
            schemes.count(scheme) * fold > len(lanes) for scheme, lanes in free.items()
        ):
            break
        placed.append([_place_once(schemes, free, config) for _ in range(fold)])
    return placed


def _place_once(
    schemes: Sequence[Scheme], free: dict[Scheme, list[int]], config: AccelConfig
) -> list[int]:
    """A lane of ``free`` for each row; schemes of few lanes choose first."""
    lanes, load = [-1] * len(schemes), [0] * config.requant_lanes
    for row in sorted(range(len(schemes)), key=lambda row: config.lanes[schemes[row]]):
        lanes[row] = min(
            free[schemes[row]], key=lambda lane: (load[lane % config.requant_lanes], lane)
        )
        free[schemes[row]].remove(lanes[row])
        load[lanes[row] % config.requant_lanes] += 1
    return lanes


def _slots(of_part: Sequence[Sequence[int]], config: AccelConfig) -> int:
    """Drain slots of a part."""
    return sum(
        max(np.bincount([lane % config.requant_lanes for lane in lanes])) for lanes in of_part
    )


def _cycles(
    gemm: Gemm,
    part: Part,
    source: TensorLayout,
    target: TensorLayout,
    config: AccelConfig,
    fold: int = 1,
    slots: int = 0,
) -> float:
    """Cycles of a part: words, or the drain where it takes longer; without ``slots`` those of a
    part by itself, with its loads."""
    words = part.words * _kernel_height(gemm, fold) * gemm.kernel[1] * source.planes
    turns = config.drain_turns(config.pixels, raw=False) * target.planes
    groups = -(-target.height // fold) * -(-target.width // config.pixels)
    if slots:
        return groups * max(words, slots * turns)
    tiles = -(-len(part.rows) // config.rows)
    slots = -(-len(part.rows) // (tiles * config.requant_lanes))
    return tiles * (groups * max(words, slots * turns) + _loads(gemm, part, 1, config))


def _loads(gemm: Gemm, part: Part, fold: int, config: AccelConfig) -> float:
    """Cycles that the array waits for the weights of a tile."""
    words = part.words * _kernel_height(gemm, fold) * gemm.kernel[1]
    return EXPOSED * words * config.weight_beats / config.ports
