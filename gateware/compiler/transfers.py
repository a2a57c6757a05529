# SPDX-License-Identifier: Apache-2.0
"""Descriptors of transfers: tensors from memory and to it, raw outputs to it."""

import dataclasses

from gateware.arch import isa
from gateware.arch.isa import Base, Opcode
from gateware.compiler.dependencies import Region
from gateware.compiler.layout import MAX_GROUPS, Strip
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


@dataclasses.dataclass(frozen=True)
class Home:
    """Place of a tensor in memory, ``offset`` bytes from a base register."""

    base: Base
    offset: int


def load_rows(
    image: ProgramImage, key: TensorKey, strip: Strip, first: int, last: int, home: Home
) -> None:
    """LOAD_TENSOR of rows ``first`` to ``last`` (exclusive) of a tensor that begins at ``home``."""
    fields, memory = _moved(image, key, strip, first, last, home)
    image.add(
        "loads",
        isa.TENSOR,
        reads=memory,
        writes=strip.regions(first, last),
        opcode=Opcode.LOAD_TENSOR,
        **fields,
    )


def store_rows(
    image: ProgramImage, key: TensorKey, strip: Strip, first: int, last: int, home: Home
) -> None:
    """STORE_TENSOR of rows ``first`` to ``last`` (exclusive) of a tensor that begins at
    ``home``."""
    fields, memory = _moved(image, key, strip, first, last, home)
    image.add(
        "stores",
        isa.TENSOR,
        reads=strip.regions(first, last),
        writes=memory,
        opcode=Opcode.STORE_TENSOR,
        **fields,
    )


def _moved(
    image: ProgramImage, key: TensorKey, strip: Strip, first: int, last: int, home: Home
) -> tuple[dict[str, int], list[Region]]:
    """Fields of a load or store of rows, and the words of memory that a run may change."""
    row_beats, beat = strip.place.beats // strip.place.height, image.config.bus_bits // 8
    offset = home.offset + first * row_beats * beat
    words = Region("memory", offset // beat, (last - first) * row_beats)
    fields = {"base": home.base, "offset": offset}
    return (
        fields | transfer_fields(key, strip, first, last),
        [words] if home.base is Base.OUTPUT else [],
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
