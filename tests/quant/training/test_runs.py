# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: who may write to it, and how it is found."""

import json
from pathlib import Path

import pytest

from ir import cli
from quant import train
from quant.training.config import TrainConfig
from quant.training.runs import RunFolder

SHORT = [
    "--subset",
    "64",
    "--float-epochs",
    "1",
    "--epochs",
    "0",
    "--no-plots",
    "--no-tensorboard",
    "-q",
]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_run_that_another_process_trains_is_left_alone(tmp_path, capsys) -> None:
    """Another open file of this process is refused as another process is."""
    other = RunFolder.plan(str(tmp_path), "digits")
    other.begin(TrainConfig())
    before = content(tmp_path)
    for argv in (["--resume", "digits", "-q"], SHORT):
        assert cli.run(train.main, [*argv, "--out", str(tmp_path)]) == 2
        assert (
            capsys.readouterr().err == f"error: another process trains {tmp_path}/digits: "
            "wait for it, or give this run another --name\n"
        )
    assert content(tmp_path) == before
    assert cli.run(train.main, [*SHORT, "--out", str(tmp_path), "--name", "other"]) == 0
    other.release()
    assert cli.run(train.main, [*SHORT, "--out", str(tmp_path)]) == 0


def test_run_is_found_from_inside_its_folder(tmp_path, monkeypatch, capsys) -> None:
    run = RunFolder.plan(str(tmp_path), "digits")
    run.begin(TrainConfig())
    run.finish({"digest": "x"})
    run.release()
    monkeypatch.chdir(tmp_path / "digits")
    assert cli.run(train.main, ["--resume", ".", "--json"]) == 0
    out = capsys.readouterr()
    assert f"{tmp_path}/digits is already finished" in out.err
    assert json.loads(out.out) == {"digest": "x"}
