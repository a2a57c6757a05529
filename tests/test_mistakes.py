# SPDX-License-Identifier: Apache-2.0
"""Mistakes of a first hour with the project, each told in one line that says how to mend it.

Mirrors no module: one manner of all command lines. In the process of the test, which is fast.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gateware import assembly
from gateware import build as gateware_build
from ir import cli
from ir.files import exclusive, replace_folder, replace_text
from tests.helpers.graphs import residual_graph

ROOT = Path(__file__).resolve().parents[1]
ZC706 = ("gateware.build", "--board", "zc706", "--project-only")
Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Refused:
    """Function that runs a command in an empty folder and returns its one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.Parser, "running", None)

    def run(module: str, *arguments: object) -> str:
        main = importlib.import_module(module).main
        assert cli.run(main, [str(argument) for argument in arguments]) == cli.EXIT_USER_ERROR
        told = capsys.readouterr()
        assert not told.out
        (line,) = told.err.splitlines()
        return line.removeprefix("error: ")

    return run


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "mine" / "graph.safetensors"
    path.parent.mkdir(parents=True)
    residual_graph(1).save(path)
    return path


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ((*ZC706, "--batch", "1000"), "argument --batch: must be 1 to 64, not 1000"),
        ((*ZC706, "--clock-mhz", "nan"), "argument --clock-mhz: a clock is a number of MHz"),
        ((*ZC706, "--clock-mhz", "1e-9"), "clock"),
        ((*ZC706, "--clock-mhz", "5000"), "clock"),
        ((*ZC706, "--rows", "0"), "argument --rows: 1 to 1024, as no board holds more, not 0"),
        (
            (*ZC706, "--rows", "17"),
            "--rows must be a multiple of --requant-lanes, which is 8, not 17",
        ),
        ((*ZC706, "--act-depth", "1000"), "--act-depth must be a power of two, not 1000"),
        ((*ZC706, "--slot-depth", "8"), "--slot-depth must be at least the 16 rows, not 8"),
        (
            (*ZC706, "--wide-depth", "-1"),
            "argument --wide-depth: 1 to 65536, as an address has 16 bits, not -1",
        ),
        ((*ZC706, "--pixels", "1e9"), "argument --pixels: 2 to 512"),
        (("gateware.ratio", "--board", "zc706", "--plot", "x.foo"), "--plot: must end with ."),
        (("gateware.ratio", "--board", "zc706", "--plot", "."), "--plot: must end with ."),
        (("sim.run", "--stall", "256"), "argument --stall: must be 0 to 255, not 256"),
        (("sim.run", "--seed", "-1"), "argument --seed: must be 0 to 2147483647, not -1"),
        (("sim.run", "--images", "x"), "argument --images: must be a whole number, not 'x'"),
        ((*ZC706, "--graph", "."), ". is a folder without graph.safetensors"),
        (("quant.train", "--width", "100000"), "--width should be less than or equal to 4096"),
        (("quant.train", "--model", "tinny"), "did you mean tiny?"),
        (("quant.train", "--lr", "-1"), "--lr should be greater than 0, not '-1'"),
        (("quant.train", "--resume", "x", "--overwrite"), "leave one"),
        (("quant.evaluate", "nobody"), "no run at nobody, nor of this name in runs"),
        (("quant.evaluate", "--integer-samples", "0"), "must be at least 1, not 0"),
    ],
)
def test_options(refused: Refused, tmp_path: Path, command: tuple[str, ...], line: str) -> None:
    assert line in refused(*command)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_graph_without_permission(refused: Refused, graph: Path) -> None:
    graph.chmod(0)
    assert "cannot read runs/mine/graph.safetensors: Permission denied" in refused(
        *ZC706, "--graph", "mine"
    )


def test_run_by_its_name_and_what_to_type_next(
    graph: Path, refused: Refused, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr(assembly, "accelerator_verilog", lambda *_: "module accelerator;")
    assert cli.run(gateware_build.main, [*ZC706[1:], "--graph", "mine", "--no-search"]) == 0
    told = capsys.readouterr()
    assert "Network residual" in told.out
    assert told.err.splitlines()[-1] == "next: python -m sim.run build/zc706"
    assert Path("build/zc706/graph.safetensors").is_file()


def test_example_where_nothing_can_be_written(refused: Refused) -> None:
    Path("build").touch()
    assert "cannot write to build/own: " in refused("examples.own_model", "--no-simulation")


def test_build_is_no_run(refused: Refused) -> None:
    folder = Path("build/demo")
    folder.mkdir(parents=True)
    (folder / "accelerator.v").touch()
    (folder / "config.json").write_text('{"pot4_rows": 1}')
    assert "build/demo is a build of an accelerator" in refused("quant.evaluate", folder)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"float_lrr": 1}', "unknown setting 'float_lrr'; did you mean --float-lr?"),
        ('{"float-lr": -1}', "--float-lr should be greater than 0"),
        ('{"float-lr": 1, "float_lr": 1}', "settings.json has float-lr in both spellings"),
        ("{", "settings.json is damaged"),
    ],
)
def test_settings_in_a_file(refused: Refused, content: str, line: str) -> None:
    Path("settings.json").write_text(content)
    assert line in refused("quant.train", "--config", "settings.json")


def test_training_of_a_name_that_is_taken(refused: Refused) -> None:
    finished, interrupted = Path("runs/digits"), Path("runs/other.partial")
    for folder in (finished, interrupted):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (interrupted / "checkpoint.pt").touch()
    line = refused("quant.train")
    assert "runs/digits is a finished run: replace it with --overwrite" in line
    line = refused("quant.train", "--name", "other")
    assert "runs/other was interrupted: go on with --resume other" in line
    assert "--overwrite" in line


def test_build_beside_another(refused: Refused, tmp_path: Path) -> None:
    """Neither destroys what the other writes."""
    with exclusive(Path("build/zc706"), ""):
        line = refused(*ZC706, "-q")
    assert "another process writes build/zc706: wait for it" in line
    assert not list(Path("build").iterdir())


def test_build_over_files_of_others(refused: Refused) -> None:
    replaced = Path("build/zc706/thesis.tex")
    replaced.parent.mkdir(parents=True)
    replaced.write_text("three years")
    assert "build/zc706 has files but no build" in refused(*ZC706, "-q")
    assert replaced.read_text() == "three years"


@pytest.mark.parametrize("moment", ["accelerator_verilog", "replace_folder"])
def test_build_interrupted(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys, moment: str
) -> None:
    """One line, and nothing left."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assembly, "accelerator_verilog", lambda *_: "module accelerator;")
    monkeypatch.setattr(assembly, moment, stop)
    assert cli.run(gateware_build.main, [*ZC706[1:], "-q"]) == cli.EXIT_INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    assert not list(Path("build").iterdir())


def test_interrupted_while_importing(tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "gateware.build", "--board", "zc706"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "interrupted\n"


def test_lock_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with exclusive(folder, "wait"), pytest.raises(cli.UserError, match=r"another .*: wait"):
        with exclusive(folder, "wait"):
            pass
    with exclusive(folder, "wait"):  # free again, and without a trace
        pass
    assert not list(folder.parent.iterdir())


def test_replacements(tmp_path: Path) -> None:
    new, final = tmp_path / "new", tmp_path / "final"
    for folder in (new, final):
        folder.mkdir()
        replace_text(folder / "name", folder.name)
    replace_text(new / "name", "newer")
    replace_folder(new, final)
    assert (final / "name").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert [path.name for path in final.iterdir()] == ["name"]
