# SPDX-License-Identifier: Apache-2.0
"""Hazards: whether a program waits for all it must, from what its descriptors really touch.

The three queues of the accelerator overlap. An order of two accesses to one word is certain when a
chain of waits, and of the order within a queue, leads from one to the other. Which descriptors are
certainly complete when another one begins is a vector clock, one number per queue.
"""

from collections.abc import Mapping

import numpy as np

from gateware.arch.isa import COUNT_BITS, QUEUES


class HazardError(RuntimeError):
    """Access to a word that a descriptor which was not waited for may still use."""


class Hazards:
    """Checker of a run, descriptor by descriptor in the order of the program.

    Parameters
    ----------
    shapes : mapping
        Shape of each buffer, whose elements are what :meth:`read` and :meth:`write` name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._written, self._read = (
            {
                buffer: {queue: np.zeros(shape, np.int64) for queue in QUEUES}
                for buffer, shape in shapes.items()
            }
            for _ in range(2)
        )
        self._clocks = {queue: [dict.fromkeys(QUEUES, 0)] for queue in QUEUES}
        self._queue, self._index = "loads", 0

    def begin(self, queue: str, index: int, waits: Mapping[str, int]) -> None:
        """Step to the next descriptor, number ``index`` of the program.

        Raises HazardError for a wait that cannot end, because what it waits for comes later in the
        program.
        """
        self._queue, self._index = queue, index
        clock = dict(self._clocks[queue][-1])
        for other in QUEUES:
            count = len(self._clocks[other]) - 1
            behind = (count - waits[other]) % (1 << COUNT_BITS)
            if behind >= 1 << COUNT_BITS - 1:
                raise HazardError(
                    f"descriptor {index} waits for {waits[other]} {other}, "
                    f"before it there are {count}"
                )
            seen = count - behind
            for name, known in self._clocks[other][max(seen, 0)].items():
                clock[name] = max(clock[name], known)
            clock[other] = max(clock[other], seen)
        self._clocks[queue].append(clock)

    def read(self, buffer: str, *where: np.ndarray) -> None:
        """Record of elements that the descriptor reads. Raises HazardError."""
        self._check("reads", self._written, buffer, where, also_executes=True)
        self._read[buffer][self._queue][where] = len(self._clocks[self._queue]) - 1

    def write(self, buffer: str, *where: np.ndarray) -> None:
        """Record of elements that the descriptor writes. Raises HazardError."""
        self._check("writes", self._written, buffer, where)
        self._check("writes", self._read, buffer, where)
        self._written[buffer][self._queue][where] = len(self._clocks[self._queue]) - 1

    def _check(
        self,
        does: str,
        past: dict[str, dict[str, np.ndarray]],
        buffer: str,
        where: tuple[np.ndarray, ...],
        *,
        also_executes: bool = False,
    ) -> None:
        clock = self._clocks[self._queue][-1]
        for other, users in past[buffer].items():
            if other == self._queue and not (other == "executes" and also_executes):
                continue  # in order
            found = users[where]
            if other == self._queue:
                # A result may lie over its residual operand, which is read before.
                found = np.where(found == len(self._clocks[other]) - 1, 0, found)
            if found.max(initial=0) > clock[other]:
                at = int(np.argmax(found))
                place = [int(np.broadcast_to(axis, found.shape).flat[at]) for axis in where]
                raise HazardError(
                    f"descriptor {self._index} {does} word {place} of buffer {buffer}, which "
                    f"number {int(found.flat[at])} of the {other} uses, without waiting for it"
                )
