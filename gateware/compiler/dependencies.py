# SPDX-License-Identifier: Apache-2.0
"""Waits of descriptors: who wrote and who read every word that it touches."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from gateware.arch import isa
from gateware.arch.config import AccelConfig

_MEMORY_WORDS = 1 << 20  #: more than a run spills
_FARTHEST = 1 << isa.COUNT_BITS - 2  #: how far behind a wait may be


@dataclasses.dataclass(frozen=True)
class Region:
    """Words ``first`` to ``first + words`` of a buffer, which begins anew at its end.

    Buffer ``memory`` are the bus words from OUTPUT_BASE on.
    """

    buffer: str
    first: int
    words: int


class Dependencies:
    """Counters of the descriptors of every queue, from which their waits follow.

    Loads, executes and stores overlap, so a descriptor waits for those of other queues that wrote
    what it reads, or read or wrote what it writes. Within a queue order is enough, but for an
    EXECUTE that reads what another one wrote, because its words may enter the array before those
    results are written.

    Parameters
    ----------
    config : AccelConfig
    """

    def __init__(self, config: AccelConfig) -> None:
        depths = {
            "memory": _MEMORY_WORDS,
            "act": config.act_depth,
            "weights": config.weight_depth,
            "slots": config.slot_depth,
            "wide": config.wide_depth,
            "table": 1,
        }
        self._written, self._read = (
            {
                buffer: {queue: np.zeros(depth, np.int64) for queue in isa.QUEUES}
                for buffer, depth in depths.items()
            }
            for _ in range(2)
        )
        self._depths = depths
        self._counts = dict.fromkeys(isa.QUEUES, 0)

    def add(
        self, queue: str, *, reads: Iterable[Region] = (), writes: Iterable[Region] = ()
    ) -> dict[str, int]:
        """Waits of the next descriptor of ``queue``, which counts from now on: how many
        descriptors of each queue must be complete before it, modulo 2^16."""
        read = [part for region in reads for part in self._parts(region)]
        written = [part for region in writes for part in self._parts(region)]
        waits = dict.fromkeys(isa.QUEUES, 0)
        for other in isa.QUEUES:
            found = []
            if other != queue or queue == "executes":
                found += [self._written[buffer][other][words] for buffer, words in read]
            if other != queue:
                found += [
                    past[buffer][other][words]
                    for past in (self._written, self._read)
                    for buffer, words in written
                ]
            # Not far behind, because counts are compared modulo 2^16.
            waits[other] = max((int(counts.max()) for counts in found), default=0)
            waits[other] = max(waits[other], self._counts[other] - _FARTHEST)
        self._counts[queue] += 1
        for past, parts in ((self._read, read), (self._written, written)):
            for buffer, words in parts:
                past[buffer][queue][words] = self._counts[queue]
        return {name: count % (1 << isa.COUNT_BITS) for name, count in waits.items()}

    def users(self, region: Region) -> np.ndarray:
        """Number of executes that must be complete before each word may be written, int64
        (words,)."""
        found = [
            np.maximum(
                self._read[buffer]["executes"][words], self._written[buffer]["executes"][words]
            )
            for buffer, words in self._parts(region)
        ]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _parts(self, region: Region) -> Iterator[tuple[str, slice]]:
        """Words of a region, up to the buffer's end and from its beginning on; none is empty."""
        depth, words = self._depths[region.buffer], region.words
        while words > 0:
            first = (region.first + region.words - words) % depth
            taken = min(words, depth - first)
            yield region.buffer, slice(first, first + taken)
            words -= taken


class Ring:
    """Allocator of places in a buffer, one after the other and from its end on to its beginning.

    Parameters
    ----------
    buffer : str
    depth : int
        Words.
    """

    def __init__(self, buffer: str, depth: int) -> None:
        self._buffer, self._depth, self._next = buffer, depth, 0

    def take(self, words: int) -> Region:
        """Region of the next ``words``."""
        region = Region(self._buffer, self._next, words)
        self._next = (self._next + words) % self._depth
        return region


def pieces(users: np.ndarray, least: int) -> list[int]:
    """Sizes, in words, of the pieces of a load whose first words need not wait for the last.

    ``users`` is what :meth:`Dependencies.users` says. No piece but the last has fewer than
    ``least`` words.
    """
    cuts = [0]
    for at in (np.flatnonzero(np.diff(users)) + 1).tolist():
        if at - cuts[-1] >= least and len(users) - at >= least:
            cuts.append(at)
    return np.diff([*cuts, len(users)]).tolist()
