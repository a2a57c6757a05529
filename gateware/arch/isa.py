# SPDX-License-Identifier: Apache-2.0
"""Descriptors and drain slots: the one owner of every bit that compiler and accelerator exchange.

A program is a list of 512-bit descriptors in memory. Loads, executes and stores go to a queue
each. A queue works in order, beside the other two; a descriptor begins when as many descriptors of
every queue are complete as its ``wait_loads``, ``wait_executes`` and ``wait_stores`` say, counted
from the start of the run. An execute may begin while the one before is still being drained, unless
it waits for it. Fields are unsigned; addresses of the activation buffer are word addresses within a
bank and wrap at 16 bits, those of the weight and slot buffers wrap at the end of the buffer.
"""

import dataclasses
import enum
import functools
import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, cast

from amaranth.hdl import unsigned
from amaranth.lib import data
from amaranth.utils import ceil_log2

from gateware.arch.config import AccelConfig
from ir import numerics

VERSION = 2  #: changes when a program means something else
DESCRIPTOR_BITS = 512
DESCRIPTOR_BYTES = DESCRIPTOR_BITS // 8
ADDRESS_BITS = 16  #: of the activation, weight and slot buffers
SIZE_BITS = 10  #: of heights and widths
BEATS_BITS = 20  #: of transfer lengths
WIDE_BITS = 64  #: of one raw output in memory, sign-extended
COUNT_BITS = 16  #: of waits; counts are compared modulo 2^16, less than half of it apart
FETCH_GROUP = 4  #: descriptors that are fetched together
FETCH_AHEAD = 16  #: descriptors that may be fetched beyond END, and are then ignored


class Opcode(enum.IntEnum):
    """Kind of a descriptor."""

    END = 1  #: when all before is complete, finish the run and raise the interrupt
    LOAD_WEIGHTS = 2  #: memory -> weight buffer
    LOAD_SLOTS = 3  #: memory -> slot buffer
    LOAD_TENSOR = 4  #: memory -> activation buffer
    STORE_TENSOR = 5  #: activation buffer -> memory
    STORE_WIDE = 6  #: raw outputs -> memory, one 64-bit integer each
    EXECUTE = 7  #: one row tile over all output pixels
    LOAD_TABLE = 8  #: memory -> tables of the requantisers, of an array that has them


#: The queues, and what goes to each.
QUEUES = {
    "loads": (Opcode.LOAD_WEIGHTS, Opcode.LOAD_SLOTS, Opcode.LOAD_TENSOR, Opcode.LOAD_TABLE),
    "executes": (Opcode.EXECUTE,),
    "stores": (Opcode.STORE_TENSOR, Opcode.STORE_WIDE),
}


class Base(enum.IntEnum):
    """Base register that a memory offset counts from."""

    PROGRAM = 0
    INPUT = 1
    OUTPUT = 2


OPCODE_BITS = 8
_HEADER = {
    "opcode": OPCODE_BITS,
    "wait_loads": COUNT_BITS,  #: LOAD_* descriptors that must be complete
    "wait_executes": COUNT_BITS,  #: EXECUTE descriptors, every result of theirs written
    "wait_stores": COUNT_BITS,  #: STORE_* descriptors, answered by the memory
}

#: First fields of every descriptor: opcode and waits.
HEADER = data.StructLayout(_HEADER)

_TRANSFER = {
    **_HEADER,
    "base": 8,  #: a Base
    "offset": 32,  #: bytes from the base register, a multiple of the bus width
    "beats": BEATS_BITS,  #: bus beats to move
}

#: LOAD_WEIGHTS, LOAD_SLOTS: ``beats`` of every port into whole buffer words from word
#: ``destination`` on. The ports' parts follow one another in memory; port p brings the beats p,
#: p + ports, p + 2 * ports... of each word.
#: LOAD_TABLE: 256 beats of the first port, the low byte of each is an entry, from the first on.
#: STORE_WIDE: entries of the wide buffer from number ``destination`` on, 64 bits each.
TRANSFER = data.StructLayout({**_TRANSFER, "destination": ADDRESS_BITS})

#: LOAD_TENSOR, STORE_TENSOR: memory order is y, x, group (channels last, hi plane first).
TENSOR = data.StructLayout(
    {
        **_TRANSFER,
        "address": ADDRESS_BITS,  #: of group 0, row 0
        "height": SIZE_BITS,
        "width": SIZE_BITS,
        "groups": 8,  #: words per pixel, all planes together
        "group_pitch": ADDRESS_BITS,  #: words from one group to the next, height * row_pitch
        "row_pitch": ADDRESS_BITS,  #: words from one row to the next
    }
)

#: EXECUTE: for each output row, each ``pixels`` output columns: for plane, ky, kx, group: one word.
EXECUTE = data.StructLayout(
    {
        **_HEADER,
        "pool": 1,  #: the pool engine's lanes are drained, not the rows'
        "pool_sum": 1,  #: pool by sum instead of maximum
        "wide": 1,  #: results go to the wide buffer as t
        "out_planes": 1,  #: output planes - 1: 0 for a 4-bit tensor, 1 for 8 bits
        "residual": 1,  #: add a residual operand
        "residual_planes": 1,  #: residual planes - 1
        "planes": 1,  #: input planes - 1
        "table": 1,  #: codes after the clamp are looked up in the table
        "first_row": ADDRESS_BITS,  #: input address of group 0, row -pad_top
        "height": SIZE_BITS,
        "width": SIZE_BITS,
        "groups": 8,  #: input words per pixel and plane
        "group_pitch": ADDRESS_BITS,
        "row_pitch": ADDRESS_BITS,
        "row_step": ADDRESS_BITS,  #: row_pitch * stride_y
        "plane_pitch": ADDRESS_BITS,  #: words from the hi plane to the lo plane
        "kernel_y": 8,
        "kernel_x": 8,
        "stride_y": 4,
        "stride_x": 4,
        "pad_top": 5,
        "pad_left": 5,
        "pad_value": 8,  #: code outside the image, hi nibble for the hi plane
        "out_height": SIZE_BITS,
        "out_width": SIZE_BITS,
        "out_address": ADDRESS_BITS,
        "out_row_pitch": ADDRESS_BITS,
        "out_plane_pitch": ADDRESS_BITS,
        "residual_address": ADDRESS_BITS,
        "residual_plane_pitch": ADDRESS_BITS,
        "residual_n": numerics.RESIDUAL_BITS,
        "low": 8,
        "high": 8,
        "weight_address": ADDRESS_BITS,
        "slot_address": ADDRESS_BITS,
        "slots": ADDRESS_BITS,
        # Of an array with tables:
        # A lane's sum is multiplied by 256 r and M, less 2^16 where M is not 0, instead of by M; r
        # is the residual operand, of 8 bits, for which 255 - r is added as a residual. M is a
        # multiple of 256.
        "product": 1,
        "broadcast": 1,  #: the residual operand is that of the first pixel, for all
        # Of an array with parts; for one pixel group, in a single plane:
        "resume": 1,  #: sums begin with those of the EXECUTE before
        "lower": 1,  #: with ``resume``: 16 times those, because this is the low plane
    }
)
#: Fields of EXECUTE that bound its loops: none may be 0.
LOOPS = ("groups", "kernel_y", "kernel_x", "out_height", "out_width", "slots")
#: Fields of EXECUTE that only an array with tables or parts has, and those of parts: the last ones.
TABLE_FIELDS = ("product", "broadcast")
PART_FIELDS = ("resume", "lower")

#: Layout of the descriptors of each opcode; of END only the header counts.
LAYOUTS: Mapping[Opcode, data.StructLayout] = {
    Opcode.END: TRANSFER,
    Opcode.LOAD_WEIGHTS: TRANSFER,
    Opcode.LOAD_SLOTS: TRANSFER,
    Opcode.LOAD_TENSOR: TENSOR,
    Opcode.STORE_TENSOR: TENSOR,
    Opcode.STORE_WIDE: TRANSFER,
    Opcode.EXECUTE: EXECUTE,
    Opcode.LOAD_TABLE: TRANSFER,
}


def execute_layout(config: AccelConfig) -> data.StructLayout:
    """Layout of EXECUTE as an array of ``config`` reads it."""
    if config.parts:
        return EXECUTE
    absent = PART_FIELDS if config.tables else (*TABLE_FIELDS, *PART_FIELDS)
    return data.StructLayout({name: field.shape for name, field in EXECUTE if name not in absent})


def opcodes(config: AccelConfig, queue: str) -> tuple[Opcode, ...]:
    """Opcodes of a queue of :data:`QUEUES` that an array of ``config`` has."""
    return tuple(o for o in QUEUES[queue] if config.tables or o is not Opcode.LOAD_TABLE)


_OPCODES = frozenset(Opcode)
_QUEUE_OF = {opcode: name for name, opcodes in QUEUES.items() for opcode in opcodes}


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """Descriptor with its fields decoded.

    Parameters
    ----------
    opcode : Opcode
    fields : dict of str to int
        Every field of the opcode's layout, the header's among them; unsigned.
    """

    opcode: Opcode
    fields: dict[str, int]

    @property
    def queue(self) -> str:
        """Queue that the descriptor goes to, a key of :data:`QUEUES`. Raises ValueError for END."""
        if self.opcode not in _QUEUE_OF:
            raise ValueError(f"{self.opcode.name} goes to no queue")
        return _QUEUE_OF[self.opcode]

    @property
    def waits(self) -> dict[str, int]:
        """Number of descriptors of each queue that must be complete before it, modulo 2^16."""
        return {name: self.fields[f"wait_{name}"] for name in QUEUES}


@functools.cache
def slot_layout(config: AccelConfig) -> data.StructLayout:
    """Layout of a drain slot: what every requantiser lane takes, where every nibble column puts it.

    Lane ``q`` requantises engine lane ``row * requant_lanes + q`` (rows first, then pool lanes);
    ``column`` says which nibble column brings its residual operand. Column ``j`` writes the result
    of lane ``lane`` at ``offset`` words from the pixel. Raw outputs leave lane by lane: that of
    lane ``q`` goes to the entry of the wide buffer that is ``columns[q].offset``, and the pixel's
    number (its word, then its bank), from the one at ``out_address``.
    """
    lanes, k = config.requant_lanes, config.k
    lane = data.StructLayout(
        {
            "row": ceil_log2((config.rows + k) // lanes),
            "column": ceil_log2(k),
            "multiplier": numerics.MULTIPLIER_BITS,
            "bias": numerics.BIAS_BITS,
            "shift": unsigned(numerics.SHIFT_MAX.bit_length()),
        }
    )
    column = data.StructLayout(
        {
            "enable": 1,
            "lane": ceil_log2(lanes),
            "offset": ADDRESS_BITS,
        }
    )
    return data.StructLayout(
        {
            "lanes": data.ArrayLayout(lane, lanes),
            "columns": data.ArrayLayout(column, k),
        }
    )


@functools.cache
def _places(config: AccelConfig) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Offset and width of each field of a slot's first lane and column, and the way to the next."""
    layout, places = slot_layout(config), {}
    for part in ("lanes", "columns"):
        array = layout[part].shape
        assert isinstance(array, data.ArrayLayout) and isinstance(
            array.elem_shape, data.StructLayout
        )
        element = array.elem_shape
        places[part] = {
            name: (layout[part].offset + field.offset, field.width, element.size)
            for name, field in element
        }
    return places


def slot_bits(config: AccelConfig, **parts: Sequence[Mapping[str, int]]) -> int:
    """Bits of a slot from the fields of its ``lanes`` and ``columns``.

    From integers at once: a large network has hundreds of slots of a hundred fields, and Amaranth
    would make an object of each.
    """
    value = 0
    for part, entries in parts.items():
        places = _places(config)[part]
        for index, entry in enumerate(entries):
            for name, given in entry.items():
                offset, width, step = places[name]
                value |= (int(given) & (1 << width) - 1) << offset + index * step
    return value


@functools.cache
def slot_beats(config: AccelConfig) -> int:
    """Bus beats of one stored slot, the same number for every port."""
    return config.whole_beats(slot_layout(config).size)


def _fields(layout: data.StructLayout) -> dict[str, tuple[int, int]]:
    """Offset and width of each field, as integers: Amaranth computes them anew each time."""
    return _fields_of(cast(Hashable, layout))


@functools.cache
def _fields_of(layout: Any) -> dict[str, tuple[int, int]]:
    return {name: (field.offset, field.width) for name, field in layout}


def pack(layout: data.StructLayout, **fields: int) -> int:
    """Bits of a descriptor; ValueError unless every field is named and in range."""
    places = _fields(layout)
    missing = places.keys() ^ fields.keys()
    if missing:
        raise ValueError(f"descriptor fields {sorted(missing)} are missing or unknown")
    bits = 0
    for name, (offset, width) in places.items():
        value = int(fields[name])
        if value >> width:
            raise ValueError(f"descriptor field {name} = {value} does not fit {width} bits")
        bits |= value << offset
    return bits


def unpack(layout: data.StructLayout, bits: int) -> dict[str, int]:
    """Fields of ``layout`` in ``bits``, the inverse of :func:`pack`."""
    return {
        name: bits >> offset & (1 << width) - 1 for name, (offset, width) in _fields(layout).items()
    }


def decode(bits: int) -> Descriptor:
    """Descriptor in a word of 512 bits. Raises ValueError for an opcode that does not exist."""
    number = unpack(HEADER, bits)["opcode"]
    if number not in _OPCODES:
        raise ValueError(f"opcode {number}")
    opcode = Opcode(number)
    return Descriptor(opcode, unpack(LAYOUTS[opcode], bits))


def descriptors(image: bytes) -> Iterator[Descriptor]:
    """Descriptors of a program's memory image from its first byte to END, which is the last.

    Raises ValueError naming the descriptor, when it is reached, that has no opcode.
    """
    for index in itertools.count():
        start = index * DESCRIPTOR_BYTES
        word = int.from_bytes(image[start : start + DESCRIPTOR_BYTES], "little")
        try:
            descriptor = decode(word)
        except ValueError as error:
            raise ValueError(f"descriptor {index} has {error}") from error
        yield descriptor
        if descriptor.opcode is Opcode.END:
            return


def unpack_slot(config: AccelConfig, bits: int) -> dict[str, list[dict[str, int]]]:
    """Fields of a drain slot's ``lanes`` and ``columns``, the inverse of :func:`slot_bits`.

    The bias is signed, all else unsigned.
    """
    counts = {"lanes": config.requant_lanes, "columns": config.k}
    slot = {
        part: [
            {
                name: bits >> offset + index * step & (1 << width) - 1
                for name, (offset, width, step) in places.items()
            }
            for index in range(counts[part])
        ]
        for part, places in _places(config).items()
    }
    for lane in slot["lanes"]:
        lane["bias"] -= (lane["bias"] >> numerics.BIAS_BITS - 1) << numerics.BIAS_BITS
    return slot
