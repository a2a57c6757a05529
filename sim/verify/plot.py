# SPDX-License-Identifier: Apache-2.0
"""Plot of a simulated run: what the array did over time, and what came from memory."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gateware.compiler.program import Program
from sim.verify.breakdown import STALLS, owners

#: Colours of what the array does, from work to waits.
COLOURS = ("#009e73", "#f0e442", "#d55e00", "#cc79a7", "#56b4e9", "#999999")
BINS = 400  #: moments across the plot
LAYER_COLOURS = ("#8a93a6", "#c3c9d6")  #: of the strip of layers, in turn


def draw(
    program: Program, samples: Sequence[dict[str, int]], final: dict[str, int], file: Path
) -> None:
    """Plot of one run as a PNG, ``file``.

    ``samples`` are registers at some moments, ``final`` the counters at the end.
    """
    names = ("ARRAY_CYCLES", *(stall.upper() for stall in STALLS))
    moments = [dict.fromkeys(final, 0), *samples, final]
    times = np.array([moment["CYCLES"] for moment in moments], float)
    grid = np.linspace(0, times[-1], min(BINS, len(times)))
    width = np.diff(grid)

    def rate(name: str) -> np.ndarray:
        """Growth of a counter per cycle in each bin."""
        return np.diff(np.interp(grid, times, [moment[name] for moment in moments])) / width

    figure = Figure(figsize=(12, 5), dpi=120, layout="constrained")
    strip, upper, lower = figure.subplots(3, 1, sharex=True, height_ratios=(0.5, 3, 1))
    middle = (grid[:-1] + grid[1:]) / 2
    labels = ["array at work", *(f"waits: {stall.removeprefix('stall_')}" for stall in STALLS)]
    upper.stackplot(
        middle,
        [100 * rate(name) for name in names],
        labels=labels,
        colors=COLOURS[: len(names)],
        step="mid",
    )
    upper.set_ylim(0, 100)
    upper.set_ylabel("% of cycles")
    beat_bytes = program.config.bus_bits // 8
    for name, label in (("READ_BEATS", "read"), ("WRITE_BEATS", "written")):
        lower.step(middle, beat_bytes * rate(name), where="mid", label=label)
    lower.set_ylabel("bytes per cycle")
    lower.set_xlabel(f"cycles (measured, {program.batch} image{'s' * (program.batch > 1)})")
    figure.legend(loc="outside lower center", ncols=len(names) + 2, fontsize=8)

    for number, (layer, begin, end) in enumerate(layers(program, samples, int(times[-1]))):
        strip.axvspan(begin, end, color=LAYER_COLOURS[number % 2], linewidth=0)
        strip.text((begin + end) / 2, 1.1, layer, fontsize=6, rotation=90, ha="center")
        for axes in (upper, lower):
            axes.axvline(begin, color="black", linewidth=0.4)
    strip.set(ylim=(0, 1), yticks=[])
    strip.spines[:].set_visible(False)
    upper.set_xlim(0, times[-1])
    FigureCanvasAgg(figure).print_png(file)


def layers(
    program: Program, samples: Sequence[dict[str, int]], end: int
) -> list[tuple[str, int, int]]:
    """Spans of the layers: name, first and last cycle at work, in the order of time."""
    owner = owners(program)
    seen = [(owner[0], 0)] + [
        (owner[min(sample["ERROR_DESCRIPTOR"], len(owner) - 1)], sample["CYCLES"])
        for sample in samples
    ]
    starts = [(layer, next(group)[1]) for layer, group in itertools.groupby(seen, lambda s: s[0])]
    ends = [*(begin for _, begin in starts[1:]), end]
    return [(layer, begin, last) for (layer, begin), last in zip(starts, ends, strict=True)]
