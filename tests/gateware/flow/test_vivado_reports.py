# SPDX-License-Identifier: Apache-2.0
"""Reports of Vivado are read in the forms of several versions."""

from pathlib import Path

import pytest

from gateware.arch.results import Attempt, Power, ToolError
from gateware.flow import vivado_reports
from tests.helpers import vivado

PATH = Path("top.rpt")


@pytest.mark.parametrize("version", vivado.VERSIONS)
def test_every_version_is_read(version: str, tmp_path: Path) -> None:
    vivado.write(tmp_path, version)
    found = vivado_reports.read(tmp_path)
    ram = 81 if version == "2023.2" else 81.5
    assert found.resources == {"lut": 21034, "ff": 20321, "dsp48e1": 104, "bram36": ram}
    assert (found.slack_ns, found.total_slack_ns, found.hold_slack_ns) == (0.412, 0, 0.021)
    assert found.power == Power(total_w=2.391, dynamic_w=2.178, static_w=0.213, confidence="Low")
    assert found.tool == f"Vivado {version}"
    assert found.unclocked == 0
    assert abs(found.routed_hz(100_000_000) - 104_297_038) < 1000
    assert found.attempts == (
        Attempt("Default, Default, Default", -0.310),
        Attempt("Explore, AggressiveExplore, Explore", None),
        Attempt("ExtraTimingOpt, AggressiveExplore, NoTimingRelaxation", 0.021),
    )


@pytest.mark.parametrize("version", vivado.VERSIONS)
def test_missed_clocks_are_read(version: str, tmp_path: Path) -> None:
    vivado.write(tmp_path, version, "-1.250", "-0.010")
    (tmp_path / "top_timing.rpt").write_text(vivado.timing(version, "-1.250", "-0.010", 12))
    found = vivado_reports.read(tmp_path)
    assert (found.slack_ns, found.total_slack_ns, found.hold_slack_ns) == (-1.25, -12.5, -0.01)
    assert found.unclocked == 12
    assert found.attempts[-1].slack_ns == -1.25


@pytest.mark.parametrize(
    "name",
    ["top_utilization_place.rpt", "top_timing.rpt", "top_power.rpt", "top_attempts.rpt"],
)
def test_missing_and_damaged_reports(tmp_path: Path, name: str) -> None:
    vivado.write(tmp_path)
    (tmp_path / name).write_text("a\nnothing\n")
    with pytest.raises(ToolError, match=name):
        vivado_reports.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ToolError, match=f"no {name}"):
        vivado_reports.read(tmp_path)


def test_a_summary_without_a_clock_is_no_slack(tmp_path: Path) -> None:
    vivado.write(tmp_path)
    (tmp_path / "top_timing.rpt").write_text(vivado.timing("2023.2", "NA", "NA"))
    with pytest.raises(ToolError, match="summary without slack: NA"):
        vivado_reports.read(tmp_path)


def test_power_with_a_remark() -> None:
    text = vivado.power("2023.2", "9.123 (Junction temp exceeded!)")
    assert vivado_reports.power(text, PATH).total_w == 9.123
    assert vivado_reports.power(text.replace("2.178", "<0.001"), PATH).dynamic_w == 0.001
    with pytest.raises(ToolError, match="no number for Dynamic"):
        vivado_reports.power(text.replace("2.178", "NA"), PATH)
