# SPDX-License-Identifier: Apache-2.0
"""Options that the build refuses, and what a build folder carries."""

import json
from pathlib import Path

import numpy as np
import pytest

import boards
from boards import clocks
from boards.clocks import ModelledClock
from boards.driver import Package, WrongPackage
from gateware import assembly, build
from gateware.arch.config import AccelConfig
from gateware.build import main, parser
from gateware.compiler.operations import CompileError
from gateware.compiler.program import Program, compile_graph
from gateware.explore.configure import configure
from gateware.explore.shapes import shape_only
from gateware.flow import clock
from gateware.model import estimate
from ir import cli, golden
from ir.cli import UserError
from ir.graph import IntGraph
from ir.ratio import Ratio
from ir.vectors import Vectors, beside
from tests.helpers.graphs import random_images, residual_graph


def network(folder: Path, seed: int, count: int = 120) -> tuple[Path, IntGraph]:
    """A graph file with ``count`` test vectors beside it."""
    graph, path = residual_graph(seed, channels=4, size=4), folder / "own.safetensors"
    images = random_images(graph, np.random.default_rng(seed), count)
    folder.mkdir(exist_ok=True)
    graph.save(path)
    Vectors.of(graph, images, golden.logits(graph, images)).save(beside(path))
    return path, graph


def built(path: Path, folder: Path, *options: str) -> int:
    argv = ["--board", "zedboard", "--graph", str(path), "--out", str(folder), "-q", *options]
    return cli.run(build.main, [*argv, "--project-only", "--no-search"])


@pytest.fixture
def no_verilog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds without the part that takes seconds."""
    monkeypatch.setattr(assembly, "accelerator_verilog", lambda *args: "")


@pytest.mark.usefixtures("no_verilog")
def test_build_folder_carries_network_and_vectors(tmp_path: Path, seed: int) -> None:
    path, graph = network(tmp_path / "run", seed)
    assert built(path, tmp_path) == 0
    folder = tmp_path / "zedboard"
    assert IntGraph.load(folder / "graph.safetensors").digest == graph.digest
    vectors = Vectors.load(folder / "vectors.npz", graph)
    original = Vectors.load(beside(path), graph)
    assert len(vectors) == assembly.VECTORS
    np.testing.assert_array_equal(vectors.images, original.images[: assembly.VECTORS])
    package = Package(folder)
    assert package.graph_digest == graph.digest
    np.testing.assert_array_equal(package.golden()["images"], original.images[:8])
    np.testing.assert_array_equal(package.golden()["logits"], original.logits[:8])


@pytest.mark.usefixtures("no_verilog")
def test_files_of_two_networks_are_not_used_together(tmp_path: Path, seed: int, capsys) -> None:
    """Each file of a build folder that belongs to the network, taken from another one."""
    folders = []
    for number in (0, 1):
        path, _ = network(tmp_path / f"run{number}", seed + number, count=10)
        assert built(path, tmp_path / f"build{number}") == 0
        folders.append(tmp_path / f"build{number}" / "zedboard")
    one, other = folders
    for name in ("program.bin", "program.json", "golden.npz"):
        mine = (one / name).read_bytes()
        (one / name).write_bytes((other / name).read_bytes())
        with pytest.raises(WrongPackage, match="copy the whole build folder") as refused:
            Package(one).golden()
        assert name in str(refused.value) and "\n" not in str(refused.value)
        if name != "golden.npz":
            with pytest.raises(CompileError, match=r"^.*program\.bin .*build it again$"):
                Program.load(one)
        (one / name).write_bytes(mine)
    assert len(Package(one).golden()["images"]) == 8
    # Vectors of another training beside a graph stop the build.
    beside(tmp_path / "run0/own.safetensors").write_bytes(
        beside(tmp_path / "run1/own.safetensors").read_bytes()
    )
    capsys.readouterr()
    assert built(tmp_path / "run0/own.safetensors", tmp_path) == 2
    said = capsys.readouterr().err
    assert "own.vectors.npz belongs to another network" in said and said.count("\n") == 1


@pytest.mark.parametrize("clock", ["nan", "inf", "fast"])
def test_a_clock_that_is_no_number(clock: str) -> None:
    with pytest.raises(UserError, match=rf"--clock-mhz: a clock is a number of MHz, not {clock}"):
        parser().parse_args(["--board", "zc706", "--clock-mhz", clock])


@pytest.mark.parametrize("clock", ["0", "-1", "1e-9", "5000", "1e9"])
def test_a_clock_that_the_board_does_not_make(clock: str) -> None:
    """With the range and its reason."""
    with pytest.raises(UserError, match=r"makes clocks of 0\.252 MHz, its PLL .* to 250 MHz, the"):
        main(["--board", "zc706", "--clock-mhz", clock])


@pytest.mark.parametrize("option", [f"--{name.replace('_', '-')}" for name in build.RANGES])
@pytest.mark.parametrize("size", ["0", "-1", "1e3", "99999"])
def test_a_size_that_no_array_has(option: str, size: str) -> None:
    with pytest.raises(UserError, match=rf"{option}: \d+ to \d+, as .*, not {size} \(see"):
        main(["--board", "zc706", option, size])


@pytest.mark.usefixtures("no_verilog")
def test_a_clock_that_the_evidence_contradicts(
    tmp_path: Path, seed: int, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, graph = network(tmp_path / "run", seed, count=10)
    config = configure(boards.get("zedboard"), graph, ratio=None, rows=None, clock_hz=None)
    model = ModelledClock(
        design="own",
        device="xc7z020",
        grade=1,
        ns=12.5,
        config=clock.sizes_digest(config),
        verilog=clock.verilog_digest(config, ""),
    )
    monkeypatch.setattr(clocks, "modelled", lambda: (model,))
    argv = ["--board", "zedboard", "--graph", str(path), "--out", str(tmp_path), "--project-only"]
    argv += ["--no-search"]
    assert cli.run(build.main, argv) == 0
    said = capsys.readouterr()
    assert "warning" not in said.err
    assert " ms per image at 66.67 MHz, clock modelled, cycles estimated." in said.out
    assert cli.run(build.main, [*argv, "--clock-mhz", "100"]) == 0
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if "warning" in line]
    assert line == (
        "warning: 100 MHz is above what the model of this netlist supports: 80.0 MHz, 66.67 MHz "
        "with 15% for routing"
    )
    first, second = [line for line in said.out.splitlines() if " ms per image at " in line]
    assert "66.67 MHz, clock modelled" in first and "100 MHz, clock assumed" in second
    report = json.loads((tmp_path / "zedboard" / "report.json").read_text())
    assert [time["basis"] for time in report["clock"]["times"]] == ["modelled", "assumed"]
    page = (tmp_path / "zedboard" / "report.html").read_text()
    assert page.index("at 66.67 MHz, modelled") < page.index("at 100 MHz, assumed")
    assert cli.run(build.main, [*argv, "--clock-mhz", "5000"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "makes clocks of 0.252 MHz, " in line
    assert line.endswith(", to 250 MHz, the limit of FCLK0, not 5000 MHz")


def test_an_array_that_the_network_was_not_trained_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build says in one line what that costs and how to train; the report says it, too."""
    monkeypatch.setattr(assembly, "accelerator_verilog", lambda *_: "module x; endmodule\n")
    graph = residual_graph(1, channels=32, size=8, ratio="50:25:25", tile_rows=16)
    graph.save(tmp_path / "own.safetensors")
    options = ["--board", "zc706", "--graph", str(tmp_path / "own.safetensors"), "--json"]
    options += ["--out", str(tmp_path), "--project-only", "--no-search"]
    assert main([*options, "--ratio", "75:20:5", "--rows", "16"]) == 0
    output = capsys.readouterr()
    found = json.loads(output.out)["program"]["retraining"]
    (line,) = (line for line in output.err.splitlines() if "trained" in line)
    config = AccelConfig.from_ratio(Ratio(75, 20, 5), 16)
    built = sum(estimate.cycles(compile_graph(graph, config)).values())
    fitting = shape_only(graph, Ratio(75, 20, 5), 16)
    could = sum(estimate.cycles(compile_graph(fitting, config)).values())
    assert (found["cycles"], found["cycles_retrained"]) == (built, could) and built > could
    assert "12:3:1 lanes, the graph was trained for 8:4:4: " in line
    assert f" {built} cycles per image as built, {could} (estimated)" in line
    options_found = found["command"].partition("quant.train ")[2].split()
    assert line.endswith(found["command"])
    ratio, rows = Ratio.parse(options_found[1]), int(options_found[3])
    assert (ratio.lanes(rows), rows) == (config.lanes, 16)
    # Nothing is said where the array is the network's.
    assert main([*options, "--rows", "16"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["program"]["retraining"] is None and "trained" not in output.err
