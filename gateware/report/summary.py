# SPDX-License-Identifier: Apache-2.0
"""Summary of a build as one dictionary, and that dictionary as text."""

import dataclasses
from collections.abc import Sequence

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.arch.registers import config_digest
from gateware.arch.results import ToolReport
from gateware.compiler.hybrid import Compiled, is_hybrid
from gateware.explore.retraining import Retraining
from gateware.flow.clock import Clock, evidence, mhz
from gateware.flow.target import TARGETS
from gateware.model import estimate
from gateware.report.layers import bus_bytes_per_cycle, layers
from ir.graph import IntGraph


def report(
    board: Board,
    config: AccelConfig,
    graph: IntGraph | None,
    compiled: Sequence[Compiled],
    measured: ToolReport | None,
    retraining: Retraining | None = None,
    *,
    clock: Clock | None = None,
) -> dict:
    """Summary of a build as a JSON-able dictionary; each figure says if it is estimated or
    measured.

    ``retraining`` is what :func:`gateware.explore.retraining.retraining` found. ``clock`` is what
    :func:`gateware.flow.clock.evidence` knows, which without it is what was routed or nothing.
    """
    if clock is None:
        clock = evidence(board, config, "", measured)
    if measured is None:
        used, how = TARGETS[board.device.family].resources(config), "estimated"
    else:
        used, how = measured.resources, "measured"
    routed_hz = None
    if measured is not None and measured.slack_ns is not None:
        routed_hz = round(measured.routed_hz(config.clock_hz))
    result = {
        "board": board.name,
        "title": board.title,
        "part": board.device.part,
        "clock_hz": config.clock_hz,
        "clock": clock.as_dict(),
        "config": dataclasses.asdict(config),
        "config_digest": f"{config_digest(config):08x}",
        "lanes": dict(zip(("pot4", "fixed4", "fixed8"), config.lanes, strict=True)),
        "macs_per_cycle": config.macs_per_cycle,
        "bus_bytes_per_cycle": bus_bytes_per_cycle(board, config),
        "resources": {
            name: {"used": used[name], "limit": limit, "how": how}
            for name, limit in board.device.limits.items()
        },
        "modules": list(measured.modules) if measured else [],
        "slack_ns": measured.slack_ns if measured else None,
        "routed_hz": routed_hz,
        "routing": None if routed_hz is None or measured is None else _routing(measured),
    }
    if graph is not None and compiled:
        cycles = estimate.layer_cycles(compiled)
        result["program"] = {
            "graph": graph.header.name,
            "graph_digest": graph.digest,
            "hybrid": is_hybrid(graph),
            "bytes": sum(len(one.program.image) for one in compiled),
            "batch": compiled[0].program.batch,
            "cycles": {"total": sum(cycles.values()), "layers": cycles, "how": "estimated"},
            "layers": layers(graph, config, cycles),
            "retraining": retraining
            and dataclasses.asdict(retraining) | {"command": retraining.command},
        }
    return result


def markdown(result: dict) -> str:
    """Report as Markdown."""
    lanes, config = result["lanes"], result["config"]
    lines = [
        f"# Accelerator for {result['board']} ({result['part']})",
        "",
        f"Array: {sum(lanes.values())} rows (PoT-4 {lanes['pot4']}, Fixed-4 {lanes['fixed4']}, "
        f"Fixed-8 {lanes['fixed8']}) x {config['bus_bits'] // 4} channels x {config['pixels']} "
        f"pixels = "
        f"{result['macs_per_cycle']} MACs per cycle, clock {mhz(result['clock_hz'])} MHz. "
        f"Configuration {result['config_digest']}.",
        "",
        "| resource | used | of | share | |",
        "|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| {name.upper()} | {row['used']} | {row['limit']} | "
        f"{100 * row['used'] / row['limit']:.1f} % | "
        f"{row['how']} |"
        for name, row in result["resources"].items()
    ]
    if result["modules"]:
        lines += _module_lines(result)
    if result["slack_ns"] is not None:
        lines += [
            "",
            f"Routed for up to {result['routed_hz'] / 1e6:.2f} MHz, worst slack "
            f"{result['slack_ns']:.3f} ns (measured).",
        ]
        lines += _routing_lines(result["routing"])
    else:
        lines += ["", result["clock"]["sentence"]]
    if "program" in result:
        lines += _program_lines(result["program"], result["clock"])
    return "\n".join(lines) + "\n"


def _module_lines(result: dict) -> list[str]:
    """Cells of each part of the design."""
    names = list(result["resources"])
    return [
        "",
        "By module (measured), each with all its instances:",
        "",
        f"| module | instances | {' | '.join(name.upper() for name in names)} |",
        "|---|---:|" + "---:|" * len(names),
        *(
            f"| {module['name']} | {module['instances']} | "
            f"{' | '.join(f'{module[name]:g}' for name in names)} |"
            for module in result["modules"]
        ),
    ]


def _routing(measured: ToolReport) -> dict:
    """What a router said beside cells and worst slack."""
    return {
        "tool": measured.tool,
        "tns_ns": measured.total_slack_ns,
        "whs_ns": measured.hold_slack_ns,
        "power": measured.power
        and dataclasses.asdict(measured.power) | {"sentence": _power(measured)},
        "attempts": [dataclasses.asdict(attempt) for attempt in measured.attempts],
        "unclocked": measured.unclocked,
    }


def _routing_lines(routing: dict) -> list[str]:
    """Placements that were tried, and power where the tools estimate it."""
    lines = []
    if attempts := routing["attempts"]:
        lines += ["", "| placement, optimisation, routing | worst slack, setup and hold |", "|---|"]
        lines[-1] += "---:|"
        lines += [
            f"| {attempt['directives']} | "
            + ("failed |" if attempt["slack_ns"] is None else f"{attempt['slack_ns']:.3f} ns |")
            for attempt in attempts
        ]
    if power := routing["power"]:
        lines += ["", power["sentence"]]
    return lines


def _power(measured: ToolReport) -> str:
    power = measured.power
    if power is None:
        return ""
    return (
        f"Power {power.total_w:g} W: {power.dynamic_w:g} W dynamic, {power.static_w:g} W static "
        f"(estimated by {measured.tool}, confidence {power.confidence.lower()})."
    )


def _program_lines(program: dict, clock: dict) -> list[str]:
    """Network, cycles of its layers, and what training it for the array would save."""
    total, how = program["cycles"]["total"], program["cycles"]["how"]
    lines = [
        "",
        f"Network {program['graph']}, graph {program['graph_digest'][:16]}, "
        f"{program['bytes']} bytes. "
        + (
            "A program for each layer; cycles do not include what the host computes between them."
            if program["hybrid"]
            else f"{program['batch']} image(s) in a run; cycles are an image's share."
        ),
        "",
        f"| layer | cycles ({how}) |",
        "|---|---:|",
        *(f"| {layer} | {count} |" for layer, count in program["cycles"]["layers"].items()),
        f"| total | {total} |",
        "",
        *(
            f"{1e3 * total / time['hz']:.3f} ms per image at {mhz(time['hz'])} MHz, clock "
            f"{time['basis']}, cycles {how}."
            for time in clock["times"]
        ),
    ]
    if other := program["retraining"]:
        lanes, trained = (":".join(map(str, other[n])) for n in ("lanes", "trained_lanes"))
        lines += [
            "",
            f"Trained for {trained} lanes, built with {lanes}: {other['cycles']} cycles per "
            f"image, {other['cycles_retrained']} if trained for the array (estimated): "
            f"`{other['command']}`.",
        ]
    return lines
