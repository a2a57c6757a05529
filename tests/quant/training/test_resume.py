# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped goes on, and ends as if it had never been stopped.

Mirrors no module: stopping and going on concerns session, loop, runs and pipeline.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ir import cli
from ir.graph import IntGraph
from quant import train
from quant.training import pipeline, runs, session

ROOT = Path(__file__).resolve().parents[3]
SHORT = [
    "--subset",
    "128",
    "--batch-size",
    "16",
    "--float-epochs",
    "3",
    "--epochs",
    "4",
    "--reassign-every",
    "2",
    "--width",
    "4",
    "--tile-rows",
    "8",
    "--no-plots",
    "--no-tensorboard",
]


class Stopped(BaseException):
    """Where a test kills training."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody stopped."""
    out = tmp_path_factory.mktemp("runs")
    assert cli.run(train.main, [*SHORT, "--out", str(out), "-q"]) == 0
    return out / "digits"


def metrics(path: Path) -> list[dict[str, str]]:
    """Without the seconds, in which equal runs differ."""
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(path: Path, whole: Path) -> None:
    ours, others = (json.loads((p / "result.json").read_text()) for p in (path, whole))
    for result in (ours, others):
        del result["seconds"], result["run"]
    assert ours == others
    assert metrics(path) == metrics(whole)
    assert len((path / "metrics.jsonl").read_text().splitlines()) == 7
    assert IntGraph.load(path / "graph.safetensors").digest == ours["digest"]
    for name in ("schemes.csv", "config.json"):
        assert (path / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("float.pt", "quantised.pt"):
        states = [torch.load(p / name, weights_only=True)["model"] for p in (path, whole)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items()), name
    assert not (path / "checkpoint.pt").exists() and not path.with_name("digits.partial").exists()


def stop_before(monkeypatch, owner: object, name: str, calls: int) -> None:
    """Have the method ``name`` stop training when it is called once more than ``calls`` times."""
    original, left = getattr(owner, name), [calls]

    def counted(*given: object, **options: object) -> object:
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return original(*given, **options)

    monkeypatch.setattr(owner, name, counted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "calls", "epochs"),
    [
        (session.Training, "_write", 0, 0),  # before the first checkpoint
        (session.Training, "_write", 2, 2),
        (runs.RunFolder, "save_state", 2, 2),  # metrics written, checkpoint not
        (pipeline, "start_quantised", 0, 3),  # between the stages
        (session.Training, "_write", 3, 3),
        (session.Training, "reassign", 1, 5),  # before schemes are assigned again
        (session.Training, "_write", 5, 5),  # after it
        (pipeline, "export_run", 0, 7),  # all epochs done
        (runs.RunFolder, "publish", 0, None),  # all done but the move
    ],
)
def test_stopped_anywhere_it_ends_the_same(
    owner, name, calls, epochs, whole, tmp_path, monkeypatch, capsys, seed
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_before(patch, owner, name, calls)
        train.main([*SHORT, "--out", str(tmp_path), "-q"])
    partial = tmp_path / "digits.partial"
    if epochs:
        state = torch.load(partial / "checkpoint.pt", weights_only=True)
        assert state["record"]["rows"] == epochs
        assert state["epoch"] == (epochs if state["stage"] == "float" else epochs - 3)
    capsys.readouterr()
    torch.manual_seed(seed + 99)
    assert cli.run(train.main, ["--resume", "digits", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().err
    if epochs:
        assert f"going on after epoch {state['epoch']} of {state['stage']} training" in told
    assert told.count(": loss ") == (7 - epochs if epochs is not None else 0)
    assert_same(tmp_path / "digits", whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["float 1/", "float 3/", "quantised 2/"])
def test_killed_process_loses_at_most_an_epoch(moment, whole, tmp_path) -> None:
    command = [sys.executable, "-m", "quant.train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *SHORT, "--out", str(tmp_path)],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        done = 0
        for line in process.stderr:
            done += ": loss " in line
            if line.startswith(moment):
                process.send_signal(signal.SIGKILL)
                break
        done += process.stderr.read().count(": loss ")
    state = torch.load(tmp_path / "digits.partial/checkpoint.pt", weights_only=True)
    assert process.returncode == -signal.SIGKILL and state["record"]["rows"] >= done
    again = subprocess.run(
        [*command, "--resume", str(tmp_path / "digits")],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env=environment,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert_same(tmp_path / "digits", whole)


@pytest.mark.parametrize("which", ["digits", "digits.partial", "{}/digits", "{}/digits.partial"])
def test_run_is_found_by_name_and_by_folder(which, whole, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/digits.partial").mkdir(parents=True)
    shutil.copy(whole / "config.json", tmp_path / "runs/digits.partial")
    found = runs.RunFolder.reopen("runs", which.format(tmp_path / "runs"))
    assert found.path.resolve() == tmp_path / "runs/digits.partial" and not found.resuming


def test_unfinished_run_comes_before_a_finished_one_of_the_name(whole, tmp_path) -> None:
    for name in ("digits", "digits.partial"):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "digits.partial/result.json").unlink()
    found = runs.RunFolder.reopen(str(tmp_path), "digits")
    assert found.path.name == "digits.partial" and not found.finished


def test_finished_run_has_nothing_to_do(whole, tmp_path, capsys) -> None:
    shutil.copytree(whole, tmp_path / "digits")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "digits").iterdir()}
    assert cli.run(train.main, ["--resume", "digits", "--out", str(tmp_path), "--json"]) == 0
    out = capsys.readouterr()
    assert out.err == f"{tmp_path}/digits is already finished\n"
    assert json.loads(out.out) == json.loads((whole / "result.json").read_text())
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "digits").iterdir()}


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys) -> Path:
    """The folder of runs with one that was stopped after its second epoch."""
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_before(patch, session.Training, "_write", 2)
        train.main([*SHORT, "--out", str(tmp_path), "-q"])
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lr", "0.02"], "lr is 0.02 here and 0.01 in the run: leave it out, or start a new run"),
        (["--epochs", "9"], "epochs is 9 here and 4 in the run"),
        (["--seed", "x"], "seed is x here and 1 in the run"),
        (["--method", "fixed4"], "method is fixed4 here and rmsmp in the run"),
        (["--compile"], "compile is True here and False in the run"),
    ],
)
def test_other_settings_are_refused(argv, message, stopped, capsys) -> None:
    assert cli.run(train.main, ["--resume", "digits", "--out", str(stopped), *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert (stopped / "digits.partial/checkpoint.pt").exists()


def test_same_settings_and_free_ones_are_taken(whole, stopped, capsys) -> None:
    settings = stopped / "more.json"
    settings.write_text('{"reassign_every": 2, "tensorboard": true}')
    argv = [
        "--resume",
        "digits",
        "--out",
        str(stopped),
        "--lr",
        "1e-2",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--config",
        str(settings),
    ]
    assert cli.run(train.main, argv) == 0
    assert (stopped / "digits/tensorboard").is_dir()
    assert metrics(stopped / "digits") == metrics(whole)
    settings.write_text('{"colour": 1}')
    assert cli.run(train.main, ["--resume", str(whole.parent / "none"), *argv[2:]]) == 2


def test_run_is_found_from_inside_its_folder(whole, monkeypatch, capsys) -> None:
    monkeypatch.chdir(whole)
    assert cli.run(train.main, ["--resume", "."]) == 0
    assert f"{whole} is already finished" in capsys.readouterr().err


def test_a_fault_of_ours_is_no_damaged_file(stopped, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", broken)
    with pytest.raises(TypeError, match="ours"):
        cli.run(train.main, ["--resume", "digits", "--out", str(stopped), "-q"])


def test_damaged_checkpoint_is_one_line(stopped, capsys) -> None:
    path = stopped / "digits.partial/checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    assert cli.run(train.main, ["--resume", "digits", "--out", str(stopped), "-q"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path} cannot be read: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("trainer"), "is no checkpoint of this training (it has no trainer)"),
        (lambda c: c["model"].pop("fc.weight"), "does not belong to the settings of its run"),
        (
            lambda c: c["model"].update({"fc.weight": torch.zeros(3)}),
            "does not belong to the settings of its run",
        ),
        (lambda c: c["model"].update({"fc.bias": 7}), "does not belong to the settings of its run"),
        (lambda c: c["trainer"].pop("generator"), "does not belong to the settings of its run"),
        (
            lambda c: c["trainer"]["optimiser"]["param_groups"].pop(),
            "does not belong to the settings of its run",
        ),
    ],
)
def test_checkpoint_of_something_else_is_one_line(stopped, change, message, capsys) -> None:
    path = stopped / "digits.partial" / runs.CHECKPOINT
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    assert cli.run(train.main, ["--resume", "digits", "--out", str(stopped), "-q"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
