# SPDX-License-Identifier: Apache-2.0
"""Networks without weights, and the array and ratio that are found with them."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import boards
from boards.board import Board
from gateware import ratio
from gateware.arch.config import SIZES, AccelConfig
from gateware.compiler.operations import CompileError
from gateware.compiler.program import compile_graph
from gateware.explore import presets, search, space
from gateware.explore.configure import configure
from gateware.explore.shapes import resnet18, shape_only
from gateware.model import estimate
from ir import board_arrays
from ir.cli import UserError
from ir.ratio import Ratio
from quant.assignment.assign import assign
from quant.assignment.methods import method
from quant.assignment.sensitivity import row_scores
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.models import resnet
from tests.helpers.graphs import residual_graph

ZC706 = boards.get("zc706")


def cycles(graph, config: AccelConfig) -> dict[str, int]:
    return estimate.cycles(compile_graph(graph, config))


@pytest.mark.parametrize("sizes", [{}, {"pixels": 4, "ports": 2, "requant_lanes": 16}])
def test_cycles_do_not_depend_on_weights(sizes: dict[str, int]) -> None:
    given = Ratio(50, 25, 25)
    graph = residual_graph(1, channels=32, ratio=str(given), tile_rows=16)
    config = AccelConfig.from_ratio(given, 16, **sizes)
    assert cycles(shape_only(graph, given, 16), config) == cycles(graph, config)


def test_cycles_do_not_depend_on_the_split_of_four_bit_rows() -> None:
    graph = residual_graph(1, channels=32)
    split = {}
    for given in (Ratio(69, 25, 6), Ratio(50, 44, 6), Ratio(25, 69, 6)):
        config = AccelConfig.from_ratio(given, 16)
        split[config.lanes] = cycles(shape_only(graph, given, 16), config)
    assert len(split) == 3
    assert len({json.dumps(found) for found in split.values()}) == 1


@pytest.mark.slow
def test_shapes_of_resnet18_is_what_export_gives(seed) -> None:
    torch.manual_seed(seed)
    images = torch.rand(2, 3, 64, 64)
    model = resnet.resnet18(classes=10)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the statistics become those of the images
    model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    model = prepare(model, images)
    calibrate(model, images)
    assign(model, method("rmsmp", "65:30:5"), 16, row_scores("random", model, images))
    exported = export(model, images, name="resnet18", ratio=Ratio(65, 30, 5), tile_rows=16)
    made = resnet18(64, 10)
    for mine, theirs in zip(made.nodes, exported.nodes, strict=True):
        mine, theirs = (node.model_dump() for node in (mine, theirs))
        for fields in (mine, theirs):
            if fields["op"] == "avg_pool":  # its scale comes from data
                fields |= dict.fromkeys(("multiplier", "bias", "shift", "low", "high"), 0)
            if fields.get("residual"):
                fields["residual"]["n"] = 0
        assert mine == theirs
    for spec in exported.header.tensors:
        twin = made.tensor(spec.name)
        assert (twin.shape, twin.bits, twin.zero_point) == (spec.shape, spec.bits, spec.zero_point)
    config = AccelConfig.from_ratio(Ratio(65, 30, 5), 16, weight_depth=512, wide_depth=16)
    assert cycles(shape_only(made, Ratio(65, 30, 5), 16), config) == cycles(exported, config)


def limited(**limits: int) -> Board:
    device = dataclasses.replace(ZC706.device, limits={**ZC706.device.limits, **limits})
    return dataclasses.replace(ZC706, device=device)


def test_split_has_the_most_fixed4_rows_that_fit() -> None:
    board = limited(dsp48e1=500)
    graph = residual_graph(1, channels=64, tile_rows=64)
    found = search.explore(graph, board, given=space.Given(rows=(64,), pixels=(4,)))
    most = space.limits(board)
    assert {point.config.fixed8_rows for point in found.points} >= {3, 4}
    for point in found.points:
        config = point.config
        used = dataclasses.asdict(estimate.resources(config))
        assert all(used[name] <= limit for name, limit in most.items())
        assert point.ratio.lanes(64) == config.lanes
        more = dataclasses.replace(
            config, pot4_rows=config.pot4_rows - 2, fixed4_rows=config.fixed4_rows + 2
        )
        assert estimate.resources(more).dsp48e1 > 500
        deeper = dataclasses.replace(
            config, weight_depth=config.weight_depth + space.DOMAINS["xc7"].weight_step
        )
        assert (
            config.weight_depth == space.DOMAINS["xc7"].weight_max
            or estimate.resources(deeper).bram36 > 545
        )
    assert found.best.config.fixed8_rows == 3


@pytest.mark.parametrize(
    "sizes", [{"ports": 4}, {"ports": 1}, {"act_copies": 1, "requant_lanes": 4}, {"pixels": 4}]
)
def test_no_image_is_faster_than_the_bound(sizes: dict[str, int]) -> None:
    graph = residual_graph(1, channels=64, tile_rows=32)
    config = AccelConfig.from_ratio(Ratio(50, 25, 25), 32, **sizes)
    found = search.estimated_on(graph, ZC706, config, Ratio(50, 25, 25), {})
    least = search.least_cycles(graph, ZC706, config)
    assert 0.3 * found.cycles < least < found.cycles


def point(cycles: int | None, lut: float, fixed8: int, pot4: int = 8) -> search.DesignPoint:
    config = AccelConfig(pot4_rows=pot4, fixed4_rows=32 - pot4 - fixed8, fixed8_rows=fixed8)
    return search.DesignPoint(
        config=config,
        ratio=space.percent(config.lanes),
        used={"lut": lut},
        cycles=cycles,
        fixed8_share=fixed8 / 32,
    )


def test_arrays_that_differ_in_four_bit_rows_are_compiled_once(monkeypatch) -> None:
    graph, known = residual_graph(1, channels=32), {}
    for given in (Ratio(69, 25, 6), Ratio(50, 44, 6), Ratio(63, 25, 12)):
        config = AccelConfig.from_ratio(given, 16)
        found = search.estimated_on(graph, ZC706, config, given, known)
        assert found.cycles == sum(cycles(shape_only(graph, given, 16), config).values())
    assert len(known) == 2


def test_points_that_others_beat_are_left_out() -> None:
    """In cycles, LUTs, multipliers and block RAMs; of equal ones that with less PoT-4 stays."""
    fast, small, precise = point(100, 0.7, 1), point(200, 0.3, 1), point(100, 0.7, 2)
    slow, less_pot4 = point(150, 0.7, 1), point(100, 0.7, 1, pot4=4)
    found = search.SearchResult((fast, small, precise, slow, less_pot4), Counter())
    assert found.pareto == (less_pot4, small)
    assert less_pot4.dominates(fast) and not less_pot4.dominates(precise)
    assert found.best is less_pot4
    lean = dataclasses.replace(slow, used={"lut": 0.7, "ff": 0.1, "dsp48e1": 0.2, "bram36": 0.1})
    rich = dataclasses.replace(fast, used={"lut": 0.7, "ff": 0.1, "dsp48e1": 0.2, "bram36": 0.5})
    wide = dataclasses.replace(lean, used={"lut": 0.7, "ff": 0.9, "dsp48e1": 0.3, "bram36": 0.1})
    assert search.SearchResult((lean, rich, wide), Counter()).pareto == (rich, lean)
    near, far = point(105, 0.7, 1, pot4=2), point(106, 0.7, 1, pot4=0)
    assert search.SearchResult((fast, near, far), Counter()).best is near
    assert (
        search.SearchResult((fast, precise), Counter()).best is precise
    )  # 6 % is nearer to 5 than 3
    with pytest.raises(ValueError, match=r"no array fits: needs too many LUT \(7\)"):
        _ = search.SearchResult((), Counter({"needs too many LUT": 7})).best


def test_fewer_block_rams_for_more_cycles() -> None:
    graph, known = residual_graph(1, channels=64, tile_rows=32), {}
    sizes = {"weight_depth": 2048, "act_depth": 4096}
    given = space.Given(ratio=Ratio(50, 25, 25), rows=(32,), pixels=(2,), sizes=sizes)
    found = search.explore(graph, ZC706, given=given, known=known)
    more = search.shallower(graph, ZC706, found, known)
    depths = {point.config.weight_depth for point in more.points}
    assert depths >= {2048, 1024, 512} and more.points[: len(found.points)] == found.points
    used = {point.config.weight_depth: point.used["bram36"] for point in more.points}
    assert used[512] < used[1024] < used[2048]


def test_networks_by_name() -> None:
    graph = ratio.network(None, "tiny", 16)
    assert graph.input.shape == (3, 16, 16) and graph.header.name == "tiny"
    assert cycles(graph, AccelConfig.from_ratio(Ratio(65, 30, 5), 16))
    with pytest.raises(UserError, match="no network is called 'resnet19'; known are "):
        ratio.network(None, "resnet19")


@pytest.mark.slow
def test_network_that_no_shape_runs_is_refused_with_its_reason(monkeypatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise CompileError("layer 'fc' is too large")

    monkeypatch.setattr(search, "compile_all", refuses)
    graph = residual_graph(1, channels=64, size=8, tile_rows=64)
    none = search.explore(graph, ZC706, given=space.Given(rows=(64,), pixels=(2,)))
    assert {p.cycles for p in none.points} == {None}
    assert none.points[0].refusal == "layer 'fc' is too large"


def test_memory_slower_than_the_ports_is_seen() -> None:
    config = AccelConfig.from_ratio(Ratio(65, 30, 5), 64, ports=4)
    assert search.beats_per_cycle(ZC706, config) == pytest.approx(4, abs=0.01)
    fast = dataclasses.replace(config, clock_hz=200_000_000)
    assert search.beats_per_cycle(ZC706, fast) == pytest.approx(2, abs=0.01)


@pytest.fixture
def arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own, whose installation has no answers and cannot be written."""
    shipped = tmp_path / "installed"
    shipped.mkdir(mode=0o555)
    monkeypatch.setattr(board_arrays, "SHIPPED", shipped)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "rmsmp" / "arrays"


@pytest.mark.slow
def test_command_prints_draws_and_keeps(arrays: Path, capsys) -> None:
    residual_graph(1, channels=32, tile_rows=32).save("g.safetensors")
    options = [
        "--board",
        "zedboard",
        "--graph",
        "g.safetensors",
        "--rows",
        "16,32",
        "--pixels",
        "2,4",
        "-q",
        "--keep",
    ]
    assert ratio.main(options) == 0
    said = capsys.readouterr().out
    assert "| answer |" in said and "the paper's is 60:35:5" in said
    assert Path("build/ratio-zedboard.png").stat().st_size > 10_000
    entry = json.loads((arrays / "zedboard.json").read_text())
    assert not list(board_arrays.SHIPPED.iterdir())
    assert set(entry["sizes"]) == set(SIZES)
    assert ratio.main([*options, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["answer"]
    assert answer["ratio"] == entry["ratio"]

    kept = board_arrays.board_array("zedboard")
    board, plain = boards.get("zedboard"), {"rows": None, "clock_hz": None}
    config = configure(board, None, ratio="auto", **plain)
    assert ":".join(map(str, config.lanes)) == answer["lanes"]
    assert config.weight_depth == answer["weight_depth"]
    assert config.lanes == kept.ratio.lanes(kept.rows)
    assert configure(board, None, ratio="auto", **plain, slot_depth=256).slot_depth == 256
    with pytest.raises(UserError, match=r"no answer for .*ZC706.*has for zedboard"):
        configure(ZC706, None, ratio="auto", **plain)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--board", "ulx3s_85f"], "Zynq-7000"),
        (["--board", "zc7o6"], "zc706"),
        (["--board", "zc706", "--rows", "7"], "--rows takes some of 8,16"),
        (["--board", "zc706", "--pixels", "x"], "--pixels takes some of 2,4"),
        (["--board", "zc706", "--graph", "none"], "no graph file at none"),
        (["--board", "zc706", "--size", "7"], "--size is 8 to 1023 pixels"),
    ],
)
def test_command_refuses(options: list[str], word: str) -> None:
    with pytest.raises(UserError, match=word):
        ratio.main(options)


def test_named_ratios() -> None:
    plain = {"rows": 64, "clock_hz": None}
    assert configure(ZC706, None, ratio="paper", **plain).lanes == (42, 19, 3)
    assert presets.paper(boards.get("pynq_z2")) == Ratio(60, 35, 5)
    assert presets.paper(boards.get("ulx3s_85f")) == Ratio(65, 30, 5)


@pytest.mark.parametrize("name", sorted(board_arrays.board_files()))
def test_kept_answers_fit_their_boards(name: str) -> None:
    board = boards.get(name)
    config = configure(board, None, ratio="auto", rows=None, clock_hz=None)
    used = dataclasses.asdict(estimate.resources(config))
    most = space.limits(board)
    assert all(used[cell] <= limit for cell, limit in most.items())
    kept = board_arrays.board_array(name)
    assert kept.ratio.lanes(kept.rows) == config.lanes == kept.ratio.rows(kept.rows, kept.rows)
