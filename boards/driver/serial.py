# SPDX-License-Identifier: Apache-2.0
"""An accelerator at the end of a serial line, as on the ECP5 boards.

``gateware/soc/serial.py`` is the other end and describes the protocol. Registers and the
block RAM that is the accelerator's memory are read and written word by word. This runs on any
computer with Linux that the board is plugged into.
"""

import abc
import os
import select
import struct
import termios
import time
import tty
from typing import Any, Dict

import numpy as np

from .errors import NoHardware
from .hardware import Arena, Buffer, Hardware

READ, WRITE, RESET = b"R", b"W", b"X"
WORDS_MAX = 0xFFFF
ANSWER_SECONDS = 1.0
OKAY = 0


class Line(abc.ABC):
    """Serial line: bytes to and from the board."""

    @abc.abstractmethod
    def send(self, data: bytes) -> None:
        """Transmission of all of ``data``."""

    @abc.abstractmethod
    def receive(self, count: int, seconds: float) -> bytes:
        """Next ``count`` bytes, or fewer when ``seconds`` have passed."""

    @abc.abstractmethod
    def pause(self, seconds: float) -> None:
        """Pause of ``seconds``."""

    @abc.abstractmethod
    def now(self) -> float:
        """Seconds of a clock that never goes back."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release of the line."""


class TerminalLine(Line):
    """Serial device of Linux; raises NoHardware where it is not there or not that fast."""

    def __init__(self, device: str, baud: int) -> None:
        speed = getattr(termios, f"B{baud}", None)
        if speed is None:
            raise NoHardware(f"Linux has no serial speed of {baud} baud")
        try:
            self._file = os.open(device, os.O_RDWR | os.O_NOCTTY)
        except OSError as error:
            raise NoHardware(
                f"cannot open {device}: {error.strerror}; is the board plugged in, and are you "
                "in the group "
                "dialout?"
            ) from error
        try:
            tty.setraw(self._file)
            attributes = termios.tcgetattr(self._file)
            attributes[2] = attributes[2] & ~termios.CRTSCTS | termios.CLOCAL
            attributes[4] = attributes[5] = speed
            termios.tcsetattr(self._file, termios.TCSAFLUSH, attributes)
        except termios.error as error:
            os.close(self._file)
            raise NoHardware(f"{device} is not a serial device: {error}") from error

    def send(self, data: bytes) -> None:
        """Transmission of all of ``data``."""
        while data:
            data = data[os.write(self._file, data) :]

    def receive(self, count: int, seconds: float) -> bytes:
        """Next ``count`` bytes, or fewer when ``seconds`` have passed."""
        received, deadline = b"", self.now() + seconds
        while len(received) < count:
            left = deadline - self.now()
            if left <= 0 or not select.select([self._file], [], [], left)[0]:
                break
            received += os.read(self._file, count - len(received))
        return received

    def pause(self, seconds: float) -> None:
        """Pause of ``seconds``."""
        time.sleep(seconds)

    def now(self) -> float:
        """Seconds of a clock that never goes back."""
        return time.monotonic()

    def close(self) -> None:
        """Release of the serial device."""
        os.close(self._file)


class _RemoteBuffer(Buffer):
    """A copy here of memory there."""

    def __init__(self, hardware: "SerialHardware", size: int, address: int) -> None:
        super().__init__(np.zeros(size, np.uint8), address)
        self._hardware = hardware

    def to_device(self) -> None:
        whole = self.array.tobytes()
        self._hardware.write_words(self.address, whole + bytes(-len(whole) % 4))

    def from_device(self) -> None:
        size = self.array.size
        words = self._hardware.read_words(self.address, -(-size // 4))
        self.array[:] = np.frombuffer(words, np.uint8)[:size]


class SerialHardware(Hardware):
    """Accelerator behind ``line``; ``connection`` is that part of ``accelerator.json``."""

    def __init__(self, connection: Dict[str, Any], line: Line) -> None:
        self._line = line
        self._base = connection["register_base"]
        self._arena = Arena(connection["memory_bytes"])
        # Half a command of a program that died: the board forgets it when nothing follows.
        line.pause(connection["silence_seconds"])
        line.receive(1 << 16, 0)

    def read(self, offset: int) -> int:
        """Value of the 32-bit register at byte ``offset``."""
        return struct.unpack("<I", self.read_words(self._base + offset, 1))[0]

    def write(self, offset: int, value: int) -> None:
        """Update of the 32-bit register at byte ``offset`` to ``value``."""
        self.write_words(self._base + offset, struct.pack("<I", value))

    def allocate(self, size: int) -> Buffer:
        """Buffer of ``size`` bytes in the board's memory; raises NoHardware where it is full."""
        offset = self._arena.take(size)
        if offset is None:
            raise NoHardware(
                f"the board has no room for {size} bytes ({self._arena.describe()}); build it "
                "with more block RAM or take "
                "a smaller network"
            )
        return _RemoteBuffer(self, size, offset)

    def wait(self, seconds: float) -> None:
        """Pause of no time: reading the status over the line takes long enough."""

    def now(self) -> float:
        """Seconds of the line's clock."""
        return self._line.now()

    def reset(self) -> None:
        """Reset of the accelerator by a command on the line."""
        self._line.send(RESET)
        self._check(self._receive(1), 0)

    def close(self) -> None:
        """Release of the line."""
        self._line.close()

    def read_words(self, address: int, count: int) -> bytes:
        """Bytes of ``count`` 32-bit words from ``address`` on."""
        found = b""
        while count:
            part = min(count, WORDS_MAX)
            self._line.send(READ + struct.pack("<IH", address, part))
            answer = self._receive(4 * part + 1)
            self._check(answer[-1:], address)
            found += answer[:-1]
            address += 4 * part
            count -= part
        return found

    def write_words(self, address: int, data: bytes) -> None:
        """Transfer of ``data``, whole 32-bit words, to ``address`` and on."""
        while data:
            part = data[: 4 * WORDS_MAX]
            self._line.send(WRITE + struct.pack("<IH", address, len(part) // 4) + part)
            self._check(self._receive(1), address)
            address += len(part)
            data = data[len(part) :]

    def _receive(self, count: int) -> bytes:
        answer = self._line.receive(count, ANSWER_SECONDS + count * 1e-4)
        if len(answer) != count:
            raise NoHardware(
                f"the board answered {len(answer)} of {count} bytes; is its bitstream loaded, "
                "and is this its "
                "serial port?"
            )
        return answer

    def _check(self, status: bytes, address: int) -> None:
        if status[0] != OKAY:
            raise NoHardware(f"the board refused an access to {address:#x} (response {status[0]})")
