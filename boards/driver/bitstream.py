# SPDX-License-Identifier: Apache-2.0
"""Bitstreams of a Zynq-7000, loaded through Linux's FPGA manager."""

import shutil
import struct
from pathlib import Path

import numpy as np

from .errors import NoHardware, WrongPackage

SYNC = bytes.fromhex("aa995566")  #: begins every 7-series bitstream
MANAGER = "sys/class/fpga_manager/fpga0"
FIRMWARE = "lib/firmware"


def fpga_manager_image(content: bytes) -> bytes:
    """Image for the FPGA manager of a Zynq-7000: the words of ``content`` with swapped bytes.

    ``content`` is a ``.bit`` file (with its header), a ``.bin`` file of Vivado, or a ``.bin`` file
    that is swapped already. Raises WrongPackage for anything else.
    """
    if content[:2] == b"\x00\x09":
        content = _strip_header(content)
    at, swapped_at = content.find(SYNC, 0, 1024), content.find(SYNC[::-1], 0, 1024)
    if at < 0 and swapped_at < 0:
        raise WrongPackage("the bitstream has no sync word; it is not for a 7-series FPGA")
    if 0 <= swapped_at and (at < 0 or swapped_at < at):
        return content
    if len(content) % 4:
        raise WrongPackage(f"the bitstream is truncated: {len(content)} bytes")
    return np.frombuffer(content, "<u4").byteswap().tobytes()


def _strip_header(content: bytes) -> bytes:
    """The configuration data of a ``.bit`` file, field ``e`` of its header."""
    try:
        (skip,) = struct.unpack_from(">H", content, 0)
        at = 2 + skip + 2
        while True:
            key = content[at : at + 1]
            if key == b"e":
                (size,) = struct.unpack_from(">I", content, at + 1)
                data = content[at + 5 : at + 5 + size]
                if len(data) != size:
                    break
                return data
            if key not in (b"a", b"b", b"c", b"d"):
                break
            (size,) = struct.unpack_from(">H", content, at + 1)
            at += 3 + size
    except struct.error:
        pass
    raise WrongPackage("the header of the bitstream is damaged; copy it again")


def load(bitstream: Path, root: Path = Path("/")) -> None:
    """Configuration of the FPGA with ``bitstream``, by the FPGA manager of Linux under ``root``.

    Raises NoHardware without an FPGA manager or where it refuses, WrongPackage for a file that is
    no bitstream of a 7-series FPGA.
    """
    manager = root / MANAGER
    if not (manager / "firmware").exists():
        raise NoHardware(
            f"no FPGA manager at {manager} with an attribute 'firmware'; use the Linux kernel of "
            "the "
            "board's maker, or load the bitstream at boot and say --loaded"
        )
    image = fpga_manager_image(bitstream.read_bytes())
    name = f"rmsmp-{bitstream.stem}.bin"
    folder = root / FIRMWARE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)
        try:
            (manager / "flags").write_text("0\n")  # the whole FPGA
            (manager / "firmware").write_text(name + "\n")
            state = (manager / "state").read_text().strip()
        finally:
            (folder / name).unlink()
    except PermissionError as error:
        raise NoHardware("loading a bitstream needs root: use sudo") from error
    except OSError as error:
        free = shutil.disk_usage(str(folder)).free if folder.is_dir() else 0
        raise NoHardware(
            f"the FPGA manager refused {bitstream}: {error.strerror} ({free} bytes free in "
            f"{folder}); see dmesg"
        ) from error
    if state != "operating":
        raise NoHardware(f"the FPGA manager says {state!r} after loading {bitstream}; see dmesg")
