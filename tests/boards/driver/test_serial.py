# SPDX-License-Identifier: Apache-2.0
"""The driver's serial line on a pseudo-terminal with a board of a few lines behind it."""

import os
import pty
import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from boards import driver
from boards.driver.serial import SerialHardware, TerminalLine

BASE, SIZE = 0x4000_0000, 1 << 18
CONNECTION = {
    "kind": "serial",
    "register_base": BASE,
    "memory_bytes": SIZE,
    "baud": 1_000_000,
    "silence_seconds": 0.0,
}


class Board(threading.Thread):
    """Answers commands on a file, and remembers what it was asked."""

    def __init__(self, file: int) -> None:
        super().__init__(daemon=True)
        self._file = file
        self.words: dict[int, bytes] = {}
        self.resets = 0
        self.lengths: list[int] = []
        self.mute = False

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            taken += os.read(self._file, count - len(taken))
        return taken

    def run(self) -> None:
        try:
            while True:
                self._answer(self._take(1))
        except OSError:
            pass  # the other end is closed

    def _answer(self, code: bytes) -> None:
        answer = b""
        if code == b"X":
            self.resets += 1
        else:
            address, count = struct.unpack("<IH", self._take(6))
            self.lengths.append(count)
            for at in range(address, address + 4 * count, 4):
                if code == b"W":
                    self.words[at] = self._take(4)
                else:
                    answer += self.words.get(at, bytes(4))
        refused = code == b"R" and address == 8
        answer += bytes([2 if refused else 0])
        if not self.mute:
            while answer:
                answer = answer[os.write(self._file, answer[:1024]) :]


@pytest.fixture
def board() -> Iterator[tuple[Board, SerialHardware]]:
    ours, theirs = pty.openpty()
    thread = Board(ours)
    thread.start()
    hardware = SerialHardware(CONNECTION, TerminalLine(os.ttyname(theirs), CONNECTION["baud"]))
    yield thread, hardware
    hardware.close()
    os.close(theirs)
    os.close(ours)
    thread.join(5)


def test_registers_and_reset(board) -> None:
    thread, hardware = board
    hardware.write(0x10, 0x1234)
    assert thread.words == {BASE + 0x10: b"\x34\x12\0\0"}
    assert hardware.read(0x10) == 0x1234
    hardware.reset()
    assert thread.resets == 1
    start = hardware.now()
    hardware.wait(10)
    assert hardware.now() - start < 1


def test_buffers(board, seed: int) -> None:
    """Of any size, in parts that the protocol can count."""
    _, hardware = board
    first, second = hardware.allocate(10), hardware.allocate(4 * 65_535 // 2 + 3)
    assert (first.address, second.address) == (0, 4096)
    data = np.random.default_rng(seed).integers(0, 256, second.array.size).astype(np.uint8)
    second.array[:] = data
    second.to_device()
    second.array[:] = 0
    second.from_device()
    np.testing.assert_array_equal(second.array, data)
    with pytest.raises(driver.NoHardware, match=r"no room for 200000 bytes .* smaller network"):
        hardware.allocate(200_000)


def test_long_accesses_are_cut(board) -> None:
    thread, hardware = board
    hardware.write_words(0x100, bytes(4 * 65_540))
    assert thread.lengths == [65_535, 5]
    assert len(hardware.read_words(0x100, 65_537)) == 4 * 65_537
    assert thread.lengths[2:] == [65_535, 2]


def test_refusals_and_silence(board) -> None:
    thread, hardware = board
    with pytest.raises(driver.NoHardware, match=r"refused an access to 0x8 \(response 2\)"):
        hardware.read_words(8, 1)
    thread.mute = True
    with pytest.raises(driver.NoHardware, match="answered 0 of 5 bytes; is its bitstream loaded"):
        hardware.read(0)


def test_no_port() -> None:
    with pytest.raises(driver.NoHardware, match="cannot open /dev/none: No such file"):
        TerminalLine("/dev/none", 1_000_000)
    with pytest.raises(driver.NoHardware, match="/dev/null is not a serial device"):
        TerminalLine("/dev/null", 1_000_000)
    with pytest.raises(driver.NoHardware, match="no serial speed of 12345 baud"):
        TerminalLine("/dev/null", 12345)
