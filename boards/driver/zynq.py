# SPDX-License-Identifier: Apache-2.0
"""A Zynq-7000 under Linux: registers by UIO or /dev/mem, buffers by u-dma-buf or PYNQ.

The HP ports see the memory, not the processor's caches. Buffers of both kinds are therefore mapped
cacheable and synchronised by hand around every run: written data is flushed before the start, and
cache lines over the results are dropped before they are read. Both are system calls, which are also
the barriers that order the data before the register write that starts the run.
"""

import mmap
import os
import select
import time
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np

from . import slcr
from .errors import NoHardware
from .hardware import Arena, Buffer, Hardware

POLL_SECONDS = 50e-6
#: Both names of the class: before version 3 of the module, and since.
DMA_CLASSES = ("sys/class/u-dma-buf", "sys/class/udmabuf")


class _DmaBuffer(Buffer):
    """A piece of a u-dma-buf device."""

    def __init__(self, array: np.ndarray, address: int, offset: int, attributes: Path) -> None:
        super().__init__(array, address)
        self._offset = offset
        self._attributes = attributes

    def to_device(self) -> None:
        self._sync("sync_for_device")

    def from_device(self) -> None:
        self._sync("sync_for_cpu")

    def _sync(self, how: str) -> None:
        for name, value in (
            ("sync_offset", self._offset),
            ("sync_size", self.array.size),
            ("sync_direction", 0),  # both ways
            (how, 1),
        ):
            (self._attributes / name).write_text(f"{value}\n")


class DmaBufDevice:
    """Memory of one u-dma-buf device, cut into buffers."""

    def __init__(self, device: Path, attributes: Path) -> None:
        self._attributes = attributes
        size = int((attributes / "size").read_text(), 0)
        self._address = int((attributes / "phys_addr").read_text(), 0)
        self._arena = Arena(size)
        self._name = device
        # Without O_SYNC: cacheable.
        self._memory, self._bytes = _map(device, size, 0, os.O_RDWR, np.uint8)

    def allocate(self, size: int) -> Buffer:
        """Buffer of ``size`` bytes on whole pages; raises NoHardware where the device is full."""
        offset = self._arena.take(size)
        if offset is None:
            raise NoHardware(
                f"{self._name} has no room for {size} bytes ({self._arena.describe()}); load "
                "u-dma-buf with a larger size"
            )
        array = self._bytes[offset : offset + size]
        return _DmaBuffer(array, self._address + offset, offset, self._attributes)


class _PynqBuffer(Buffer):
    def __init__(self, buffer: Any) -> None:
        super().__init__(np.asarray(buffer), buffer.device_address)
        self._buffer = buffer

    def to_device(self) -> None:
        self._buffer.flush()

    def from_device(self) -> None:
        self._buffer.invalidate()


class PynqMemory:
    """Memory of the PYNQ package, cut into buffers."""

    def __init__(self, pynq: Any) -> None:
        self._pynq = pynq

    def allocate(self, size: int) -> Buffer:
        """Buffer of ``size`` bytes on whole pages; raises NoHardware where PYNQ has none."""
        # Whole pages: they are aligned, and no other buffer shares their cache lines.
        pages = -(-size // Arena.PAGE) * Arena.PAGE
        try:
            buffer = _PynqBuffer(self._pynq.allocate(shape=(pages,), dtype=np.uint8))
        except (RuntimeError, MemoryError) as error:
            raise NoHardware(f"PYNQ has no {size} contiguous bytes: {error}") from error
        buffer.array = buffer.array[:size]
        return buffer


def find_memory(root: Path) -> "Any":
    """Allocator of contiguous memory: u-dma-buf where its module is loaded, else PYNQ.

    Raises NoHardware with the way out.
    """
    for name in DMA_CLASSES:
        for attributes in sorted((root / name).glob("*")):
            return DmaBufDevice(root / "dev" / attributes.name, attributes)
    try:
        import pynq
    except ImportError:
        raise NoHardware(
            "no contiguous memory: load the module u-dma-buf (insmod u-dma-buf.ko "
            "udmabuf0=16777216), or use a PYNQ image"
        ) from None
    return PynqMemory(pynq)


def find_uio(base: int, root: Path) -> Optional[Path]:
    """Path of the UIO device whose first map begins at ``base``, or None."""
    for device in sorted((root / "sys/class/uio").glob("uio*")):
        try:
            address = int((device / "maps/map0/addr").read_text(), 0)
        except (OSError, ValueError):
            continue
        if address == base:
            return root / "dev" / device.name
    return None


class ZynqHardware(Hardware):
    """Accelerator of a Zynq-7000.

    Parameters
    ----------
    connection : dict
        Part ``connection`` of the package's ``accelerator.json``.
    clock_hz : int
        Frequency that FCLK0 is set to.
    window_bytes : int
        Size of the register window, in bytes.
    memory : optional
        Anything with ``allocate(size)``; by default what :func:`find_memory` finds.
    root : Path
        Where ``dev`` and ``sys`` are; for tests.

    Raises NoHardware when the system lacks something; the message says what.
    """

    def __init__(
        self,
        *,
        connection: Dict[str, Any],
        clock_hz: int,
        window_bytes: int,
        memory: Any = None,
        root: Path = Path("/"),
    ) -> None:
        base = connection["register_base"]
        self._root = root
        self._interrupt: Optional[int] = None
        device = find_uio(base, root)
        try:
            self._system, system = _map(
                root / "dev/mem", slcr.SIZE, slcr.BASE, os.O_RDWR | os.O_SYNC, np.uint32
            )
            self._slcr = slcr.Slcr(system, connection["ps_clock_hz"])
            #: What FCLK0 became; at most ``clock_hz``.
            self.clock_hz = self._slcr.set_fclk0(clock_hz)
            self._slcr.use_64_bit_ports(connection["hp_ports"])
            if device is not None:
                self._interrupt = os.open(str(device), os.O_RDWR)
                self._window, self._registers = _map(
                    device, window_bytes, 0, os.O_RDWR | os.O_SYNC, np.uint32
                )
            else:
                self._window, self._registers = _map(
                    root / "dev/mem", window_bytes, base, os.O_RDWR | os.O_SYNC, np.uint32
                )
        except PermissionError as error:
            raise NoHardware(f"{error.filename} needs root: use sudo") from error
        except OSError as error:
            raise NoHardware(f"cannot map the registers: {error}") from error
        self.interrupts = self._interrupt is not None
        self._memory = find_memory(root) if memory is None else memory

    def read(self, offset: int) -> int:
        """Value of the 32-bit register at byte ``offset``."""
        return int(self._registers[offset // 4])

    def write(self, offset: int, value: int) -> None:
        """Update of the 32-bit register at byte ``offset`` to ``value``."""
        self._registers[offset // 4] = value

    def allocate(self, size: int) -> Buffer:
        """Buffer of ``size`` bytes of contiguous memory; raises NoHardware where there is none."""
        return self._memory.allocate(size)

    def wait(self, seconds: float) -> None:
        """Pause until the interrupt or ``seconds`` have passed; without interrupts a short one."""
        if self._interrupt is None:
            time.sleep(min(seconds, POLL_SECONDS))
            return
        os.write(self._interrupt, (1).to_bytes(4, "little"))  # unmask
        if select.select([self._interrupt], [], [], seconds)[0]:
            os.read(self._interrupt, 4)

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def reset(self) -> None:
        """Reset of the accelerator by the processing system."""
        self._slcr.reset_logic()

    def close(self) -> None:
        """Release of the interrupt."""
        if self._interrupt is not None:
            os.close(self._interrupt)
            self._interrupt = None


def _map(device: Path, size: int, offset: int, flags: int, dtype: Any) -> Any:
    """``size`` bytes of a device and the same as an array, so that a word is one access."""
    file = os.open(str(device), flags)
    try:
        mapped = mmap.mmap(file, size, offset=offset)
    finally:
        os.close(file)
    return mapped, np.frombuffer(mapped, dtype)
