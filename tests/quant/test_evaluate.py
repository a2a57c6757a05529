# SPDX-License-Identifier: Apache-2.0
"""The evaluation command."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch

from ir import cli, golden
from ir.graph import IntGraph
from quant import data, evaluate, train
from quant.lowering import verify
from quant.training import pipeline


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    argv = [
        "--subset",
        "128",
        "--batch-size",
        "16",
        "--float-epochs",
        "2",
        "--epochs",
        "1",
        "--width",
        "4",
        "--no-plots",
        "--no-tensorboard",
        "--out",
        str(out),
        "-q",
    ]
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
    for key in ("accuracy", "agreement", "digest", "images", "integer_images", "method", "model"):
        assert measured[key] == recorded[key]


def test_latest_is_the_default(trained, monkeypatch, tmp_path, capsys) -> None:
    (tmp_path / "runs").symlink_to(trained.parent)
    monkeypatch.chdir(tmp_path)
    assert cli.run(evaluate.main, []) == 0
    out = capsys.readouterr().out
    digest = json.loads((trained / "result.json").read_text())["digest"]
    assert "runs/latest on 360 test samples of digits" in out and digest in out


@pytest.mark.slow
def test_missing_run(tmp_path, capsys) -> None:
    assert "no run at" in failure(tmp_path / "none", capsys)


def test_empty_name(capsys) -> None:
    assert "the run's name is empty" in failure("", capsys)


@pytest.mark.parametrize(
    "file", ["config.json", "result.json", "graph.safetensors", "quantised.pt", "metrics.jsonl"]
)
def test_incomplete_run(run, file, capsys) -> None:
    (run / file).unlink()
    assert f"{file} is missing" in failure(run, capsys)


@pytest.mark.parametrize(
    "file", ["config.json", "result.json", "graph.safetensors", "quantised.pt", "float.pt"]
)
def test_truncated_file(run, file, capsys) -> None:
    content = (run / file).read_bytes()
    (run / file).write_bytes(content[: len(content) // 2])
    assert str(run / file) in failure(run, capsys)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("result.json", b"[]", "holds no result by name"),
        ("result.json", b"\xff", "is damaged"),
        ("float.pt", b"", "float.pt cannot be read: it is damaged"),
        ("float.pt", b"hello", "float.pt"),
    ],
)
def test_damaged_file(run, file, content, message, capsys) -> None:
    (run / file).write_bytes(content)
    assert message in failure(run, capsys)


def test_state_without_network(run, capsys) -> None:
    torch.save({"model": 3}, run / "quantised.pt")
    assert "quantised.pt cannot be read: it holds no network" in failure(run, capsys)


def test_graph_of_another_run(run, capsys) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"digest": "0"}))
    assert "train again" in failure(run, capsys)


def test_checkpoint_of_another_network(run, capsys) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"width": 5}))
    assert "does not belong to this run's network" in failure(run, capsys)


@pytest.mark.parametrize("file", ["float.pt", "quantised.pt"])
def test_checkpoint_of_another_run(run, file, capsys) -> None:
    content = torch.load(run / file, weights_only=True)
    next(iter(content["model"].values())).flatten()[0] += 1
    torch.save(content, run / file)
    assert f"{file} does not belong to this run" in failure(run, capsys)


def test_a_fault_of_ours_is_no_damaged_file(run, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", broken)
    with pytest.raises(TypeError, match="ours"):
        cli.run(evaluate.main, [str(run)])


def test_unknown_dataset(trained, capsys) -> None:
    assert cli.run(evaluate.main, [str(trained), "--dataset", "mnist"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown dataset 'mnist'; known are digits, fashion-mnist, cifar10, cifar100, "
        "imagenet, sst2, mnli, movies\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("float32", ["float32"]),
        ("apot4", ["float32", "fake-quantised, torch"]),
        (
            "fixed4+fixed8",
            ["float32", "fake-quantised, torch", "integers, torch", "integers, golden model"],
        ),
    ],
)
def test_every_kind_of_run(method, kinds, tmp_path, capsys) -> None:
    argv = [
        "--subset",
        "64",
        "--batch-size",
        "16",
        "--float-epochs",
        "1",
        "--epochs",
        "1",
        "--width",
        "4",
        "--method",
        method,
        "--first-last",
        "w8a8",
        "--act-bits",
        "8",
        "--no-plots",
        "--no-tensorboard",
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert cli.run(train.main, argv) == 0
    recorded = json.loads(capsys.readouterr().out)
    assert cli.run(evaluate.main, [str(tmp_path / "digits"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert {key: recorded[key] for key in measured} == measured
    assert cli.run(evaluate.main, [str(tmp_path / "digits")]) == 0
    table = capsys.readouterr().out
    assert [
        kind
        for kind in (
            "float32",
            "fake-quantised, torch",
            "integers, torch",
            "integers, golden model",
        )
        if f" {kind} " in table
    ] == kinds
    assert ("no integer graph" in table) == (len(kinds) < 4)


def test_fewer_integer_samples(trained, capsys) -> None:
    argv = [str(trained), "--integer-samples", "20"]
    assert cli.run(evaluate.main, [*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["integer_images"] == 20 and result["images"] == 360
    vectors = np.load(trained / "vectors.npz")
    expected = (vectors["logits"][:20].argmax(1) == vectors["labels"][:20]).mean()
    assert result["accuracy"]["integer"] == expected
    assert cli.run(evaluate.main, argv) == 0
    assert "integers, torch (first 20)" in capsys.readouterr().out
    assert cli.run(evaluate.main, [str(trained), "--integer-samples", "0"]) == 2


def test_large_networks_are_compared_in_small_batches(trained, monkeypatch, capsys) -> None:
    sizes, whole = [], verify.verify

    def counted(graph, images: np.ndarray, host: object) -> np.ndarray:
        sizes.append(len(images))
        return whole(graph, images, host=host)

    monkeypatch.setattr(verify, "verify", counted)
    values = sum(
        math.prod(spec.shape)
        for spec in IntGraph.load(trained / "graph.safetensors").header.tensors
    )
    for room, expected in ((1, [1] * 5), (2 * 2 * 8 * values, [2, 2, 1])):
        sizes.clear()
        monkeypatch.setattr(pipeline, "CHECKED_BYTES", room)
        assert cli.run(evaluate.main, [str(trained), "--integer-samples", "5"]) == 0
        assert sizes == expected


def test_plots_on_demand(run, capsys) -> None:
    assert cli.run(evaluate.main, [str(run), "--plots"]) == 0
    assert {file.name for file in (run / "plots").iterdir()} == {
        "curves.png",
        "schemes.png",
        "weights.png",
    }


def test_dataset_with_other_classes(trained, monkeypatch, capsys) -> None:
    letters = dataclasses.replace(data.load("digits"), class_names=tuple("abcdefghij"))
    monkeypatch.setattr(data, "load", lambda *given, **options: letters)
    assert "trained on digits, whose classes are not those of digits" in failure(trained, capsys)


def test_bit_difference_is_an_error(trained, monkeypatch, capsys) -> None:
    original = golden.run

    def off_by_one(graph, images: np.ndarray, host: object) -> dict[str, np.ndarray]:
        tensors = original(graph, images, host)
        tensors["logits"][7, 3] += 1
        return tensors

    monkeypatch.setattr(golden, "run", off_by_one)
    assert cli.run(evaluate.main, [str(trained)]) == 1
    assert "tensor 'logits' at (7, 3, 0, 0)" in capsys.readouterr().err
