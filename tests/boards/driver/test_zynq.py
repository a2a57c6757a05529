# SPDX-License-Identifier: Apache-2.0
"""The driver's ways to a Zynq-7000 under Linux, on files where Linux has devices."""

import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from boards import driver
from boards.driver import bitstream, slcr, zynq


def bit_file(data: bytes) -> bytes:
    """A .bit file as Vivado writes it."""

    def field(key: bytes, text: bytes) -> bytes:
        return key + struct.pack(">H", len(text)) + text

    head = b"\0\x09" + b"\x0f\xf0" * 4 + b"\0" + b"\0\x01"
    return (
        head
        + field(b"a", b"top;UserID=0\0")
        + field(b"b", b"7z020clg400\0")
        + field(b"c", b"2026/01/01\0")
        + field(b"d", b"00:00:00\0")
        + b"e"
        + struct.pack(">I", len(data))
        + data
    )


def test_bitstreams_of_all_forms_become_the_same() -> None:
    data = bytes.fromhex("ffffffffaa9955662000000030022001")
    swapped = bytes.fromhex("ffffffff665599aa0000002001200230")
    for form in (data, swapped, bit_file(data)):
        assert bitstream.fpga_manager_image(form) == swapped
    for wrong, message in (
        (b"nothing", "no sync word"),
        (data[:-1], "truncated"),
        (bit_file(data)[:-1], "header of the bitstream is damaged"),
        (b"\0\x09\0", "header of the bitstream is damaged"),
    ):
        with pytest.raises(driver.WrongPackage, match=message):
            bitstream.fpga_manager_image(wrong)


def test_fpga_manager(tmp_path: Path) -> None:
    data = bytes.fromhex("ffffffffaa99556620000000")
    (tmp_path / "top.bit").write_bytes(data)
    with pytest.raises(driver.NoHardware, match="no FPGA manager at"):
        bitstream.load(tmp_path / "top.bit", tmp_path)
    manager = tmp_path / bitstream.MANAGER
    manager.mkdir(parents=True)
    for name, content in (("firmware", ""), ("flags", ""), ("state", "operating\n")):
        (manager / name).write_text(content)
    bitstream.load(tmp_path / "top.bit", tmp_path)
    assert (manager / "firmware").read_text() == "rmsmp-top.bin\n"
    assert (manager / "flags").read_text() == "0\n"
    assert list((tmp_path / "lib/firmware").iterdir()) == []
    (manager / "state").write_text("write error\n")
    with pytest.raises(driver.NoHardware, match="says 'write error' after loading"):
        bitstream.load(tmp_path / "top.bit", tmp_path)


@pytest.mark.parametrize(("crystal", "multiplier"), [(33_333_333, 30), (50_000_000, 20)])
@pytest.mark.parametrize("hertz", [100_000_000, 150_000_000, 66_000_000, 1_000_000])
def test_fclk0(crystal: int, multiplier: int, hertz: int) -> None:
    words = np.zeros(slcr.SIZE // 4, np.uint32)
    words[slcr.IO_PLL // 4] = multiplier << 12
    words[slcr.FCLK0 // 4] = 0x0010_0A01
    words[slcr.FCLK0_GATE // 4] = 1
    actual = slcr.Slcr(words, crystal).set_fclk0(hertz)
    assert 0.9 * hertz <= actual <= hertz
    register = int(words[slcr.FCLK0 // 4])
    assert crystal * multiplier // ((register >> 8 & 63) * (register >> 20 & 63)) == actual
    assert register & 1
    assert words[slcr.FCLK0_GATE // 4] == 0
    assert words[slcr.UNLOCK // 4] == slcr.UNLOCK_KEY
    assert words[slcr.LOGIC_RESET // 4] == 0


def test_fclk0_out_of_reach() -> None:
    words = np.zeros(slcr.SIZE // 4, np.uint32)
    words[slcr.IO_PLL // 4] = 30 << 12
    with pytest.raises(driver.NoHardware, match=r"cannot be 0\.1 MHz: its PLL runs at 1000 MHz"):
        slcr.Slcr(words, 33_333_333).set_fclk0(100_000)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Files where Linux has devices: /dev/mem, a UIO device, a u-dma-buf device."""
    (tmp_path / "dev").mkdir()
    with (tmp_path / "dev/mem").open("wb") as memory:
        memory.truncate(slcr.BASE + slcr.SIZE)  # sparse
        memory.seek(slcr.BASE + slcr.IO_PLL)
        memory.write(struct.pack("<I", 20 << 12))
        for port in range(2):
            memory.seek(slcr.BASE + slcr.HP0_READ + port * slcr.HP_PITCH)
            memory.write(struct.pack("<I", 0x31))
    maps = tmp_path / "sys/class/uio/uio0/maps/map0"
    maps.mkdir(parents=True)
    (maps / "addr").write_text("0x40000000\n")
    (tmp_path / "dev/uio0").write_bytes(bytes(4096))
    attributes = tmp_path / "sys/class/u-dma-buf/udmabuf0"
    attributes.mkdir(parents=True)
    for name, content in (
        ("phys_addr", "0x1e000000"),
        ("size", "65536"),
        ("sync_offset", ""),
        ("sync_size", ""),
        ("sync_direction", ""),
        ("sync_for_cpu", ""),
        ("sync_for_device", ""),
    ):
        (attributes / name).write_text(content)
    (tmp_path / "dev/udmabuf0").write_bytes(bytes(65536))
    return tmp_path


CONNECTION = {
    "kind": "zynq7",
    "register_base": 0x4000_0000,
    "ps_clock_hz": 50_000_000,
    "hp_ports": 2,
}


def hardware(machine: Path, **options: object) -> driver.ZynqHardware:
    return driver.ZynqHardware(
        connection=CONNECTION,
        clock_hz=100_000_000,
        window_bytes=4096,
        root=machine,
        **options,
    )


def test_registers_by_uio(machine: Path) -> None:
    board = hardware(machine)
    assert board.interrupts
    board.write(0x14, 0xDEADBEEF)
    assert board.read(0x14) == 0xDEADBEEF
    assert (machine / "dev/uio0").read_bytes()[0x14:0x18] == bytes.fromhex("efbeadde")
    with (machine / "dev/mem").open("rb") as memory:
        for port in range(2):
            memory.seek(slcr.BASE + slcr.HP0_READ + port * slcr.HP_PITCH)
            assert memory.read(4) == bytes.fromhex("30000000")
    assert board.clock_hz == 100_000_000
    board.wait(0.001)  # a file is always ready
    board.close()
    board.close()


def test_registers_by_dev_mem(machine: Path) -> None:
    (machine / "sys/class/uio/uio0/maps/map0/addr").write_text("0x43c00000\n")
    board = hardware(machine)
    assert not board.interrupts
    board.write(0x10, 7)
    with (machine / "dev/mem").open("rb") as memory:
        memory.seek(0x4000_0010)
        assert memory.read(4) == b"\7\0\0\0"
    start = board.now()
    board.wait(10)  # polls
    assert board.now() - start < 1


def test_buffers_by_u_dma_buf(machine: Path) -> None:
    board = hardware(machine)
    attributes = machine / "sys/class/u-dma-buf/udmabuf0"
    first, second = board.allocate(100), board.allocate(5000)
    assert (first.address, second.address) == (0x1E00_0000, 0x1E00_1000)
    second.array[:3] = (1, 2, 3)
    second.to_device()
    assert (machine / "dev/udmabuf0").read_bytes()[4096:4099] == b"\1\2\3"
    assert [
        (attributes / name).read_text()
        for name in (
            "sync_offset",
            "sync_size",
            "sync_direction",
            "sync_for_device",
            "sync_for_cpu",
        )
    ] == ["4096\n", "5000\n", "0\n", "1\n", ""]
    first.from_device()
    assert (attributes / "sync_for_cpu").read_text() == "1\n"
    with pytest.raises(driver.NoHardware, match=r"no room for 60000 bytes \(9096 of 65536 bytes"):
        board.allocate(60000)


def test_buffers_by_pynq(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class PynqBuffer(np.ndarray):
        device_address = 0x1800_0000

        def flush(self) -> None:
            calls.append("flush")

        def invalidate(self) -> None:
            calls.append("invalidate")

    def allocate(shape: tuple[int, ...], dtype: type) -> PynqBuffer:
        if shape[0] > 1 << 20:
            raise RuntimeError("no memory")
        return np.zeros(shape, dtype).view(PynqBuffer)

    monkeypatch.setitem(sys.modules, "pynq", types.SimpleNamespace(allocate=allocate))
    board = hardware(machine, memory=zynq.find_memory(machine / "empty"))
    buffer = board.allocate(100)
    assert (buffer.address, buffer.array.shape) == (0x1800_0000, (100,))
    buffer.to_device()
    buffer.from_device()
    assert calls == ["flush", "invalidate"]
    with pytest.raises(driver.NoHardware, match="PYNQ has no 2000000 contiguous bytes: no memory"):
        board.allocate(2_000_000)


def test_no_contiguous_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(driver.NoHardware, match="no contiguous memory: load the module u-dma-buf"):
        zynq.find_memory(tmp_path)


def test_no_device(tmp_path: Path) -> None:
    with pytest.raises(driver.NoHardware, match=r"cannot map the registers: .*dev/mem"):
        hardware(tmp_path)
