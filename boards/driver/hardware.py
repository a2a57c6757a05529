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
        """Make what was written to ``array`` visible to the accelerator."""

    @abc.abstractmethod
    def from_device(self) -> None:
        """Make what the accelerator wrote visible in ``array``."""


class Hardware(abc.ABC):
    """One accelerator and its surroundings.

    interrupts : bool
        :meth:`wait` returns on the accelerator's interrupt; otherwise it only lets time pass.
    """

    interrupts = False

    @abc.abstractmethod
    def read(self, offset: int) -> int:
        """The 32-bit register at byte ``offset``."""

    @abc.abstractmethod
    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at byte ``offset``."""

    @abc.abstractmethod
    def allocate(self, size: int) -> Buffer:
        """``size`` bytes at an address that is a multiple of 4096. Raises NoHardware."""

    @abc.abstractmethod
    def wait(self, seconds: float) -> None:
        """Return at the interrupt, after a polling interval, or after ``seconds``."""

    @abc.abstractmethod
    def now(self) -> float:
        """Seconds since some moment."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Reset the logic, for an accelerator that does not answer to abort."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give everything back."""


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
        return f"{self._used} of {self._size} bytes are taken"
