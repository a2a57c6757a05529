# SPDX-License-Identifier: Apache-2.0
"""Breakdown of the cycles of a simulated run: per layer, by cause, with the bytes of memory."""

import dataclasses
import itertools
from collections.abc import Sequence

from gateware.arch.registers import COUNTERS
from gateware.compiler.program import Program
from gateware.model.work import layer_macs
from ir.graph import IntGraph

#: What the columns of the table mean.
LEGEND = (
    "A layer's cycles go from when every layer before was complete until it was (exact, from the "
    "accelerator's counters). Array at work: cycles in which it takes a word of weights and "
    "activations. Of the array: share of its multipliers that these MACs need. Waits, the array "
    "idle, for: drain, the outputs of the tile before; load, weights or activations from memory; "
    "execute, a layer whose results come first; store, results to memory; fetch, instructions."
)
STALLS = tuple(name for name in COUNTERS if name.startswith("stall_"))


@dataclasses.dataclass(kw_only=True)
class LayerRow:
    """Counts of a layer, from when every layer before was complete until this one was.

    macs : multiplications that the layer needs for all images of the run, 0 for a pooling
    stalls : cycles by cause
    """

    layer: str
    macs: int
    cycles: int = 0
    array_cycles: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    stalls: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(STALLS, 0))

    def add(self, before: dict[str, int], after: dict[str, int], beat_bytes: int) -> None:
        """Addition of what happened between two samples."""
        grown = {name: after[name.upper()] - before[name.upper()] for name in ("cycles", *COUNTERS)}
        self.cycles += grown["cycles"]
        self.array_cycles += grown["array_cycles"]
        self.read_bytes += grown["read_beats"] * beat_bytes
        self.write_bytes += grown["write_beats"] * beat_bytes
        for stall in STALLS:
            self.stalls[stall] += grown[stall]

    def utilisation(self, macs_per_cycle: int) -> float:
        """Share of the array's multipliers at work on this layer, 0..1."""
        return self.macs / (self.cycles * macs_per_cycle) if self.cycles else 0.0


def owners(program: Program) -> list[str]:
    """Layer of each descriptor, by name."""
    return [
        segment.layer for segment in program.segments for _ in range(segment.first, segment.last)
    ]


def layer_rows(
    program: Program, graph: IntGraph, samples: Sequence[dict[str, int]], final: dict[str, int]
) -> list[LayerRow]:
    """Rows of one run, in the order of the program.

    ``samples`` are registers whenever a descriptor was complete, at least, ``final`` the counters
    at the run's end. What lies between two samples counts for the layer at work at the first.
    """
    rows = {
        segment.layer: LayerRow(
            layer=segment.layer, macs=program.batch * layer_macs(graph, segment.layer)
        )
        for segment in program.segments
    }
    owner = owners(program)
    first = dict.fromkeys(final, 0) | {"ERROR_DESCRIPTOR": 0}
    beat_bytes = program.config.bus_bits // 8
    moments = [first, *samples, final]
    for before, after in itertools.pairwise(moments):
        index = min(before["ERROR_DESCRIPTOR"], len(owner) - 1)
        rows[owner[index]].add(before, after, beat_bytes)
    return list(rows.values())


def table(rows: Sequence[LayerRow], macs_per_cycle: int) -> str:
    """Table of the rows and their sum, in Markdown."""
    total = LayerRow(layer="total", macs=sum(row.macs for row in rows))
    for name in ("cycles", "array_cycles", "read_bytes", "write_bytes"):
        setattr(total, name, sum(getattr(row, name) for row in rows))
    for stall in STALLS:
        total.stalls[stall] = sum(row.stalls[stall] for row in rows)
    names = [stall.removeprefix("stall_") for stall in STALLS]
    lines = [
        LEGEND,
        "",
        "| layer | cycles | MACs | of the array | array at work | "
        + " | ".join(f"waits: {name}" for name in names)
        + " | kB read | kB written |",
        "|---|" + "---:|" * (6 + len(names)),
    ]
    for row in [*rows, total]:
        waits = " | ".join(str(row.stalls[stall]) for stall in STALLS)
        lines.append(
            f"| {row.layer} | {row.cycles} | {row.macs / 1e6:.2f} M | "
            f"{row.utilisation(macs_per_cycle):.1%} | {row.array_cycles} | {waits} | "
            f"{row.read_bytes / 1e3:.1f} | {row.write_bytes / 1e3:.1f} |"
        )
    return "\n".join(lines)
