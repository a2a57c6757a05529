# SPDX-License-Identifier: Apache-2.0
"""Packing: weight values as codes in lane order, and drain slots."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.arch.isa import slot_beats, slot_bits
from gateware.pe.lanes import row_engines
from ir.numerics import BIAS_BITS


def pack_weights(values: np.ndarray, lanes: Sequence[int], config: AccelConfig) -> bytes:
    """Weight words of one row tile, in the order of :class:`~gateware.rtl.sequence.TileLoop`.

    ``values`` is (rows, channels, kernel_y, kernel_x); ``lanes[i]`` is the row in lane i or -1. A
    word holds k channels of one kernel position for every lane, as the lane's engine encodes them;
    missing channels and idle lanes have weight 0. Codes of 4 bits, two to a byte, lie in front of
    those of 8 bits, as their lanes do.
    """
    _, channels, kernel_y, kernel_x = values.shape
    groups, placed = -(-channels // config.k), np.array(lanes)
    tile = np.zeros((config.rows, kernel_y, kernel_x, groups * config.k), np.int64)
    tile[placed >= 0, :, :, :channels] = values[placed[placed >= 0]].transpose(0, 2, 3, 1)
    codes = _by_engine(tile.reshape(config.rows, -1, config.k), config, encode=True)
    codes = codes.astype(np.uint8).transpose(1, 0, 2)
    narrow, wide = np.split(codes.reshape(len(codes), -1), [_narrow(config)], axis=1)
    stored = np.zeros((len(codes), config.weight_beats * config.bus_bits // 8), np.uint8)
    used = np.concatenate([narrow[:, 0::2] | narrow[:, 1::2] << 4, wide], axis=1)
    stored[:, : used.shape[1]] = used
    return stored.tobytes()


def unpack_weights(stored: bytes, config: AccelConfig) -> np.ndarray:
    """Weight values (words, rows, k), int64, of packed weight words.

    Raises ValueError for a code that means nothing.
    """
    words = np.frombuffer(stored, np.uint8).reshape(-1, config.weight_beats * config.bus_bits // 8)
    narrow, wide = np.split(words[:, : config.weight_bits // 8], [_narrow(config) // 2], axis=1)
    nibbles = np.stack([narrow & 15, narrow >> 4], axis=2).reshape(len(words), -1)
    codes = np.concatenate([nibbles, wide], axis=1).reshape(len(words), config.rows, config.k)
    return _by_engine(codes.transpose(1, 0, 2), config, encode=False).transpose(1, 0, 2)


def _narrow(config: AccelConfig) -> int:
    """Codes of 4 bits in a weight word, those in front; an even number."""
    return config.k * (config.pot4_rows + config.fixed4_rows)


def _by_engine(tile: np.ndarray, config: AccelConfig, *, encode: bool) -> np.ndarray:
    """Codes of weight values (lanes, ...), or values of codes; lanes of one kind of engine go
    together."""
    found = []
    for engine, placed in itertools.groupby(row_engines(config), lambda placed: placed.engine):
        lanes = [lane for one in placed for lane in one.lanes]
        mine = tile[lanes[0] : lanes[-1] + 1]
        shape = (-1, engine.rows, *mine.shape[1:])
        convert = engine.encode if encode else engine.decode
        found.append(convert(mine.reshape(shape).swapaxes(0, 1)).swapaxes(0, 1).reshape(mine.shape))
    return np.concatenate(found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotResult:
    """Result in a drain slot: engine lane, its requantisation, and where the result goes.

    offset : words from the pixel, or the index of a raw output.
    """

    lane: int
    column: int
    offset: int
    multiplier: int
    bias: int
    shift: int


def pack_slot(results: list[SlotResult], config: AccelConfig, wide: bool = False) -> bytes:
    """Bytes of a stored drain slot; the column of a raw output's lane names its place."""
    lanes: list[Mapping[str, int]] = [
        dict.fromkeys(("row", "column", "multiplier", "bias", "shift"), 0)
        for _ in range(config.requant_lanes)
    ]
    columns: list[Mapping[str, int]] = [
        dict.fromkeys(("enable", "lane", "offset"), 0) for _ in range(config.k)
    ]
    for result in results:
        q = result.lane % config.requant_lanes
        column = q if wide else result.column
        lanes[q] = {
            "row": result.lane // config.requant_lanes,
            "column": column,
            "multiplier": result.multiplier,
            "bias": result.bias & (1 << BIAS_BITS) - 1,
            "shift": result.shift,
        }
        columns[column] = {"enable": 1, "lane": q, "offset": result.offset}
    word = slot_bits(config, lanes=lanes, columns=columns)
    return word.to_bytes(slot_beats(config) * config.bus_bits // 8, "little")
