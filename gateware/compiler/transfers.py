# SPDX-License-Identifier: Apache-2.0
"""Descriptors of transfers: tensors from memory and to it, raw outputs to it."""

import dataclasses
import itertools
from collections.abc import Iterator

from gateware.arch import isa
from gateware.arch.isa import Base, Opcode
from gateware.compiler.dependencies import Region
from gateware.compiler.layout import MAX_GROUPS, Strip, TensorLayout
from gateware.compiler.operations import CompileError, TensorKey
from gateware.compiler.program_image import ProgramImage

WRAP = 1 << isa.ADDRESS_BITS


@dataclasses.dataclass(frozen=True)
class Home:
    """Place of a tensor in memory.

    Parameters
    ----------
    base : Base
    offset : bytes from the base register
    slab : groups of channels that lie together for all pixels, one after the other plane by plane;
        by default all words of a pixel
    """

    base: Base
    offset: int
    slab: int | None = None

    def slabs(self, place: TensorLayout) -> Iterator[tuple[int, int]]:
        """First word of a pixel in each slab, and the number of words."""
        if self.slab is None:
            yield 0, place.groups * place.planes
            return
        for plane, group in itertools.product(
            range(place.planes), range(0, place.groups, self.slab)
        ):
            yield plane * place.groups + group, min(self.slab, place.groups - group)


def load_rows(
    image: ProgramImage, key: TensorKey, strip: Strip, first: int, last: int, home: Home
) -> None:
    """LOAD_TENSOR of rows ``first`` to ``last`` (exclusive) of a tensor that is at ``home``."""
    for word, count in home.slabs(strip.place):
        fields, memory = _moved(image, key, strip, (first, last), home, word, count)
        image.add(
            "loads",
            isa.TENSOR,
            reads=memory,
            writes=strip.regions(first, last),
            opcode=Opcode.LOAD_TENSOR,
            **fields,
        )


def load_groups(
    image: ProgramImage,
    key: TensorKey,
    strip: Strip,
    form: TensorLayout,
    rows: tuple[int, int],
    home: Home,
) -> None:
    """LOAD_TENSOR of some groups of channels of rows, first and last (exclusive), of a tensor in
    slabs, whose layout is ``form``."""
    if rows[0] == rows[1]:
        return
    place = strip.place
    for word, count in home.slabs(form):
        plane, group = divmod(word, form.groups)
        if not strip.group <= group < strip.group + place.groups:
            continue
        here = plane * place.groups + group - strip.group
        fields, memory = _moved(image, key, strip, rows, home, word, count, here)
        image.add(
            "loads",
            isa.TENSOR,
            reads=memory,
            writes=strip.regions(*rows),
            opcode=Opcode.LOAD_TENSOR,
            **fields,
        )


def store_rows(
    image: ProgramImage, key: TensorKey, strip: Strip, first: int, last: int, home: Home
) -> None:
    """STORE_TENSOR of rows ``first`` to ``last`` (exclusive) of a tensor that is at ``home``."""
    for word, count in home.slabs(strip.place):
        fields, memory = _moved(image, key, strip, (first, last), home, word, count)
        image.add(
            "stores",
            isa.TENSOR,
            reads=strip.regions(first, last),
            writes=memory,
            opcode=Opcode.STORE_TENSOR,
            **fields,
        )


def _moved(
    image: ProgramImage,
    key: TensorKey,
    strip: Strip,
    rows: tuple[int, int],
    home: Home,
    word: int,
    count: int,
    here: int | None = None,
) -> tuple[dict[str, int], list[Region]]:
    """Fields of a load or store of ``count`` words of each pixel of some rows, and the words of
    memory that a run may change.

    The first is word ``word`` of the tensor, and ``here`` in the strip. Raises CompileError where
    these are too many words per pixel or in all.
    """
    (first, last), beat = rows, image.config.bus_bits // 8
    place, width = strip.place, strip.place.width
    begin = word * strip.height * width + first * width * count
    moved = (last - first) * width * count
    offset = home.offset + begin * beat
    memory = [Region("memory", offset // beat, moved)] if home.base is Base.OUTPUT else []
    fields = {"base": home.base, "offset": offset, "beats": moved}
    if MAX_GROUPS < count < 1 << isa.SIZE_BITS and (place.height, width) == (1, 1):
        # Of a vector they follow one another, as rows do.
        return fields | {
            "address": place.address % WRAP,
            "height": count,
            **dict.fromkeys(("width", "groups", "row_pitch"), 1),
            "group_pitch": 0,
        }, memory
    if count > MAX_GROUPS:
        raise CompileError(
            f"tensor {str(key)!r} has {count} words per pixel, a load or store moves "
            f"{MAX_GROUPS} at most"
        )
    if moved >= 1 << isa.BEATS_BITS:
        raise CompileError(
            f"tensor {str(key)!r} has {moved} words in a load or store, which moves less than "
            f"{1 << isa.BEATS_BITS}"
        )
    skipped = (word if here is None else here) * place.group_pitch
    return fields | {
        "address": (strip.row(first) + skipped) % WRAP,
        "height": last - first,
        "width": width,
        "groups": count,
        "group_pitch": place.group_pitch % WRAP,
        "row_pitch": place.row_pitch,
    }, memory


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
