# SPDX-License-Identifier: Apache-2.0
"""Descriptors of transfers: tensors from memory and to it, raw outputs to it."""

from gateware.arch import isa
from gateware.arch.isa import Base, Opcode
from gateware.compiler.dependencies import Region
from gateware.compiler.layout import MAX_GROUPS, Strip, TensorLayout
from gateware.compiler.operations import CompileError, TensorKey
from gateware.compiler.program_image import ProgramImage

WRAP = 1 << isa.ADDRESS_BITS


def transfer_fields(key: TensorKey, strip: Strip, first: int, last: int) -> dict[str, int]:
    """Fields of a LOAD_TENSOR or STORE_TENSOR of rows ``first`` to ``last`` (exclusive).

    Raises CompileError where the tensor has too many words per pixel or in all.
    """
    place, words = strip.place, strip.place.groups * strip.place.planes
    if MAX_GROUPS < words < 1 << isa.SIZE_BITS and (place.height, place.width) == (1, 1):
        # Of a vector they follow one another, as rows do.
        return {
            **dict.fromkeys(("beats", "height"), words),
            "address": place.address % WRAP,
            **dict.fromkeys(("width", "groups", "row_pitch"), 1),
            "group_pitch": 0,
        }
    if words > MAX_GROUPS:
        raise CompileError(
            f"tensor {str(key)!r} has {words} words per pixel, a load or store moves "
            f"{MAX_GROUPS} at most"
        )
    beats = (last - first) * place.width * words
    if beats >= 1 << isa.BEATS_BITS:
        raise CompileError(
            f"tensor {str(key)!r} has {beats} words in a load or store, which moves less than "
            f"{1 << isa.BEATS_BITS}"
        )
    return {
        "beats": beats,
        "address": strip.row(first) % WRAP,
        "height": last - first,
        "width": place.width,
        "groups": words,
        "group_pitch": place.group_pitch % WRAP,
        "row_pitch": place.row_pitch,
    }


def load_rows(
    image: ProgramImage, key: TensorKey, strip: Strip, first: int, last: int, offset: int
) -> None:
    """LOAD_TENSOR of rows ``first`` to ``last`` (exclusive) of an input, which begins ``offset``
    bytes from INPUT_BASE."""
    row_beats = strip.place.beats // strip.place.height
    image.add(
        "loads",
        isa.TENSOR,
        reads=(),
        writes=strip.regions(first, last),
        opcode=Opcode.LOAD_TENSOR,
        base=Base.INPUT,
        offset=offset + first * row_beats * image.config.bus_bits // 8,
        **transfer_fields(key, strip, first, last),
    )


def spill(image: ProgramImage, key: TensorKey, place: TensorLayout, offset: int) -> None:
    """STORE_TENSOR of a whole tensor to ``offset`` bytes from OUTPUT_BASE, to be reloaded."""
    image.add(
        "stores",
        isa.TENSOR,
        reads=[Region("act", place.address, place.words)],
        writes=[_memory(image, place, offset)],
        opcode=Opcode.STORE_TENSOR,
        base=Base.OUTPUT,
        offset=offset,
        **transfer_fields(key, Strip.whole(place), 0, place.height),
    )


def reload(image: ProgramImage, key: TensorKey, place: TensorLayout, offset: int) -> None:
    """LOAD_TENSOR of what :func:`spill` stored."""
    image.add(
        "loads",
        isa.TENSOR,
        reads=[_memory(image, place, offset)],
        writes=[Region("act", place.address, place.words)],
        opcode=Opcode.LOAD_TENSOR,
        base=Base.OUTPUT,
        offset=offset,
        **transfer_fields(key, Strip.whole(place), 0, place.height),
    )


def _memory(image: ProgramImage, place: TensorLayout, offset: int) -> Region:
    return Region("memory", offset * 8 // image.config.bus_bits, place.beats)


def store_rows(
    image: ProgramImage, key: TensorKey, strip: Strip, first: int, last: int, offset: int
) -> None:
    """STORE_TENSOR of rows ``first`` to ``last`` (exclusive) of an output, which begins
    ``offset`` bytes from OUTPUT_BASE."""
    row_beats = strip.place.beats // strip.place.height
    image.add(
        "stores",
        isa.TENSOR,
        reads=strip.regions(first, last),
        writes=(),
        opcode=Opcode.STORE_TENSOR,
        base=Base.OUTPUT,
        offset=offset + first * row_beats * image.config.bus_bits // 8,
        **transfer_fields(key, strip, first, last),
    )


def store_raw(image: ProgramImage, region: Region, offset: int) -> None:
    """STORE_WIDE of raw outputs to ``offset`` bytes from OUTPUT_BASE."""
    image.add(
        "stores",
        isa.TRANSFER,
        reads=[region],
        opcode=Opcode.STORE_WIDE,
        base=Base.OUTPUT,
        offset=offset,
        beats=region.words * isa.WIDE_BITS // image.config.bus_bits,
        destination=region.first,
    )
