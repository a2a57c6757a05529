# SPDX-License-Identifier: Apache-2.0
"""Memory image of a program while it grows: descriptors with their waits, and data blocks."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from amaranth.lib import data

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Base, Opcode
from gateware.compiler.dependencies import Dependencies, Region, Ring, pieces

ALIGN = 64  #: bytes; what every block of the image starts at
LEAST_PIECE = 32  #: weight words; a shorter load is not cut in pieces


def split_ports(words: bytes, word_beats: int, config: AccelConfig) -> bytes:
    """Bytes of stored words in the order of the ports: all that port 0 brings, then all of port
    1..."""
    beats = np.frombuffer(words, np.uint8).reshape(
        -1, word_beats // config.ports, config.ports, config.bus_bits // 8
    )
    return beats.transpose(2, 0, 1, 3).tobytes()


def _at_most(count: int, most: int) -> list[int]:
    """``count`` as a sum of numbers up to ``most``."""
    whole, rest = divmod(count, most)
    return [most] * whole + [rest] * (rest > 0)


@dataclasses.dataclass(frozen=True)
class LayerSegment:
    """Segment of a program: descriptors ``first`` to ``last`` (exclusive) belong to ``layer``.

    A layer that is made in strips has several segments.
    """

    layer: str
    first: int
    last: int


class ProgramImage:
    """Descriptors and data blocks under construction; data offsets are known when all are."""

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        self.descriptors: list[tuple[data.StructLayout, dict[str, int], int | None]] = []
        self.blocks: dict[bytes, int] = {}  # data, and the number of the block
        self.segments: list[LayerSegment] = []
        self.dependencies = Dependencies(config)
        self.weights = Ring("weights", config.weight_depth)
        self.slots = Ring("slots", config.slot_depth)
        self.wide = Ring("wide", config.wide_depth)
        self._table: bytes | None = None  # that is loaded

    @contextlib.contextmanager
    def segment(self, layer: str) -> Iterator[None]:
        """Context in which the descriptors that are added belong to ``layer``."""
        first = len(self.descriptors)
        yield
        if first < len(self.descriptors):
            self.segments.append(LayerSegment(layer, first, len(self.descriptors)))

    def add(
        self,
        queue: str,
        layout: data.StructLayout,
        *,
        reads: Sequence[Region] = (),
        writes: Sequence[Region] = (),
        block: int | None = None,
        **fields: int,
    ) -> None:
        """Addition of one descriptor, whose waits follow from the regions that it reads and writes.

        With ``block`` its offset is that data block's.
        """
        waits = self.dependencies.add(queue, reads=reads, writes=writes)
        fields |= {f"wait_{name}": count for name, count in waits.items()}
        self.descriptors.append((layout, fields, block))

    def end(self) -> None:
        """Addition of END, the last descriptor."""
        blank = {name: 0 for name, _ in isa.TRANSFER}
        self.descriptors += [(isa.TRANSFER, blank | {"opcode": Opcode.END}, None)]

    def load_weights(self, words: bytes) -> Region:
        """Addition of LOAD_WEIGHTS of weight words to the ring's next region, which is returned.

        In pieces, so that the first need not wait for what the last waits for.
        """
        size = self.config.weight_beats * self.config.bus_bits // 8
        region = self.weights.take(len(words) // size)
        at = 0
        most = ((1 << isa.BEATS_BITS) - 1) * self.config.ports // self.config.weight_beats
        for count in itertools.chain.from_iterable(
            _at_most(piece, most) for piece in pieces(self.dependencies.users(region), LEAST_PIECE)
        ):
            self._load(
                Opcode.LOAD_WEIGHTS,
                words[at * size : (at + count) * size],
                Region("weights", (region.first + at) % self.config.weight_depth, count),
            )
            at += count
        return region

    def load_slots(self, records: Sequence[bytes]) -> Region:
        """Addition of a LOAD_SLOTS of drain slots to the ring's next region, which is returned."""
        region = self.slots.take(len(records))
        self._load(Opcode.LOAD_SLOTS, b"".join(records), region)
        return region

    def load_table(self, table: bytes | None) -> Region:
        """Addition of a LOAD_TABLE of 256 codes, unless they are there; returns what an EXECUTE
        with the table reads, which without one is nothing."""
        region = Region("table", 0, 0 if table is None else 1)
        if table is None or table == self._table:
            return region
        self._table, beat = table, self.config.bus_bits // 8
        self.add(
            "loads",
            isa.TRANSFER,
            writes=(region,),
            block=self._block(b"".join(bytes([code]).ljust(beat, b"\0") for code in table)),
            opcode=Opcode.LOAD_TABLE,
            base=Base.PROGRAM,
            offset=0,
            beats=len(table),
            destination=0,
        )
        return region

    def _block(self, stored: bytes) -> int:
        """Number of the data block; what is loaded again is stored once."""
        return self.blocks.setdefault(stored, len(self.blocks))

    def _load(self, opcode: Opcode, words: bytes, region: Region) -> None:
        config = self.config
        beats = len(words) * 8 // config.bus_bits
        self.add(
            "loads",
            isa.TRANSFER,
            writes=(region,),
            block=self._block(split_ports(words, beats // region.words, config)),
            opcode=opcode,
            base=Base.PROGRAM,
            offset=0,
            beats=beats // config.ports,
            destination=region.first,
        )

    def link(self) -> bytes:
        """Bytes of the image, data blocks behind the descriptors that point at them.

        Raises ValueError for a field that is out of range.
        """
        at = (len(self.descriptors) + isa.FETCH_AHEAD) * isa.DESCRIPTOR_BYTES
        offsets = []
        for block in self.blocks:
            at = -(-at // ALIGN) * ALIGN
            offsets.append(at)
            at += len(block)
        image = bytearray(at)
        for index, (layout, fields, block) in enumerate(self.descriptors):
            if block is not None:
                fields = {**fields, "offset": offsets[block]}
            start = index * isa.DESCRIPTOR_BYTES
            image[start : start + isa.DESCRIPTOR_BYTES] = isa.pack(layout, **fields).to_bytes(
                isa.DESCRIPTOR_BYTES, "little"
            )
        for offset, block in zip(offsets, self.blocks, strict=True):
            image[offset : offset + len(block)] = block
        return bytes(image)
