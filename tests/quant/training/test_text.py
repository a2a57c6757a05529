# SPDX-License-Identifier: Apache-2.0
"""The training command on texts, with a small random BERT.

Mirrors no module: the same training command on texts.
"""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from ir import cli, golden
from ir.graph import IntGraph
from ir.vectors import Vectors
from quant import evaluate, train
from quant.lowering.partition import HostRunner
from quant.training import pipeline, starts
from quant.training.config import TrainConfig
from quant.training.runs import RunFolder
from tests.helpers.seeds import suite_rng
from tests.helpers.texts import save_bert, save_movies, save_tokenizer

SHORT = [
    "--dataset",
    "movies",
    "--max-length",
    "8",
    "--batch-size",
    "16",
    "--float-epochs",
    "1",
    "--epochs",
    "1",
    "--tile-rows",
    "8",
    "--hessian-images",
    "16",
    "--integer-samples",
    "20",
    "--float-lr",
    "1e-3",
    "--lr",
    "1e-3",
    "--no-tensorboard",
]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with the data, and one ``bert`` with tokenizer and model."""
    path = tmp_path_factory.mktemp("texts")
    (path / "bert").mkdir()
    save_tokenizer(path / "bert")
    save_bert(path / "bert")
    words = ("film", "a", "the", "was", "is", "it", "very")
    rng = suite_rng()
    lines = []
    for i in range(240):
        text = [words[k] for k in rng.integers(0, len(words), 5)]
        text[rng.integers(5)] = "bad" if i % 2 else "good"
        lines.append(f"{i}\t{-1 if i % 2 else 1}\t{' '.join(text)}")
    save_movies(path / "vaderSentiment-0.5.zip", "\n".join(lines))
    return path


def command(there, out, *more: str) -> list[str]:
    return [*SHORT, "--data", str(there), "--out", str(out), *more]


@pytest.fixture(scope="module")
def run(there, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    argv = command(there, out, "--pretrained", str(there / "bert"), "-q", "--name", "short")
    assert cli.run(train.main, argv) == 0
    return out / "short"


def test_run_is_like_one_on_images(run) -> None:
    result = json.loads((run / "result.json").read_text())
    assert {file.name for file in run.iterdir()} == {
        "config.json",
        "metrics.csv",
        "metrics.jsonl",
        "float.pt",
        "quantised.pt",
        "schemes.csv",
        "graph.safetensors",
        "vectors.npz",
        "result.json",
        "plots",
    }
    assert {file.name for file in (run / "plots").iterdir()} == {
        "curves.png",
        "schemes.png",
        "weights.png",
    }
    assert (result["model"], result["dataset"], result["integer_images"]) == ("bert", "movies", 20)
    assert set(result["accuracy"]) == {"float", "quantised", "integer"}
    assert result["agreement"] == 1
    assert len(result["rows"]) == 2 * 6 + 2
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [(r["stage"], r["epoch"]) for r in rows] == [("float", "1"), ("quantised", "1")]
    assert TrainConfig.load(run / "config.json").float_epochs == 1


def test_golden_model_and_trained_host_give_the_vectors(run) -> None:
    graph, vectors = IntGraph.load(run / "graph.safetensors"), np.load(run / "vectors.npz")
    config = RunFolder.open(str(run)).config()
    dataset = pipeline.load_data(config)
    model = pipeline.quantisable(pipeline.build(config, dataset), config, dataset)
    evaluate.with_weights(model, RunFolder.open(str(run)), "quantised.pt", "movies")
    given = tuple(vectors[name] for name in graph.header.host_inputs)
    assert len(given) == 3 and len(given[0]) == 20
    assert len(Vectors.load(run / "vectors.npz", graph)) == 20
    logits = golden.logits(graph, given, HostRunner(model))
    assert np.array_equal(logits, vectors["logits"])
    with torch.no_grad():
        trained = model.eval()(*map(torch.from_numpy, given)).numpy()
    assert np.array_equal(trained, (logits * graph.output.scale).astype(np.float32))
    first = tuple(array[: pipeline.OFFLOADED_TEXTS] for array in given)
    tensors = golden.run(graph, first, HostRunner(model))
    codes = {name: vectors[name] for name in vectors if name.startswith("codes.")}
    assert len(codes) > 2 and len(
        {node.input for node in graph.nodes if hasattr(node, "input")}
    ) == len(codes)
    for name, array in codes.items():
        assert np.array_equal(array, tensors[name.removeprefix("codes.")]), name
    accuracy = (logits.argmax(1) == vectors["labels"]).mean()
    assert accuracy == json.loads((run / "result.json").read_text())["accuracy"]["integer"]


def test_evaluate_gives_the_same_figures(run, capsys) -> None:
    recorded = json.loads((run / "result.json").read_text())
    assert cli.run(evaluate.main, [str(run), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert {key: recorded[key] for key in measured if key != "run"} == {
        key: value for key, value in measured.items() if key != "run"
    }
    assert cli.run(evaluate.main, [str(run), "--dataset", "digits"]) == 2
    assert capsys.readouterr().err == "error: model 'bert' reads texts, digits has images\n"


@pytest.mark.slow
def test_evaluate_where_the_model_was_moved(run, there, tmp_path, capsys) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((run / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"tokenizer": "gone"}))
    assert cli.run(evaluate.main, [str(copy)]) == 2
    assert capsys.readouterr().err.startswith("error: no tokenizer gone")
    argv = [str(copy), "--integer-samples", "8", "--tokenizer", str(there / "bert"), "--json"]
    assert cli.run(evaluate.main, argv) == 0
    recorded = json.loads((run / "result.json").read_text())
    assert (
        json.loads(capsys.readouterr().out)["accuracy"]["quantised"]
        == recorded["accuracy"]["quantised"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("--method", "rmsmp", "--act-bits", "8", "--first-last", "w8a8", "--assign", "fisher"),
        ("--method", "apot4"),
        ("--method", "float32", "--float-epochs", "1"),
    ],
)
def test_starts_from_a_float_run(run, there, tmp_path, more, capsys) -> None:
    argv = command(
        there,
        tmp_path,
        "--pretrained",
        str(run / "float.pt"),
        "--no-plots",
        "--float-epochs",
        "0",
        "--tokenizer",
        str(there / "bert"),
        "--json",
        *more,
    )
    assert cli.run(train.main, argv) == 0
    result = json.loads(capsys.readouterr().out)
    if "float32" not in more:
        former = json.loads((run / "result.json").read_text())
        assert result["accuracy"]["float"] == former["accuracy"]["float"]
    assert (result["digest"] is not None) == ("rmsmp" in more)
    assert cli.run(evaluate.main, [str(tmp_path / "movies"), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert {key: result[key] for key in measured} == measured


def test_goes_on_where_it_was_stopped(run, there, tmp_path, monkeypatch, capsys) -> None:
    """Dropout draws the same numbers after a pause."""
    argv = command(
        there, tmp_path, "--pretrained", str(there / "bert"), "--no-plots", "-q", "--name", "short"
    )
    with monkeypatch.context() as patch:
        patch.setattr(
            pipeline, "start_quantised", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        assert cli.run(train.main, argv) == cli.EXIT_INTERRUPTED
    assert cli.run(train.main, ["--resume", "short", "--out", str(tmp_path), "-q"]) == 0
    one, other = (
        json.loads((path / "result.json").read_text())["digest"]
        for path in (run, tmp_path / "short")
    )
    assert one == other


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            (),
            "--model 'bert' starts from a trained one: name a Hugging Face model with --pretrained",
        ),
        (("--pretrained", "{there}"), "no tokenizer {there}"),
        (("--pretrained", "none.pt", "--tokenizer", "{there}/bert"), "no checkpoint at none.pt"),
        (
            ("--pretrained", "{there}", "--tokenizer", "{there}/bert"),
            "{there} is not a folder with a model: it has no config.json",
        ),
        (
            ("--pretrained", "{there}/bert", "--max-length", "32"),
            "texts of 32 tokens are too long for",
        ),
    ],
)
def test_wrong_folder_is_one_line(there, tmp_path, more, message, capsys) -> None:
    argv = command(there, tmp_path, *(word.format(there=there) for word in more))
    assert cli.run(train.main, argv) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message.format(there=there)}") and err.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_clips_are_calibrated_on_a_bounded_number_of_texts(there) -> None:
    config = TrainConfig.resolve(
        dataset="movies",
        data=str(there),
        max_length=8,
        batch_size=16,
        pretrained=str(there / "bert"),
        hessian_images=10_000,
    )
    dataset = pipeline.load_data(config)
    assert len(dataset.train) > starts.CALIBRATION_TEXTS
    assert len(starts.sample(config, dataset)[0]) == starts.CALIBRATION_TEXTS
    assert torch.equal(
        starts.sample(config, dataset)[0],
        dataset.train.batch(torch.arange(starts.CALIBRATION_TEXTS))[0][0],
    )
