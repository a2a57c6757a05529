# SPDX-License-Identifier: Apache-2.0
"""Raw outputs in parts: as many channels, rows and columns at a time as the wide buffer takes.

A part has all lanes of a row tile where it can, because lanes that are not drained work in vain;
then as many columns; then as many rows. It takes half of the buffer, if that is enough, and leaves
the other to the part before, which is being stored.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.compiler.dependencies import Region
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import Gemm, Pool, Rearrange, TensorKey


@dataclasses.dataclass(frozen=True)
class RawParts:
    """Most channels and rows of a part, and the edges of its columns.

    pitch : entries of a row of pixels
    """

    channels: int
    rows: int
    columns: tuple[int, ...]
    pitch: int

    @property
    def entries(self) -> int:
        """Entries of a channel."""
        return self.rows * self.pitch

    @classmethod
    def of(cls, gemm: Gemm, place: TensorLayout, config: AccelConfig) -> "RawParts":
        """Parts of the raw outputs of ``gemm``, which are of the form ``place``."""
        room, pitch = config.wide_depth // 2, place.wide_pitch
        if config.rows * pitch <= config.wide_depth:
            rows = min(place.height, max(1, room // (config.rows * pitch)))
            return cls(config.rows, rows, (0, place.width), pitch)
        if config.rows * config.banks > room:
            room = config.wide_depth
        channels = min(config.rows, room // config.banks)
        width = min(room // channels // config.banks * config.banks, pitch)
        rows = min(place.height, room // (channels * width)) if width == pitch else 1
        columns = (*_edges(gemm, place.width, width, config.banks), place.width)
        return cls(channels, rows, columns, width)


def _edges(gemm: Gemm, width: int, most: int, banks: int) -> Iterator[int]:
    """First column of each part of ``most`` columns or fewer.

    But for the first, what such a column is made from begins in bank 0: a word's address has no
    bank.
    """
    edge = 0
    while edge < width:
        yield edge
        edge = next(
            end
            for end in range(edge + most, edge, -1)
            if end >= width or (end * gemm.stride[1] - gemm.padding[2]) % banks == 0
        )


def first_column(operation: Gemm | Pool, column: int, banks: int) -> tuple[int, int]:
    """Words of an input row that results from ``column`` on do not need, and the padding left."""
    begin = column * operation.stride[1] - operation.padding[2]
    skipped = max(0, begin // banks)
    return skipped, skipped * banks - begin


def aligned(
    operation: Gemm | Pool | Rearrange,
    forms: Mapping[TensorKey, TensorLayout],
    config: AccelConfig,
) -> Gemm | Pool | Rearrange:
    """``operation`` with zeros left of its kernel, where without them no column but the first is
    made from inputs that begin in bank 0."""
    if not isinstance(operation, Gemm) or not operation.wide:
        return operation
    missing = -operation.padding[2] % math.gcd(operation.stride[1], config.banks)
    place = forms[operation.target]
    if not missing or config.rows * place.wide_pitch <= config.wide_depth:
        return operation
    top, bottom, left, right = operation.padding
    values = np.pad(operation.values, ((0, 0), (0, 0), (0, 0), (missing, 0)))
    padding = (top, bottom, left + missing, right)
    return dataclasses.replace(operation, values=values, padding=padding)


@dataclasses.dataclass(frozen=True)
class RawRegion:
    """Place in the wide buffer of the columns ``first`` to ``last`` (exclusive) of some rows."""

    region: Region
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Drain:
    """Results of a row tile that leave together, slot by slot.

    rows : of the layer
    slots : pairs of lane and row that leave in a cycle
    offsets : by row, where its first result goes
    """

    rows: Sequence[int]
    slots: Sequence[Sequence[tuple[int, int]]]
    offsets: Mapping[int, int]


def raw_drains(
    gemm: Gemm, taken: Sequence[tuple[int, int]], place: TensorLayout, config: AccelConfig
) -> Iterator[Drain]:
    """Drains of the lanes and rows ``taken`` whose results are raw.

    A slot has one result of each requantiser, whatever its column.
    """
    parts = RawParts.of(gemm, place, config)
    for first in range(0, len(taken), parts.channels):
        lanes = taken[first : first + parts.channels]
        lanes_of = [
            [pair for pair in lanes if pair[0] % config.requant_lanes == q]
            for q in range(config.requant_lanes)
        ]
        slots = [
            [of[slot] for of in lanes_of if slot < len(of)]
            for slot in range(max(map(len, lanes_of)))
        ]
        rows = [row for _, row in lanes]
        offsets = {row: rank * parts.entries for rank, row in enumerate(rows)}
        yield Drain(rows, slots, offsets)
