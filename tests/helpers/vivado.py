# SPDX-License-Identifier: Apache-2.0
"""Reports in the form of Vivado's, by version; figures are made up."""

from pathlib import Path

VERSIONS = ("2019.2", "2021.1", "2023.2", "2025.1")
ATTEMPTS = """place phys_opt route setup_ns hold_ns
Default Default Default -0.310 0.020
Explore AggressiveExplore Explore failed failed
ExtraTimingOpt AggressiveExplore NoTimingRelaxation {slack} {hold}
"""


def _head(version: str, command: str, state: str) -> str:
    """Frame around what was run; devices have another name from 2021 on, and a speed file."""
    year = int(version[:4])
    device = "xc7z045ffg900-2" if year >= 2021 or command == "report_power" else "7z045ffg900-2"
    owner = "Copyright 1986-2022 Xilinx, Inc. All Rights Reserved."
    if year >= 2023:
        owner += " Copyright 2022-2025 Advanced Micro Devices, Inc. All Rights Reserved."
    rule = "-" * 120
    return f"""{owner}
{rule}
| Tool Version : Vivado v.{version} (lin64) Build 1234567 Mon Jan  1 00:00:00 MST 2024
| Date         : Tue Jan  2 12:00:00 2024
| Host         : bench running 64-bit Ubuntu 22.04.3 LTS
| Command      : {command} -file top.rpt
| Design       : top
| Device       : {device}
| Speed File   : -2  PRODUCTION 1.12 2019-11-22
| Design State : {state}
{rule}
"""


def utilisation(version: str, lut: int = 21034) -> str:
    """Text of report_utilization; a column came with 2021, a star follows a count that may fall."""
    wide = int(version[:4]) >= 2021
    title = (
        "| Site Type | Used | Fixed | " + ("Prohibited | " if wide else "") + "Available | Util% |"
    )

    def row(name: str, used: object, available: int) -> str:
        none = "          0 | " if wide else ""
        return f"| {name:<26} | {used:>5} |     0 | {none}{available:>9} |  9.62 |"

    star = "*" if version == "2019.2" else ""
    return "\n".join(
        [
            _head(version, "report_utilization", "Fully Placed"),
            "Utilization Design Information",
            "",
            "1. Slice Logic",
            "--------------",
            "",
            title,
            row(f"Slice LUTs{star}", lut, 218600),
            row("  LUT as Logic", lut - 1000, 218600),
            row("Slice Registers", 20321, 437200),
            "",
            "3. Memory",
            row("Block RAM Tile", "81.5" if version != "2023.2" else 81, 545),
            row("  RAMB36/FIFO*", 81, 545),
            "4. DSP",
            row("DSPs", 104, 900),
            row("  DSP48E1 only", 104, 0),
            "",
        ]
    )


def timing(version: str, slack: str = "0.412", hold: str = "0.021", unclocked: int = 0) -> str:
    """Text of report_timing_summary; from 2020 on the headings of check_timing have a count."""
    count = f" ({unclocked})" if int(version[:4]) >= 2020 else ""
    names = (
        "WNS(ns)      TNS(ns)  TNS Failing Endpoints  TNS Total Endpoints      WHS(ns)      "
        "THS(ns)  THS Failing Endpoints  THS Total Endpoints     WPWS(ns)     TPWS(ns)  "
        "TPWS Failing Endpoints  TPWS Total Endpoints  "
    )
    total = "-12.500" if slack.startswith("-") else "0.000"
    values = (
        f"{slack}        {total}                      0                60000        {hold}        "
        f"0.000                      0                60000        4.020        0.000             "
        f"          0                 21000  "
    )
    rule = "  ".join("-" * len(name) for name in names.split("  ") if name.strip())
    return f"""{_head(version, "report_timing_summary", "Routed")}
Timing Summary Report

check_timing report

Table of Contents
-----------------
1. checking no_clock{count}
2. checking constant_clock{count and " (0)"}

1. checking no_clock{count}
--------------------{"-" * len(count)}
 There are {unclocked} register/latch pins with no clock.


------------------------------------------------------------------------------------------------
| Design Timing Summary
| ---------------------
------------------------------------------------------------------------------------------------

    {names}
    {rule}
    {values}


All user specified timing constraints are met.


------------------------------------------------------------------------------------------------
| Intra Clock Table
| -----------------
------------------------------------------------------------------------------------------------

Clock             WNS(ns)      TNS(ns)  TNS Failing Endpoints
-----             -------      -------  ---------------------
fclk0               9.999        0.000                      0
"""


def power(version: str, total: str = "2.391") -> str:
    """Text of report_power."""
    return f"""{_head(version, "report_power", "routed")}
1. Summary
----------

+--------------------------+--------------+
| Total On-Chip Power (W)  | {total:<12} |
| Design Power Budget (W)  | Unspecified* |
| Power Budget Margin (W)  | NA           |
| Dynamic (W)              | 2.178        |
| Device Static (W)        | 0.213        |
| Effective TJA (C/W)      | 1.8          |
| Junction Temperature (C) | 29.3         |
| Confidence Level         | Low          |
+--------------------------+--------------+
"""


def write(folder: Path, version: str = "2023.2", slack: str = "0.412", hold: str = "0.021") -> None:
    """Write all reports of a routed design."""
    for name, text in {
        "top_utilization_place.rpt": utilisation(version),
        "top_timing.rpt": timing(version, slack, hold),
        "top_power.rpt": power(version),
        "top_attempts.rpt": ATTEMPTS.format(slack=slack, hold=hold),
    }.items():
        (folder / name).write_text(text)
