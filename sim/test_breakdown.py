# SPDX-License-Identifier: Apache-2.0
"""The report of layers adds up, and gives each cycle to the layer that was at work."""

import dataclasses

from gateware.arch.config import AccelConfig
from gateware.arch.registers import COUNTERS
from gateware.compiler.program import compile_graph
from gateware.compiler.program_image import LayerSegment
from gateware.model.work import layer_macs
from ir.ratio import Ratio
from sim.verify.breakdown import STALLS, layer_rows, table
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.seeds import suite_rng

CONFIG = AccelConfig.from_ratio(Ratio(65, 30, 5), 16)


def registers(cycles: int, index: int = 0, **given: int) -> dict[str, int]:
    counters = dict.fromkeys((name.upper() for name in COUNTERS), 0)
    return counters | {"CYCLES": cycles, "ERROR_DESCRIPTOR": index} | given


def network():
    build = GraphBuilder(suite_rng(), (3, 6, 5))
    pooled = build.max_pool(build.conv(INPUT, 8, 3), 2)
    build.linear(build.flatten(pooled), 4, wide=True)
    return build.build()


def test_multiplications():
    graph = network()
    assert layer_macs(graph, "conv0") == 8 * 27 * 30
    assert layer_macs(graph, "max_pool1") == 0
    assert layer_macs(graph, "linear3") == 4 * 8 * 6


def test_cycles_go_to_the_layer_at_work():
    graph = network()
    program = compile_graph(graph, CONFIG)
    program = dataclasses.replace(
        program,
        segments=(
            LayerSegment("input", 0, 1),
            LayerSegment("conv0", 1, 4),
            LayerSegment("max_pool1", 4, 6),
            LayerSegment("conv0", 6, 7),
            LayerSegment("linear3", 7, 9),
        ),
    )
    samples = [
        registers(100, 3, READ_BEATS=10, STALL_LOAD=60),
        registers(150, 5, READ_BEATS=12),
        registers(170, 6, ARRAY_CYCLES=15, READ_BEATS=12),
        registers(200, 8, READ_BEATS=12),
    ]
    samples = [sample | {"STALL_LOAD": 60} for sample in samples]
    final = registers(230, READ_BEATS=20, WRITE_BEATS=3, STALL_LOAD=60, ARRAY_CYCLES=15)
    samples[3]["ARRAY_CYCLES"] = 15
    rows = {row.layer: row for row in layer_rows(program, graph, samples, final)}
    # Layers of a strip come back.
    assert {name: row.cycles for name, row in rows.items()} == {
        "input": 100,
        "conv0": 50 + 30,
        "max_pool1": 20,
        "linear3": 30,
    }
    assert rows["input"].stalls["stall_load"] == 60 and rows["input"].read_bytes == 80
    assert rows["max_pool1"].array_cycles == 15
    assert (rows["linear3"].read_bytes, rows["linear3"].write_bytes) == (64, 24)
    assert sum(row.cycles for row in rows.values()) == final["CYCLES"]
    assert rows["conv0"].utilisation(512) == 8 * 27 * 30 / (80 * 512)
    text = [line for line in table(list(rows.values()), 512).splitlines() if line[:1] == "|"]
    assert len(text) == 2 + len(rows) + 1 and len({line.count("|") for line in text}) == 1
    assert text[-1].startswith("| total | 230 |") and len(STALLS) == 5


def test_a_layer_that_took_no_time():
    graph = network()
    rows = layer_rows(compile_graph(graph, CONFIG), graph, [], registers(10))
    assert sum(row.cycles for row in rows) == 10
    assert all(row.utilisation(512) == 0 for row in rows if not row.cycles)
