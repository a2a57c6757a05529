# SPDX-License-Identifier: Apache-2.0
"""The evaluation command."""

import json
import shutil

import numpy as np
import pytest

from quant import cli, evaluate, golden, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    argv = ["--subset", "128", "--batch-size", "16", "--float-epochs", "2", "--epochs", "1",
            "--width", "4", "--out", str(out), "-q"]
    assert cli.run(train.main, argv) == 0
    return out / "digits"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a short run, to damage."""
    return shutil.copytree(trained, tmp_path / "digits")


def failure(run, capsys) -> str:
    assert cli.run(evaluate.main, [str(run)]) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err.startswith("error: ") and out.err.count("\n") == 1
    return out.err


def test_same_figures_as_training(trained, capsys) -> None:
    recorded = json.loads((trained / "result.json").read_text())
    assert cli.run(evaluate.main, [str(trained), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    for key in ("accuracy", "agreement", "digest", "images"):
        assert measured[key] == recorded[key]


def test_latest_is_the_default(trained, monkeypatch, tmp_path, capsys) -> None:
    (tmp_path / "runs").symlink_to(trained.parent)
    monkeypatch.chdir(tmp_path)
    assert cli.run(evaluate.main, []) == 0
    out = capsys.readouterr().out
    digest = json.loads((trained / "result.json").read_text())["digest"]
    assert "runs/latest on 360 test images of digits" in out and digest in out


def test_missing_run(tmp_path, capsys) -> None:
    assert "no run at" in failure(tmp_path / "none", capsys)


@pytest.mark.parametrize("file", ["result.json", "graph.safetensors", "checkpoint.pt"])
def test_incomplete_run(run, file, capsys) -> None:
    (run / file).unlink()
    assert f"{file} is missing" in failure(run, capsys)


@pytest.mark.parametrize("file", ["config.json", "result.json", "graph.safetensors",
                                  "checkpoint.pt", "float.pt"])
def test_truncated_file(run, file, capsys) -> None:
    content = (run / file).read_bytes()
    (run / file).write_bytes(content[: len(content) // 2])
    assert str(run / file) in failure(run, capsys)


def test_graph_of_another_run(run, capsys) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"digest": "0"}))
    assert "train again" in failure(run, capsys)


def test_checkpoint_of_another_network(run, capsys) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"width": 5}))
    assert "does not belong to this run's network" in failure(run, capsys)


def test_unknown_dataset(trained, capsys) -> None:
    assert cli.run(evaluate.main, [str(trained), "--dataset", "imagenet"]) == 2
    assert capsys.readouterr().err == "error: unknown dataset 'imagenet'\n"


def test_bit_difference_is_an_error(trained, monkeypatch, capsys) -> None:
    original = golden.run

    def off_by_one(graph, images: np.ndarray) -> dict[str, np.ndarray]:
        tensors = original(graph, images)
        tensors["logits"][7, 3] += 1
        return tensors

    monkeypatch.setattr(golden, "run", off_by_one)
    assert cli.run(evaluate.main, [str(trained)]) == 1
    assert "tensor 'logits' at (7, 3, 0, 0)" in capsys.readouterr().err
