# SPDX-License-Identifier: Apache-2.0
"""Interface of a machine: registers, buffers, an interrupt, a clock, a reset."""

import abc

import numpy as np


class Buffer(abc.ABC):
    """Memory that the accelerator reaches.

    array : np.ndarray
        Its bytes as the processor sees them, uint8.
    address : int
        Where the accelerator sees them.
    """

    def __init__(self, array: np.ndarray, address: int) -> None:
        self.array = array
        self.address = address

    @abc.abstractmethod
    def to_device(self) -> None:
        """Flush of ``array``: the accelerator sees what was written to it."""

    @abc.abstractmethod
    def from_device(self) -> None:
        """Invalidation of ``array``: it shows what the accelerator wrote."""


class Hardware(abc.ABC):
    """Access to one accelerator and its surroundings.

    interrupts : bool
        :meth:`wait` returns on the accelerator's interrupt; otherwise it only lets time pass.
    """

    interrupts = False

    @abc.abstractmethod
    def read(self, offset: int) -> int:
        """Value of the 32-bit register at byte ``offset``."""

    @abc.abstractmethod
    def write(self, offset: int, value: int) -> None:
        """Update of the 32-bit register at byte ``offset`` to ``value``."""

    @abc.abstractmethod
    def allocate(self, size: int) -> Buffer:
        """Buffer of ``size`` bytes, its address a multiple of 4096. Raises NoHardware."""

    @abc.abstractmethod
    def wait(self, seconds: float) -> None:
        """Pause until the interrupt, a polling interval, or ``seconds`` have passed."""

    @abc.abstractmethod
    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Reset of the logic, for an accelerator that does not answer to abort."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release of everything."""


class Arena:
    """Allocator of page-aligned pieces of one block of memory; nothing is given back singly."""

    PAGE = 4096

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0

    def take(self, size: int) -> "int | None":
        """Offset of ``size`` free bytes, or None."""
        start = -(-self._used // self.PAGE) * self.PAGE
        if start + size > self._size:
            return None
        self._used = start + size
        return start

    def describe(self) -> str:
        """Text with the bytes that are taken, for messages."""
        return f"{self._used} of {self._size} bytes are taken"
