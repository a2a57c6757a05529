# SPDX-License-Identifier: Apache-2.0
"""Evidence for a build's clock: what counts, what is assumed, and what a user is told."""

import dataclasses

import pytest

import boards
from boards import clocks
from boards.clocks import ModelledClock
from gateware.arch.config import AccelConfig
from gateware.arch.registers import config_digest
from gateware.arch.results import ToolReport
from gateware.explore.configure import configure
from gateware.flow import clock
from gateware.flow.clock import Basis
from gateware.flow.verilog import accelerator_verilog
from ir.cli import UserError
from ir.ratio import Ratio

CONFIG = AccelConfig.from_ratio(Ratio(50, 25, 25), 4, requant_lanes=4)
TEXT = "module accelerator(); endmodule"
ZC706, ZEDBOARD = boards.get("zc706"), boards.get("zedboard")
OPTIONS = {"ratio": "50:25:25", "rows": 4, "requant_lanes": 4}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """One model: 120 MHz for CONFIG with TEXT on the XC7Z045-2."""
    model = ModelledClock(
        design="small",
        device="xc7z045",
        grade=2,
        ns=1000 / 120,
        config=clock.sizes_digest(CONFIG),
        verilog=clock.verilog_digest(CONFIG, TEXT),
    )
    monkeypatch.setattr(clocks, "modelled", lambda: (model,))


def asked(hz: int) -> AccelConfig:
    return dataclasses.replace(CONFIG, clock_hz=hz)


def test_a_model_supports_a_clock() -> None:
    config = asked(50_000_000)
    known = clock.evidence(ZC706, config, TEXT, None)
    assert (known.basis, known.hz) == (Basis.MODELLED, 50_000_000)
    assert known.limit_hz == pytest.approx(120e6)
    assert known.times() == [{"hz": 50_000_000, "basis": "modelled"}]
    assert clock.remarks(ZC706, config, known) == []
    assert known.sentence() == (
        "The model of the netlist says 120.0 MHz, which supports 100 MHz with 15% for routing; "
        "50 MHz asked for."
    )


def test_a_model_contradicts_a_clock() -> None:
    config = asked(125_000_000)
    known = clock.evidence(ZC706, config, TEXT, None)
    assert known.times() == [
        {"hz": 100_000_000, "basis": "modelled"},
        {"hz": 125_000_000, "basis": "assumed"},
    ]
    assert clock.remarks(ZC706, config, known) == [
        "warning: 125 MHz is above what the model of this netlist supports: 120.0 MHz, 100 MHz "
        "with 15% for routing"
    ]


@pytest.mark.parametrize("board", [ZEDBOARD, boards.get("ulx3s_85f")], ids=lambda board: board.name)
def test_a_model_of_another_device_is_none(board) -> None:
    known = clock.evidence(board, CONFIG, TEXT, None)
    assert known.basis is Basis.ASSUMED and known.limit_hz is None
    assert clock.remarks(board, CONFIG, known) == []
    assert "assumed" in known.sentence()


def test_a_model_of_another_array_is_none() -> None:
    other = dataclasses.replace(CONFIG, slot_depth=128)
    assert clock.evidence(ZC706, other, TEXT, None).basis is Basis.ASSUMED


def test_a_model_of_other_verilog_is_none_and_told() -> None:
    known = clock.evidence(ZC706, CONFIG, TEXT + " // changed", None)
    assert (known.basis, known.hz) == (Basis.ASSUMED, 100_000_000)
    (line,) = clock.remarks(ZC706, CONFIG, known)
    assert line.startswith("warning: 100 MHz is assumed, because the kept model is of other")


def test_routing_beats_a_model() -> None:
    config = asked(125_000_000)
    routed = ToolReport({}, slack_ns=0.25)
    known = clock.evidence(ZC706, config, TEXT, routed)
    assert known.times() == [{"hz": 125_000_000, "basis": "routed (Vivado WNS)"}]
    assert known.sentence() == "Routed for up to 129.03 MHz; 125 MHz asked for."
    missed = clock.evidence(ZC706, config, TEXT, ToolReport({}, slack_ns=-2.0))
    assert missed.hz == 100_000_000 and missed.contradicted
    board = boards.get("ulx3s_85f")
    assert clock.evidence(board, CONFIG, TEXT, routed).basis is Basis.NEXTPNR
    # Synthesis alone has no slack.
    assert clock.evidence(ZC706, config, TEXT, ToolReport({})).basis is Basis.MODELLED


def test_a_clock_that_the_processing_system_does_not_make() -> None:
    config = asked(150_000_000)
    known = clock.evidence(ZEDBOARD, config, TEXT, None)
    assert (known.asked_hz, known.made_hz, known.hz) == (150_000_000, 142_857_143, 142_857_143)
    assert clock.remarks(ZEDBOARD, config, known) == [
        "the processing system makes 142.86 MHz instead of the 150 MHz asked for"
    ]


def test_defaults() -> None:
    """What the model of these sizes supports, else the board's."""
    assert configure(ZC706, None, clock_hz=None, **OPTIONS).clock_hz == 100_000_000
    assert configure(ZC706, None, clock_hz=90_000_000, **OPTIONS).clock_hz == 90_000_000
    assert configure(ZEDBOARD, None, clock_hz=None, **OPTIONS).clock_hz == ZEDBOARD.clock_hz


@pytest.mark.parametrize("hz", [5_000_000_000, 250_000_001, 200_000])
def test_a_clock_out_of_range(hz: int) -> None:
    with pytest.raises(UserError) as refused:
        configure(ZC706, None, clock_hz=hz, **OPTIONS)
    assert str(refused.value) == (
        f"the processing system of {ZC706.title} makes clocks of 0.252 MHz, its PLL by both "
        f"dividers, to 250 MHz, the limit of FCLK0, not {hz / 1e6:g} MHz"
    )


def test_digests() -> None:
    slow, fast = asked(50_000_000), asked(200_000_000)
    assert clock.sizes_digest(slow) == clock.sizes_digest(fast)
    assert clock.sizes_digest(slow) != clock.sizes_digest(dataclasses.replace(slow, pixels=4))

    def text(config: AccelConfig, other: str = "") -> str:
        return f"/* made at noon */\nx = 32'd{config_digest(config)};\n{other}"

    assert clock.verilog_digest(slow, text(slow)) == clock.verilog_digest(fast, text(fast))
    assert clock.verilog_digest(slow, text(slow)) != clock.verilog_digest(slow, text(slow, "y"))


@pytest.mark.slow
def test_the_clock_changes_nothing_else_in_the_verilog() -> None:
    slow, fast = asked(50_000_000), asked(200_000_000)
    one, other = accelerator_verilog(slow), accelerator_verilog(fast)
    assert one != other
    assert clock.verilog_digest(slow, one) == clock.verilog_digest(fast, other)
