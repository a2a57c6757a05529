# SPDX-License-Identifier: Apache-2.0
"""The array that a build chooses for a network and a board, and what it says about it."""

import json
from pathlib import Path

import pytest

import boards
from gateware import assembly, build
from gateware.compiler.operations import CompileError
from gateware.explore import choose, search
from gateware.explore.choose import Choice, cached
from gateware.explore.shapes import shape_only
from gateware.explore.space import Given, limits, used
from ir import cli
from ir.cli import UserError
from tests.helpers.graphs import residual_graph

FEW = Given(rows=(16, 32), pixels=(2, 4), sizes={"act_depth": 4096, "weight_depth": 512})
GRAPH = residual_graph(1, channels=32, size=8, tile_rows=16)


@pytest.fixture(autouse=True)
def no_verilog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "accelerator_verilog", lambda *args: "")


@pytest.mark.parametrize("name", boards.BOARDS)
def test_the_array_fits_and_what_is_given_stays(name: str) -> None:
    board = boards.get(name)
    sizes = {"pixels": (2,), "rows": (16,), "sizes": {"weight_depth": 512, "slot_depth": 128}}
    config = choose.choose(GRAPH, board, Given(**sizes)).config
    assert (config.rows, config.pixels) == (16, 2)
    assert (config.weight_depth, config.slot_depth) == (512, 128)
    need, most = used(board.device.family, config), limits(board)
    assert all(need[cell] <= limit for cell, limit in most.items())


def test_training_for_a_board_is_for_what_the_build_chooses() -> None:
    board = boards.get("zedboard")
    ratio, rows = choose.array_for(GRAPH, board, FEW)
    trained = shape_only(GRAPH, ratio, rows)
    found = choose.choose(trained, board, FEW)
    assert found.config.lanes == ratio.lanes(rows) and not found.advice
    assert choose.array_for(trained, board, FEW) == (ratio, rows)
    assert found.cycles == search.estimated_on(trained, board, found.config, None, {}).cycles


def test_other_lanes_are_chosen_for_rows_as_they_are() -> None:
    """And it says what training for the array would bring."""
    board = boards.get("zc706")
    graph = residual_graph(1, channels=32, size=8, ratio="50:25:25", tile_rows=16)
    found = choose.choose(graph, board, FEW)
    best = choose.search(graph, board, FEW).best
    assert found.config.lanes in ((8, 4, 4), (16, 8, 8))
    misfit = search.estimated_on(graph, board, best.config, None, {})
    assert best.cycles < found.cycles
    assert misfit.cycles is None or found.cycles < misfit.cycles
    assert f" {found.cycles} cycles per image on " in found.advice
    assert f"{best.cycles} (estimated) if trained for " in found.advice
    assert found.advice.endswith("python -m quant.train --board zc706")


def test_no_array_runs_it() -> None:
    board = boards.get("zedboard")
    with pytest.raises(CompileError, match=r"no array fits .*: needs too many \w+"):
        choose.choose(GRAPH, board, Given(rows=(128,), pixels=(16,)))
    with pytest.raises(CompileError, match=r"no array fits .*: slot_depth must be at least the 16"):
        choose.choose(GRAPH, board, Given(rows=(16,), sizes={"slot_depth": 8}))


def test_an_answer_is_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, file, said = boards.get("zedboard"), tmp_path / "x.json", []
    first = cached(GRAPH, board, FEW, file, said.append)
    monkeypatch.setattr(choose, "explore", lambda *_, **__: pytest.fail("searched again"))
    assert cached(GRAPH, board, FEW, file, said.append) == first
    assert said[-1].endswith(f"chosen before, {file}")
    assert Choice.from_json(json.loads(json.dumps(first.to_json()))) == first
    for graph, other, given in (
        (residual_graph(2), board, FEW),
        (GRAPH, boards.get("zc706"), FEW),
        (GRAPH, board, Given(rows=(16,))),
    ):
        with pytest.raises(pytest.fail.Exception, match="searched again"):
            cached(graph, other, given, file)
    monkeypatch.undo()
    file.write_text("{ damaged")
    again = cached(GRAPH, board, FEW, file)
    assert again.config == first.config
    assert list(json.loads(file.read_text())) and list(tmp_path.iterdir()) == [file]


def test_command_decides_explains_and_is_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = residual_graph(1, channels=32, size=8, ratio="50:25:25", tile_rows=16)
    graph.save(tmp_path / "own.safetensors")
    options = ["--board", "zc706", "--graph", str(tmp_path / "own.safetensors"), "--project-only"]
    options += ["--out", str(tmp_path), "--rows", "32", "--act-depth", "4096", "--json"]
    assert cli.run(build.main, [*options, "--explain"]) == 0
    output = capsys.readouterr()
    config = json.loads(output.out)["config"]
    lanes = [config[f"{name}_rows"] for name in ("pot4", "fixed4", "fixed8")]
    assert lanes == [16, 8, 8] and config["act_depth"] == 4096
    for words in ("chosen: 16:8:8 x 16", "considered, the fastest first", "not among them: "):
        assert words in output.err
    assert (tmp_path / "zc706.choices.json").exists()
    # On lanes that it was not trained for.
    options += ["--ratio", "75:20:5", "-q"]
    assert cli.run(build.main, options) == 0
    before = (tmp_path / "zc706" / "report.json").read_text()
    capsys.readouterr()
    assert cli.run(build.main, [*options, "--strict"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the graph was trained for 8:4:4" in line and "quant.train --ratio" in line
    assert (tmp_path / "zc706" / "report.json").read_text() == before
    with pytest.raises(UserError, match="--explain needs a choice"):
        build.main([*options, "--explain", "--no-search"])
