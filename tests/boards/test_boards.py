# SPDX-License-Identifier: Apache-2.0
"""The board registry: limits, messages, and platforms that agree with the parts they claim."""

import dataclasses

import pytest
from amaranth import Module, Signal
from amaranth.lib import io

from boards import BOARDS, UnknownBoard, get

LIMITS = {"xc7z020": (53_200, 106_400, 220, 140), "xc7z045": (218_600, 437_200, 900, 545)}

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def test_registry_holds_the_boards_by_their_names() -> None:
    assert set(BOARDS) >= {"zc706", "zedboard", "arty_z7"}
    assert {name: board.name for name, board in BOARDS.items()} == {name: name for name in BOARDS}


@each_board
def test_limits_are_those_of_the_part(board) -> None:
    device = board.device
    assert LIMITS[device.part[:7]] == (
        device.luts,
        device.flip_flops,
        device.dsp48e1,
        device.bram36,
    )


@each_board
def test_platform_is_of_the_same_part_and_fresh(board) -> None:
    first, second = board.platform(), board.platform()
    assert f"{first.device}{first.package}-{first.speed}" == board.device.part
    assert first is not second  # one object builds only once


@pytest.mark.parametrize(
    ("name", "expected"),
    [("zc706", 4_266_666_664), ("zedboard", 4_266_666_664), ("arty_z7", 2_100_000_000)],
)
def test_memory_peak(name, expected) -> None:
    assert get(name).memory.peak_bytes_per_second == expected


@each_board
def test_port_peak_follows_the_clock(board) -> None:
    assert (board.memory.hp_ports, board.memory.hp_bits) == (4, 64)
    assert board.memory.port_bytes_per_second(100_000_000) == 800_000_000


@each_board
def test_blinking_lights_render(board) -> None:
    platform = board.platform()
    m = Module()
    if ("led", 0) in platform.resources:
        m.submodules.led = led = io.Buffer("o", platform.request("led", 0, dir="-"))
        timer = Signal(24)
        m.d.sync += timer.eq(timer + 1)
        m.d.comb += led.o.eq(timer[-1])
    plan = platform.build(m, do_build=False)
    texts = {
        name: text if isinstance(text, str) else text.decode() for name, text in plan.files.items()
    }
    assert f"-part {board.device.part}\n" in texts["top.tcl"]
    period = 1e9 / platform.default_clk_frequency
    assert f"-period {period}" in texts["top.xdc"]
    assert "set_property LOC" in texts["top.xdc"]


@each_board
def test_no_pin_has_two_uses(board) -> None:
    pins = []
    for resource in board.platform().resources.values():
        for part in resource.ios:
            # A differential pair, plain pins, or a resource with named parts.
            for leaf in getattr(part, "ios", (part,)):
                for names in (
                    [leaf.p, leaf.n]
                    if hasattr(leaf, "p")
                    else [leaf]
                    if hasattr(leaf, "names")
                    else []
                ):
                    pins += names.names
    assert len(pins) > 8
    assert len(pins) == len(set(pins))


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("zc-706", "zc706"),
        ("ZC706 ", "zc706"),
        ("zc702", "zc706"),
        ("Zed Board", "zedboard"),
        ("arty", "arty_z7"),
    ],
)
def test_unknown_board_lists_names_and_the_closest(typed, hint) -> None:
    with pytest.raises(UnknownBoard) as error:
        get(typed)
    assert str(error.value) == (
        f"no board is called {typed!r}; boards are {', '.join(BOARDS)}; did you mean {hint}?"
    )


def test_unknown_board_far_from_all_gets_no_hint() -> None:
    with pytest.raises(UnknownBoard, match=r"^no board is called 'ulx3s'; boards are [^;]*$"):
        get("ulx3s")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "zc 706", "board name must be an identifier, not 'zc 706'"),
        ("clock_hz", 0, "clock_hz of zc706 must be positive, not 0"),
    ],
)
def test_wrong_board(field, value, message) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(get("zc706"), **{field: value})


@pytest.mark.parametrize("field", ["luts", "flip_flops", "dsp48e1", "bram36"])
def test_wrong_device(field) -> None:
    with pytest.raises(ValueError, match=f"{field} of xc7z045ffg900-2 must be positive, not -1"):
        dataclasses.replace(get("zc706").device, **{field: -1})


@pytest.mark.parametrize("field", ["size_bytes", "clock_hz", "width_bits", "hp_ports", "hp_bits"])
def test_wrong_memory(field) -> None:
    with pytest.raises(ValueError, match=f"{field} of DDR3-1066 must be positive, not 0"):
        dataclasses.replace(get("zc706").memory, **{field: 0})
