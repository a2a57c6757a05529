# SPDX-License-Identifier: Apache-2.0
"""Reports of Vivado, 2019.2 to 2025.1: slack, cells, power, and the attempts that led to them.

Columns are found by their names, because newer versions add some.
"""

import re
from pathlib import Path

from gateware.arch.results import Attempt, Power, ToolError, ToolReport

TIMING = "top_timing.rpt"
UTILISATION = "top_utilization_place.rpt"
POWER = "top_power.rpt"
ATTEMPTS = "top_attempts.rpt"
#: Rows of the utilisation report by resource.
_ROWS = {
    "lut": "Slice LUTs",
    "ff": "Slice Registers",
    "dsp48e1": "DSPs",
    "bram36": "Block RAM Tile",
}


def read(folder: Path) -> ToolReport:
    """Report of Vivado in ``folder``: cells after placement, slack in ns, power in W.

    Raises ToolError when a file is missing or says nothing.
    """
    timing = _text(folder / TIMING)
    slack = _summary(timing, folder / TIMING)
    return ToolReport(
        cells(_text(folder / UTILISATION), folder / UTILISATION),
        slack_ns=slack["WNS(ns)"],
        total_slack_ns=slack["TNS(ns)"],
        hold_slack_ns=slack["WHS(ns)"],
        power=power(_text(folder / POWER), folder / POWER),
        tool=_version(timing),
        attempts=attempts(_text(folder / ATTEMPTS), folder / ATTEMPTS),
        unclocked=_unclocked(timing),
    )


def cells(text: str, path: Path) -> dict[str, float]:
    """Cells by resource in the text of ``report_utilization``. Raises ToolError."""
    used = {}
    for name, title in _ROWS.items():
        # A star follows the title while the count may still change.
        row = re.search(rf"^\|\s*{title}\*?\s*\|\s*([\d.]+)\s*\|", text, re.MULTILINE)
        if row is None:
            raise ToolError(f"{path} has no line for {title}")
        used[name] = float(row[1]) if "." in row[1] else int(row[1])
    return used


def power(text: str, path: Path) -> Power:
    """Estimate in the text of ``report_power``. Raises ToolError."""

    def value(title: str) -> str:
        row = re.search(rf"^\|\s*{re.escape(title)}\s*\|\s*([^|]*?)\s*\|", text, re.MULTILINE)
        if row is None:
            raise ToolError(f"{path} has no line for {title}")
        return row[1]

    def watts(title: str) -> float:
        # A remark may follow: "5.231 (Junction temp exceeded!)"; little is "<0.001".
        number = re.match(r"<?(\d+\.?\d*)", value(title))
        if number is None:
            raise ToolError(f"{path} has no number for {title}, but {value(title)!r}")
        return float(number[1])

    return Power(
        total_w=watts("Total On-Chip Power (W)"),
        dynamic_w=watts("Dynamic (W)"),
        static_w=watts("Device Static (W)"),
        confidence=value("Confidence Level"),
    )


def attempts(text: str, path: Path) -> tuple[Attempt, ...]:
    """Attempts that ``implement.tcl`` wrote down, in order. Raises ToolError."""
    found = []
    for line in text.splitlines()[1:]:
        try:
            place, phys_opt, route, setup, hold = line.split()
            directives = f"{place}, {phys_opt}, {route}"
            slack = None if setup == "failed" else min(float(setup), float(hold))
        except ValueError as error:
            raise ToolError(f"{path} has a line that is no attempt: {line!r}") from error
        found.append(Attempt(directives, slack))
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError as error:
        raise ToolError(f"Vivado left no {path.name} in {path.parent}") from error


def _summary(text: str, path: Path) -> dict[str, float]:
    """First row of the design's summary, by column."""
    table = re.search(r"^ *(WNS\(ns\).*)\n[ -]*\n *(\S.*)$", text, re.MULTILINE)
    if table is None:
        raise ToolError(f"{path} has no timing summary")
    names, values = re.split(r"\s{2,}", table[1].strip()), table[2].split()
    try:
        found = dict(zip(names, map(float, values), strict=True))
        return {name: found[name] for name in ("WNS(ns)", "TNS(ns)", "WHS(ns)")}
    except (ValueError, KeyError) as error:
        raise ToolError(f"{path} has a summary without slack: {table[2].strip()}") from error


def _version(text: str) -> str:
    version = re.search(r"^\| Tool Version\s*:\s*Vivado v\.(\S+)", text, re.MULTILINE)
    return f"Vivado {version[1]}" if version else "Vivado"


def _unclocked(text: str) -> int:
    """Register pins that no clock reaches, by check_timing."""
    found = re.search(r"There (?:are|is) (\d+) register/latch pins? with no clock", text)
    return int(found[1]) if found else 0
