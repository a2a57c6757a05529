# SPDX-License-Identifier: Apache-2.0
"""Tensors as the accelerator stores them: pixel by pixel, groups of channels, two codes a byte."""

from typing import Any, Dict

import numpy as np

CODE_BITS = 4


def input_codes(image: np.ndarray, tensor: Dict[str, Any]) -> np.ndarray:
    """Integer codes of an image, int64 (C, H, W).

    An array of integers holds codes already; one of floats holds the values that training saw
    (pixels in 0..1), which are divided by the scale and rounded. Raises ValueError for another
    shape, and for values or codes out of range.
    """
    place = tensor["place"]
    shape = tuple(tensor["space_to_depth"]["shape"])
    image = np.asarray(image)
    if image.shape == shape[1:] and shape[0] == 1:
        image = image[np.newaxis]
    if image.ndim == 2 and (image.shape[0], 1, image.shape[1]) == shape:
        image = image[:, np.newaxis]  # a line
    if image.shape != shape:
        raise ValueError(
            f"an image must have the shape (channels, height, width) = {shape}, not {image.shape}"
        )
    top = (1 << place["bits"]) - 1
    if np.issubdtype(image.dtype, np.integer):
        codes = image.astype(np.int64)
        if codes.min() < 0 or codes.max() > top:
            raise ValueError(
                f"codes of an image must be in 0..{top}, not {codes.min()}..{codes.max()}"
            )
        return codes
    if not np.issubdtype(image.dtype, np.floating) or not np.isfinite(image).all():
        raise ValueError(f"an image must hold finite numbers, not {image.dtype}")
    codes = np.floor(image.astype(np.float64) / tensor["scale"] + 0.5) + place["zero_point"]
    if codes.min() < 0 or codes.max() > top:
        low, high = (tensor["scale"] * (code - place["zero_point"]) for code in (0, top))
        raise ValueError(
            f"float values of an image must be in {low:g}..{high:g}, as training saw them, not "
            f"{image.min():g}..{image.max():g}; pixels of 8 bits are divided by 255, or given as "
            "integers"
        )
    return codes.astype(np.int64)


def gather(codes: np.ndarray, space_to_depth: Dict[str, Any]) -> np.ndarray:
    """Stored form of codes (C, H, W): (C * p, H', W'), the p pixels of a patch as channels.

    The border's code of each channel, or the zero point, stands for pixels outside the image.
    ``space_to_depth`` is that part of the input's description: ``border``, ``zero_point``, and
    origin, size, step and patch of both axes.
    """
    y, x = (
        axis["origin"]
        + np.arange(axis["size"])[:, np.newaxis] * axis["step"]
        + np.arange(axis["patch"])
        for axis in (space_to_depth["y"], space_to_depth["x"])
    )
    height, width = codes.shape[1:]
    inside_y, inside_x = (y >= 0) & (y < height), (x >= 0) & (x < width)
    found = codes[:, y.clip(0, height - 1)][:, :, :, x.clip(0, width - 1)]
    inside = inside_y[:, :, np.newaxis, np.newaxis] & inside_x[np.newaxis, np.newaxis]
    outside = np.reshape(space_to_depth["border"] or space_to_depth["zero_point"], (-1, 1, 1, 1, 1))
    found = np.where(inside, found, outside)
    return found.transpose(2, 4, 0, 1, 3).reshape(-1, len(y), len(x))


def pack(codes: np.ndarray, place: Dict[str, int]) -> np.ndarray:
    """Codes (C, H, W) in the accelerator's memory order, uint8, two 4-bit codes to a byte.

    From fastest to slowest: channels, filled up to whole groups of ``place["k"]``; halves of 8-bit
    codes, the high one first; columns; rows. The first of two codes is the byte's low half.
    """
    planes = place["bits"] // CODE_BITS
    groups = -(-place["channels"] // place["k"])
    nibbles = np.zeros((place["height"], place["width"], planes, groups * place["k"]), np.uint8)
    for plane in range(planes):
        part = codes >> CODE_BITS * (planes - 1 - plane) & 15
        nibbles[:, :, plane, : place["channels"]] = part.transpose(1, 2, 0)
    flat = nibbles.reshape(-1)
    return flat[0::2] | flat[1::2] << 4


def unpack(stored: np.ndarray, output: Dict[str, Any]) -> np.ndarray:
    """Values of an output, int64 (C * H * W,) in C, H, W order, from ``stored`` bytes, uint8."""
    place = output["place"]
    if output["wide_rows"]:
        return unpack_raw(stored, output)
    planes = place["bits"] // CODE_BITS
    groups = -(-place["channels"] // place["k"])
    size = place["height"] * place["width"] * planes * groups * place["k"] // 2
    packed = stored[:size]
    flat = np.stack([packed & 15, packed >> 4], -1).astype(np.int64)
    flat = flat.reshape(place["height"], place["width"], planes, -1)[..., : place["channels"]]
    value = flat[:, :, 0]
    for plane in range(1, planes):
        value = value << CODE_BITS | flat[:, :, plane]
    return value.transpose(2, 0, 1).reshape(-1)


def unpack_raw(stored: np.ndarray, output: Dict[str, Any]) -> np.ndarray:
    """Values of a raw output, int64 (C * H * W,), as :func:`unpack` orders them.

    They are stored as the row tiles gave them: tile by tile, range of columns by range, some rows
    of pixels after the others, channel by channel.
    """
    place, rows = output["place"], output["wide_rows"]
    height, width, pitch = place["height"], place["width"], output["wide_pitch"]
    parts, ranges = -(-height // rows), list(zip(output["columns"], output["columns"][1:]))
    size = place["channels"] * parts * len(ranges) * rows * pitch * output["wide_bytes"]
    entries = np.frombuffer(stored[:size].tobytes(), "<i{}".format(output["wide_bytes"]))
    result, at = np.zeros((place["channels"], height, width), np.int64), 0
    for channels in output["tiles"]:
        for first, last in ranges:
            end = at + len(channels) * parts * rows * pitch
            found = entries[at:end].reshape(parts, len(channels), rows, pitch)
            found = found.transpose(1, 0, 2, 3).reshape(len(channels), -1, pitch)
            result[channels, :, first:last] = found[:, :height, : last - first]
            at = end
    return result.reshape(-1)
