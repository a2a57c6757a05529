# SPDX-License-Identifier: Apache-2.0
"""What :mod:`bench.paths` found, for people, in Markdown."""

from collections.abc import Mapping
from typing import Any

from boards.clocks import ROUTING_MARGIN
from gateware.arch.config import AccelConfig
from gateware.model.paths import TimingGraph
from ir import cli


def shape(config: AccelConfig) -> str:
    return f"{':'.join(map(str, config.lanes))} x {config.k} x {config.pixels}"


def grade(part: str) -> int:
    """Speed grade of a part."""
    return int(part.rpartition("-")[2])


def report(found: Mapping[str, Any]) -> str:
    """Figures of one accelerator for people, in Markdown."""
    lines = [
        f"## {found['name']}: {shape(AccelConfig(**found['config']))}",
        "",
        f"| device | grade | longest path | predicted clock | {ROUTING_MARGIN:.0%} for routing |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {part[:7].upper()} | -{name}{' *' if int(name) == grade(part) else ''} | "
        f"{clock['ns']:.2f} ns | {clock['mhz']:.1f} MHz | {clock['with_margin_mhz']:.1f} MHz |"
        for part, grades in found["clock"].items()
        for name, clock in grades.items()
    ]
    first = found["parts"][0].upper()
    over = ", ".join(f"{n} beyond {ns} ns" for ns, n in found["over_ns"].items())
    lines += [
        "",
        f"{found['endpoints']} endpoints, {over}. The longest path into each unit, {first}:",
        "",
        "| unit | ns | LUT levels | CARRY4 | fan-out | from | to |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    lines += [
        f"| {unit['end_unit']} | {unit['ns']:.2f} | {unit['levels']} | {unit['carries']} | "
        f"{unit['fanout']} | {_place(unit['start'], unit['start_source'])} | "
        f"{_place(unit['end'], unit['end_source'])} |"
        for unit in found["units"]
    ]
    for title, nets in (
        ("largest nets", found["nets"]),
        ("largest nets, resets of flip-flops left out", found.get("data_nets", [])),
    ):
        if nets:
            lines += ["", f"| {title} | fan-out |", "|---|---:|"]
            lines += [f"| {_place(net['name'], net['source'])} | {net['fanout']} |" for net in nets]
    return "\n".join(lines)


def _place(name: str, source: str) -> str:
    shown = name if name and "$" not in name.rpartition(".")[2] else name.partition(".$")[0]
    return f"`{shown or 'unnamed'}`{f' {source}' if source else ''}"


def detail(graph: TimingGraph, unit: str, factor: float) -> str:
    """Every cell of the longest path into a unit. Raises UserError for a unit that is not there."""
    paths = {path.end_unit: path for path in graph.longest_by_unit()}
    if unit not in paths:
        raise cli.UserError(f"no path ends in {unit!r}; units are {', '.join(sorted(paths))}")
    path = paths[unit]
    lines = ["| at ns | cell | fan-out | net |", "|---:|---|---:|---|"]
    lines += [
        f"| {point.ns * factor:.2f} | {point.kind} | {point.fanout} | `{point.net}` |"
        for point in path.points
    ]
    return "\n".join([*lines, f"| {path.ns * factor:.2f} | | | `{path.end}` |"])


def routed_tables(results: Mapping[str, Any]) -> str:
    """Predicted and routed clocks of ECP5 designs, those of the fit and others."""
    parts = ["## The model of ECP5 beside nextpnr, LFE5U-85F, grade 6"]
    for key, title in (("ecp5", "fitted to"), ("ecp5_held_out", "not fitted to")):
        lines = [
            f"| {title} | predicted MHz | routed MHz | error |",
            "|---|---:|---:|---:|",
        ]
        lines += [
            f"| {row['name']} | {row['predicted_mhz']} | {row['routed_mhz']} | "
            f"{row['error_percent']:+.1f} % |"
            for row in results.get(key, ())
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def full_report(results: Mapping[str, Any]) -> str:
    """All that is kept, in Markdown."""
    parts = [
        "# Longest paths, predicted from the netlist",
        "Written by `python -m bench.paths --report`. Nothing is placed or routed: delays of cells "
        "are Vivado's, those of nets are assumed (docs/paths.md). * is the grade of the part.",
        *(report(found) for found in results["designs"].values()),
    ]
    if "ecp5" in results:
        parts.append(routed_tables(results))
    return "\n\n".join(parts)
