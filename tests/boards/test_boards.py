# SPDX-License-Identifier: Apache-2.0
"""The board registry: limits, messages, and platforms that agree with the parts they claim."""

import dataclasses

import pytest
from amaranth import Module, Signal
from amaranth.lib import io

from boards import BOARDS, UnknownBoard, get

LIMITS = {
    "xc7z020": {"lut": 53_200, "ff": 106_400, "dsp48e1": 220, "bram36": 140},
    "xc7z045": {"lut": 218_600, "ff": 437_200, "dsp48e1": 900, "bram36": 545},
    "LFE5U-85F": {"lut4": 83_640, "ff": 83_640, "mult18": 156, "ebr": 208},
    "LFE5UM5G-85F": {"lut4": 83_640, "ff": 83_640, "mult18": 156, "ebr": 208},
}
ZYNQ = {name: board for name, board in BOARDS.items() if board.device.family == "xc7"}
ECP5 = {name: board for name, board in BOARDS.items() if board.device.family == "ecp5"}

each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
each_zynq = pytest.mark.parametrize("board", ZYNQ.values(), ids=ZYNQ)
each_ecp5 = pytest.mark.parametrize("board", ECP5.values(), ids=ECP5)


def test_registry_holds_the_boards_by_their_names() -> None:
    assert set(ZYNQ) == {"zc706", "zedboard", "arty_z7", "pynq_z1", "pynq_z2"}
    assert set(ECP5) == {"ulx3s_85f", "ecpix5_85"}
    assert {name: board.name for name, board in BOARDS.items()} == {name: name for name in BOARDS}


@each_board
def test_limits_are_those_of_the_part(board) -> None:
    [limits] = [known for part, known in LIMITS.items() if board.device.part.startswith(part)]
    assert board.device.limits == limits


@each_board
def test_platform_is_of_the_same_part_and_fresh(board) -> None:
    first, second = board.platform(), board.platform()
    assert board.device.part == (
        f"{first.device}{first.package}-{first.speed}"
        if board.device.family == "xc7"
        else f"{first.device}-{first.speed}{first.package}{first.grade}"
    )
    assert first.toolchain == board.toolchain
    assert first is not second  # one object builds only once


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zc706", 4_266_666_664),
        ("zedboard", 4_266_666_664),
        ("arty_z7", 2_100_000_000),
        ("pynq_z1", 2_100_000_000),
        ("pynq_z2", 2_100_000_000),
        ("ulx3s_85f", 332_000_000),
        ("ecpix5_85", 1_600_000_000),
    ],
)
def test_memory_peak(name, expected) -> None:
    assert get(name).memory.peak_bytes_per_second == expected


@each_zynq
def test_port_peak_follows_the_clock(board) -> None:
    assert (board.memory.hp_ports, board.memory.hp_bits) == (4, 64)
    assert board.memory.port_bytes_per_second(100_000_000) == 800_000_000
    assert board.ps_clock_hz in (33_333_333, 50_000_000)


@each_ecp5
def test_no_port_leads_to_the_memory_of_ecp5_boards(board) -> None:
    assert (board.memory.hp_ports, board.memory.hp_bits, board.ps_clock_hz) == (0, 0, None)
    assert board.memory.port_bytes_per_second(100_000_000) == 0


def blinking_lights(platform) -> dict[str, str]:
    m = Module()
    if ("led", 0) in platform.resources:
        light = platform.request("led", 0, dir="-")
    elif ("rgb_led", 0) in platform.resources:
        light = platform.request("rgb_led", 0, dir="-").r
    else:
        light = None
    if light is not None:
        m.submodules.led = led = io.Buffer("o", light)
        timer = Signal(24)
        m.d.sync += timer.eq(timer + 1)
        m.d.comb += led.o.eq(timer[-1])
    plan = platform.build(m, do_build=False)
    return {
        name: text if isinstance(text, str) else text.decode() for name, text in plan.files.items()
    }


@each_zynq
def test_blinking_lights_render(board) -> None:
    platform = board.platform()
    texts = blinking_lights(platform)
    assert f"-part {board.device.part}\n" in texts["top.tcl"]
    period = 1e9 / platform.default_clk_frequency
    assert f"-period {period}" in texts["top.xdc"]
    assert "set_property LOC" in texts["top.xdc"]


@each_ecp5
def test_blinking_lights_render_for_open_tools(board) -> None:
    texts = blinking_lights(board.platform())
    assert "nextpnr" in texts["build_top.sh"].lower()
    assert "LOCATE COMP" in texts["top.lpf"]


@each_zynq
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
    with pytest.raises(UnknownBoard, match=r"^no board is called 'vcu128'; boards are [^;]*$"):
        get("vcu128")


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


def test_wrong_device() -> None:
    device = get("zc706").device
    with pytest.raises(ValueError, match="dsp48e1 of xc7z045ffg900-2 must be positive, not -1"):
        dataclasses.replace(device, limits={**device.limits, "dsp48e1": -1})
    with pytest.raises(ValueError, match="limits of xc7z045ffg900-2 must be those of lut, ff, dsp"):
        dataclasses.replace(device, limits={"lut": 1})
    with pytest.raises(ValueError, match="family of xc7z045ffg900-2 must be one of xc7, ecp5, not"):
        dataclasses.replace(device, family="xcvu")


@pytest.mark.parametrize("field", ["size_bytes", "clock_hz", "width_bits", "transfers_per_cycle"])
def test_wrong_memory(field) -> None:
    with pytest.raises(ValueError, match=f"{field} of DDR3-1066 must be positive, not 0"):
        dataclasses.replace(get("zc706").memory, **{field: 0})


@pytest.mark.parametrize(("ports", "bits"), [(-1, 64), (4, 0), (0, 64)])
def test_wrong_ports(ports, bits) -> None:
    with pytest.raises(ValueError, match=f"both be positive or both 0, not {ports} and {bits}"):
        dataclasses.replace(get("zc706").memory, hp_ports=ports, hp_bits=bits)
