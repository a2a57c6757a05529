# SPDX-License-Identifier: Apache-2.0
"""Waterfall of cycles: its causes add up, follow what they name, and are printed and drawn."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bench import waterfall as command
from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import compile_all
from gateware.model import estimate
from gateware.model.waterfall import CAUSES, waterfall
from gateware.model.work import network_macs
from ir.cli import UserError
from ir.graph import IntGraph
from ir.ratio import Ratio
from tests.helpers.graphs import INPUT, GraphBuilder, sequence_graph

CONFIG = AccelConfig.from_ratio(Ratio(50, 25, 25), 32, pixels=4, ports=2)


def network(seed: int) -> IntGraph:
    build = GraphBuilder(np.random.default_rng(seed), (16, 12, 14))
    alone = build.conv(build.conv(INPUT, 32, 1), 32, 3, groups=32)
    pooled = build.avg_pool(build.max_pool(build.conv(alone, 32, 1), 2))
    build.linear(build.flatten(pooled), 10, wide=True)
    return build.build()


def test_causes_add_up(seed: int) -> None:
    graph = network(seed)
    compiled = compile_all(graph, CONFIG)
    found = waterfall(graph, compiled)
    (one,) = compiled
    assert list(found) == list(CAUSES) and min(found.values()) >= 0
    assert sum(found.values()) == sum(estimate.cycles(one.program).values())
    ideal = network_macs(graph) / CONFIG.macs_per_cycle
    assert found["arithmetic"] == pytest.approx(ideal, abs=len(graph.layers))
    assert found["padding"] > 0 and found["depthwise"] > 0 and found["loads"] > 0


def test_each_cause_follows_what_it_names(seed: int) -> None:
    graph = network(seed)

    def of(beats: float | None = None, **sizes: int) -> dict[str, int]:
        config = dataclasses.replace(CONFIG, **sizes)
        return waterfall(graph, compile_all(graph, config), beats)

    one = of(requant_lanes=4)
    assert one["drain"] > of(requant_lanes=4, drain_pixels=2)["drain"]
    assert of(0.25)["loads"] > of()["loads"]
    assert of(pixels=8, ports=2)["padding"] > 0  # 14 columns in groups of 8


def test_a_network_with_a_part_of_the_host(seed: int) -> None:
    graph = sequence_graph(seed)
    compiled = compile_all(graph, CONFIG)
    cycles = sum(sum(estimate.cycles(one.program).values()) for one in compiled)
    assert sum(waterfall(graph, compiled).values()) == cycles


def test_printed_and_drawn(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    graph = network(seed)
    graph.save(tmp_path / "graph.safetensors")
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    picture = tmp_path / "waterfall.png"
    arguments = [str(tmp_path / "graph.safetensors"), str(tmp_path)]
    assert command.main([*arguments, "--draw", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = waterfall(graph, compile_all(graph, CONFIG))
    rows = [line.split("|")[1:3] for line in lines[2 : 2 + len(CAUSES)]]
    assert {name.strip(): int(cycles) for name, cycles in rows} == found
    assert lines[-1].startswith(f"{sum(found.values())} cycles, estimated; the ideal is ")
    assert picture.read_bytes()[1:4] == b"PNG"
    assert command.main([*arguments, "--bytes", "2"]) == 0
    slower = capsys.readouterr().out.splitlines()[-1]
    assert int(slower.split()[0]) > sum(found.values())
    with pytest.raises(UserError):
        command.main([arguments[0], str(tmp_path / "nothing")])
