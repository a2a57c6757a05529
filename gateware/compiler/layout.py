# SPDX-License-Identifier: Apache-2.0
"""Layout of tensors: in the activation buffer, whole or some rows at a time, and in memory."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.arch.isa import ADDRESS_BITS
from gateware.compiler.dependencies import Region
from gateware.compiler.operations import TensorKey
from ir.numerics import ACT_BITS, act_max

MAX_GROUPS = 255  #: words per pixel that a descriptor can count


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """Layout of a tensor in the activation buffer: planes of groups of rows of columns.

    Parameters
    ----------
    channels, height, width : int
    bits : int
        Of a code: 4 or 8.
    zero_point : int
        Code of the value 0.
    k, banks : int
        Channels of a word, banks of the buffer.
    address : int
        Word address within a bank of group 0, row 0 of the first plane.
    """

    channels: int
    height: int
    width: int
    bits: int
    zero_point: int
    k: int
    banks: int
    address: int = 0

    @classmethod
    def of(
        cls, shape: tuple[int, int, int], config: AccelConfig, *, bits: int, zero_point: int = 0
    ) -> "TensorLayout":
        """Layout of a tensor of ``shape`` (C, H, W) in the buffer of ``config``, at address 0."""
        channels, height, width = shape
        return cls(
            channels=channels,
            height=height,
            width=width,
            bits=bits,
            zero_point=zero_point,
            k=config.k,
            banks=config.banks,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (self.channels, self.height, self.width)

    @property
    def planes(self) -> int:
        """Nibble planes: 1 for 4-bit codes, 2 for 8-bit ones."""
        return self.bits // ACT_BITS

    @property
    def groups(self) -> int:
        """Words per pixel and plane."""
        return -(-self.channels // self.k)

    @property
    def row_pitch(self) -> int:
        """Words in every bank from a row to the next."""
        return -(-self.width // self.banks)

    @property
    def group_pitch(self) -> int:
        """Words in every bank from a group of channels to the next."""
        return self.height * self.row_pitch

    @property
    def plane_pitch(self) -> int:
        """Words in every bank from a plane to the next."""
        return self.groups * self.group_pitch

    @property
    def words(self) -> int:
        """Words that it takes in every bank."""
        return self.planes * self.plane_pitch

    @property
    def wide_pitch(self) -> int:
        """Entries of the wide buffer that a row of a channel takes, where results are wide."""
        return 1 if (self.height, self.width) == (1, 1) else self.row_pitch * self.banks

    @property
    def beats(self) -> int:
        """Bus beats that it takes in memory."""
        return self.height * self.width * self.planes * self.groups

    def pack(self, tensor: np.ndarray) -> bytes:
        """Bytes of integers (C, H, W), in memory order y, x, plane (hi first), channel; two in
        each."""
        nibbles = np.zeros((self.height, self.width, self.planes, self.groups * self.k), np.uint8)
        for plane in range(self.planes):
            part = tensor >> ACT_BITS * (self.planes - 1 - plane) & act_max(ACT_BITS)
            nibbles[:, :, plane, : self.channels] = part.transpose(1, 2, 0)
        flat = nibbles.reshape(-1)
        return (flat[0::2] | flat[1::2] << 4).tobytes()

    def unpack(self, stored: bytes) -> np.ndarray:
        """Integers (C, H, W), int64, of bytes in memory order: the inverse of :meth:`pack`."""
        packed = np.frombuffer(stored, np.uint8)
        flat = np.stack([packed & 15, packed >> 4], -1)
        flat = flat.reshape(self.height, self.width, self.planes, -1)
        parts = flat[:, :, :, : self.channels].astype(np.int64)
        value = parts[:, :, 0] if self.planes == 1 else parts[:, :, 0] << ACT_BITS | parts[:, :, 1]
        return value.transpose(2, 0, 1)


@dataclasses.dataclass(frozen=True)
class Strip:
    """Rows of a tensor that lie in the buffer.

    place : of the rows that are there; its height is their number
    top : the tensor's row that is the first of them
    height : rows of the whole tensor
    group : the tensor's group of channels that is the first of them
    """

    place: TensorLayout
    top: int
    height: int
    group: int = 0

    @classmethod
    def whole(cls, place: TensorLayout) -> "Strip":
        """Strip of all rows of a tensor."""
        return cls(place, 0, place.height)

    def row(self, y: int) -> int:
        """Address of the tensor's row ``y`` in its first group."""
        return self.place.address + (y - self.top) * self.place.row_pitch

    def regions(self, first: int, last: int) -> list[Region]:
        """Words of rows ``first`` to ``last`` (exclusive) of the tensor, group by group."""
        place = self.place
        if first == last:
            return []
        if last - first == place.height:
            return [Region("act", place.address, place.words)]
        rows = (last - first) * place.row_pitch
        return [
            Region("act", self.row(first) + group * place.group_pitch, rows)
            for group in range(place.groups * place.planes)
        ]


@dataclasses.dataclass(frozen=True)
class WindowStrip(Strip):
    """Strip of a tensor in memory of which only some rows at a time have room: ``place`` is as high
    as those.

    load : loads rows ``first`` to ``last`` (exclusive), at most as many as have room, and returns
        their strip
    """

    load: Callable[[int, int], Strip] = dataclasses.field(kw_only=True)

    def regions(self, first: int, last: int) -> list[Region]:
        """No words: what is read is told when it is loaded."""
        return []


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveRange:
    """Live range of a tensor: the steps ``born`` to ``dies``, both inclusive, at which it needs a
    place.

    over : a tensor of the same shape that dies when this one is born, and of which each word is
        read before this one's is written: it may lie there
    """

    key: TensorKey
    place: TensorLayout
    born: int
    dies: int
    over: TensorKey | None = None
    copies: int = 1  #: places of this form, one after the other

    @property
    def words(self) -> int:
        """Words that all its places take in every bank."""
        return self.copies * self.place.words


class NoRoom(ValueError):
    """Shortage of the activation buffer: tensors that are needed together are larger than it."""

    def __init__(self, live: LiveRange, used: int) -> None:
        super().__init__(str(live.key))
        self.live, self.used = live, used


def allocate(
    live_ranges: Iterable[LiveRange], config: AccelConfig
) -> dict[TensorKey, TensorLayout]:
    """Layouts of tensors, first fit in the order given. Raises NoRoom."""
    depth = min(config.act_depth, 1 << ADDRESS_BITS)
    placed: list[tuple[LiveRange, TensorLayout]] = []
    for live in live_ranges:
        beside = sorted(
            (
                (other, place.address, place.address + other.words)
                for other, place in placed
                if other.born <= live.dies and live.born <= other.dies
            ),
            key=lambda taken: taken[1],
        )
        address = _over(live, beside, depth)
        if address is None:
            address = 0
            for _, begin, end in beside:
                if address + live.words <= begin:
                    break
                address = max(address, end)
        if address + live.words > depth:
            raise NoRoom(live, sum(other.words for other, *_ in beside))
        placed.append((live, dataclasses.replace(live.place, address=address)))
    return {live.key: place for live, place in placed}


def _over(live: LiveRange, beside: list[tuple[LiveRange, int, int]], depth: int) -> int | None:
    """The address of the tensor that this one may lie over, if nothing else is there."""
    address = next((begin for other, begin, _ in beside if other.key == live.over), None)
    if (
        address is None
        or address + live.words > depth
        or any(
            begin < address + live.words and address < end
            for other, begin, end in beside
            if other.key != live.over
        )
    ):
        return None
    return address
