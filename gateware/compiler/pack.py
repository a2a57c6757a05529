# SPDX-License-Identifier: Apache-2.0
"""Packing: weight values as codes in lane order, and drain slots."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.arch.isa import slot_beats, slot_bits
from gateware.pe.lanes import row_engines
from ir.numerics import BIAS_BITS


def bits_to_words(fields: np.ndarray, widths: np.ndarray, word_bytes: int) -> bytes:
    """Bytes of words of ``word_bytes``: unsigned ``fields`` (words, fields) of ``widths`` bits,
    lowest first, then zeros."""
    bits = (fields[:, :, None] >> np.arange(int(widths.max())) & 1).astype(np.uint8)
    kept = bits[:, np.arange(int(widths.max())) < widths[:, None]]
    padded = np.zeros((len(fields), word_bytes * 8), np.uint8)
    padded[:, : kept.shape[1]] = kept
    return np.packbits(padded, axis=1, bitorder="little").tobytes()


def words_to_bits(stored: bytes, widths: np.ndarray, word_bytes: int) -> np.ndarray:
    """Fields (words, fields), int64, of stored words: the inverse of :func:`bits_to_words`."""
    words = np.frombuffer(stored, np.uint8).reshape(-1, word_bytes)
    bits = np.unpackbits(words, axis=1, bitorder="little")
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]])
    fields = [
        bits[:, start : start + width].astype(np.int64) @ (1 << np.arange(width))
        for start, width in zip(starts.tolist(), widths.tolist(), strict=True)
    ]
    return np.stack(fields, axis=1)


def code_widths(config: AccelConfig) -> np.ndarray:
    """Bits of each code in a weight word: lane by lane, k codes each."""
    return np.repeat([scheme.bits for scheme in config.lane_schemes], config.k)


def pack_weights(values: np.ndarray, lanes: list[int], config: AccelConfig) -> bytes:
    """Weight words of one row tile, in the order of :class:`~gateware.rtl.sequence.TileLoop`.

    ``values`` is (rows, channels, kernel_y, kernel_x); ``lanes[i]`` is the row in lane i or -1. A
    word holds k channels of one kernel position for every lane, as the lane's engine encodes them;
    missing channels and idle lanes have weight 0.
    """
    _, channels, kernel_y, kernel_x = values.shape
    groups = -(-channels // config.k)
    tile = np.zeros((config.rows, kernel_y, kernel_x, groups * config.k), np.int64)
    for lane, row in enumerate(lanes):
        if row >= 0:
            tile[lane, :, :, :channels] = values[row].transpose(1, 2, 0)
    codes = np.concatenate(
        [placed.engine.encode(tile[placed.lanes]) for placed in row_engines(config)]
    )
    codes = codes.reshape(config.rows, -1, config.k).transpose(1, 0, 2)
    return bits_to_words(
        codes.reshape(len(codes), -1),
        code_widths(config),
        config.weight_beats * config.bus_bits // 8,
    )


def unpack_weights(stored: bytes, config: AccelConfig) -> np.ndarray:
    """Weight values (words, rows, k), int64, of packed weight words.

    Raises ValueError for a code that means nothing.
    """
    codes = words_to_bits(stored, code_widths(config), config.weight_beats * config.bus_bits // 8)
    codes = codes.reshape(len(codes), config.rows, config.k).transpose(1, 0, 2)
    return np.concatenate(
        [placed.engine.decode(codes[placed.lanes]) for placed in row_engines(config)]
    ).transpose(1, 0, 2)


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
