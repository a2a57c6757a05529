# SPDX-License-Identifier: Apache-2.0
"""Plot of a run."""

import itertools
from pathlib import Path

from PIL import Image

from gateware.arch.registers import COUNTERS
from gateware.compiler.program import compile_graph
from sim.verify import plot
from tests.helpers.graphs import residual_graph
from tests.helpers.units import LARGE


def samples(program, count: int, cycles: int) -> list[dict[str, int]]:
    """Registers of a run whose array always works, at equal distances."""
    last = program.segments[-1].last
    return [
        {
            "CYCLES": cycles * i // count,
            "ERROR_DESCRIPTOR": last * (i - 1) // count,
            **{name.upper(): 0 for name in COUNTERS},
            "ARRAY_CYCLES": cycles * i // count,
        }
        for i in range(1, count + 1)
    ]


def test_layers_follow_one_another() -> None:
    program = compile_graph(residual_graph(1), LARGE)
    found = plot.layers(program, samples(program, 50, 5000), 5000)
    assert next(layer for layer, *_ in found) == program.segments[0].layer
    assert found[0][1] == 0 and found[-1][2] == 5000
    assert all(a[2] == b[1] for a, b in itertools.pairwise(found))
    assert {layer for layer, *_ in found} <= {segment.layer for segment in program.segments}


def test_plot(tmp_path: Path) -> None:
    program = compile_graph(residual_graph(1), LARGE)
    run = samples(program, 50, 5000)
    plot.draw(program, run[:-1], run[-1], tmp_path / "run.png")
    with Image.open(tmp_path / "run.png") as image:
        assert image.size == (1440, 600)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or ()}
    work = tuple(int(plot.COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))
    assert work in colours
