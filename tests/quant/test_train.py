# SPDX-License-Identifier: Apache-2.0
"""The training command: what it writes, how it fails, how it is interrupted, that it repeats."""

import csv
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quant import cli, golden, inference, layers, pipeline, qat, train
from quant.config import PRESETS, TrainConfig
from quant.intgraph import IntGraph
from quant.models.tiny_resnet import TinyResNet
from quant.numerics import Scheme
from quant.progress import Progress
from quant.ratio import Ratio

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--subset", "128", "--batch-size", "16", "--float-epochs", "3", "--epochs", "2",
         "--reassign-every", "1", "--width", "4", "--tile-rows", "8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run: its folder and its result."""
    out = tmp_path_factory.mktemp("runs")
    assert cli.run(train.main, [*SHORT, "--out", str(out), "--name", "short", "-q"]) == 0
    return out / "short", json.loads((out / "short/result.json").read_text())


def test_folder_is_complete(run) -> None:
    path, result = run
    assert {file.name for file in path.iterdir()} == {
        "config.json", "metrics.csv", "float.pt", "checkpoint.pt", "schemes.csv",
        "graph.safetensors", "vectors.npz", "result.json"}
    assert (path.parent / "latest").readlink() == Path("short")
    assert TrainConfig.load(path / "config.json").tile_rows == 8
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    assert [(r["stage"], r["epoch"]) for r in rows] == [
        ("float", "1"), ("float", "2"), ("float", "3"), ("quantised", "1"), ("quantised", "2")]
    assert [change["epoch"] for change in result["reassignments"]] == [0, 1]


def test_graph_has_the_rows_of_the_hardware(run) -> None:
    path, result = run
    graph = IntGraph.load(path / "graph.safetensors")
    assert graph.digest == result["digest"]
    assert graph.header.class_names == tuple("0123456789")
    table = list(csv.DictReader((path / "schemes.csv").read_text().splitlines()))
    for name, layer in graph.layers.items():
        counts = tuple(int((layer.scheme == s).sum()) for s in Scheme)
        assert counts == Ratio.parse("65:30:5").rows(len(layer.scheme), 8)
        assert counts == tuple(result["rows"][name])
        assert [r["scheme"] for r in table if r["layer"] == name] == [
            Scheme(s).name for s in layer.scheme]


def test_vectors_are_those_of_the_graph(run) -> None:
    path, result = run
    graph, vectors = IntGraph.load(path / "graph.safetensors"), np.load(path / "vectors.npz")
    assert vectors["images"].shape == (360, 1, 8, 8) and vectors["images"].dtype == np.uint8
    assert vectors["logits"].dtype == vectors["labels"].dtype == np.int64
    np.testing.assert_array_equal(vectors["logits"], golden.logits(graph, vectors["images"]))
    decided = vectors["logits"].argmax(1) == vectors["labels"]
    assert vectors["accuracy_integer"] == decided.mean() == result["accuracy"]["integer"]
    assert abs(result["accuracy"]["integer"] - result["accuracy"]["quantised"]) <= 0.01


def test_same_seed_same_graph_another_seed_another_graph(run, tmp_path, capsys) -> None:
    digests = []
    for seed in ("1", "2"):
        argv = [*SHORT, "--out", str(tmp_path), "--name", f"s{seed}", "--seed", seed, "--json"]
        assert cli.run(train.main, argv) == 0
        out = capsys.readouterr()
        digests.append(json.loads(out.out)["digest"])
        assert "quantised 2/2: loss" in out.err
    assert digests[0] == run[1]["digest"] != digests[1]


def test_quiet_gives_the_result_only(tmp_path, capsys) -> None:
    argv = [*SHORT, "--epochs", "0", "--out", str(tmp_path), "-q"]
    assert cli.run(train.main, argv) == 0
    out = capsys.readouterr()
    assert out.err == ""
    assert re.search(r"integer \d+\.\d\d% of 360 test images\n", out.out)
    assert f"{tmp_path}/digits/graph.safetensors, digest " in out.out


@pytest.mark.parametrize(("argv", "message"), [
    (["--ratio", "65:30"], "ratio '65:30' is not of the form PoT4:Fixed4:Fixed8"),
    (["--ratio", "65:30:6"], "sums to 101"),
    (["--dataset", "imagenet"], "unknown dataset 'imagenet'; known are digits, fashion-mnist"),
    (["--dataset", "fashion-mnist", "--data", "nowhere"], "apt-get install dataset-fashion-mnist"),
    (["--tile-rows", "0"], "tile_rows must be at least 1, not 0"),
    (["--epochs", "-1"], "epochs must be at least 0, not -1"),
    (["--lr", "nan"], "lr must be positive"),
    (["--subset", "10"], "subset 10 is less than one batch"),
    (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
    (["--name", "a/b"], "'a/b' cannot name a run"),
    (["--name", "latest"], "'latest' cannot name a run"),
    (["--out", __file__], "cannot write to"),
    (["--nonsense"], "unrecognized arguments: --nonsense"),
    pytest.param(["--device", "cuda"], "torch finds no CUDA device", marks=pytest.mark.skipif(
        torch.cuda.is_available(), reason="there is one")),
])
def test_error_of_the_user_is_one_line(argv, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(train.main, argv) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ") and message in out.err and out.err.count("\n") == 1
    assert out.out == "" and not (tmp_path / "runs").exists()


def test_difference_between_integer_models_is_an_error(tmp_path, monkeypatch, capsys) -> None:
    def differs(*_: object) -> None:
        raise inference.Mismatch("tensor 'x' at (0,)")

    monkeypatch.setattr(inference, "verify", differs)
    argv = [*SHORT, "--float-epochs", "0", "--epochs", "0", "--out", str(tmp_path), "-q"]
    assert cli.run(train.main, argv) == 1
    assert capsys.readouterr().err == "error: tensor 'x' at (0,)\n"
    assert not (tmp_path / "digits/result.json").exists()


def test_former_run_stays_until_the_new_one_is_complete(tmp_path) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "result.json").write_text("old")
    (folder / "notes.txt").write_text("mine")
    run = pipeline.RunFolder.create(str(tmp_path), "digits", TrainConfig())
    for file in run.FILES:
        (run / file).write_text("new")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "notes.txt": "mine", "result.json": "old"}
    run.finish({"new": 1})
    assert {file.name for file in folder.iterdir()} == {"notes.txt", *run.FILES}
    assert (folder / "notes.txt").read_text() == "mine"
    assert run.result() == {"new": 1}
    assert {file.name for file in tmp_path.iterdir()} == {"digits", "latest"}


@pytest.mark.parametrize("write", [
    lambda run: run.save_state("checkpoint.pt", x=torch.zeros(9)),
    lambda run: run.add_metrics({"epoch": 1}),
    lambda run: run.save_schemes([{"row": 1}]),
    lambda run: run.save_vectors(*[np.zeros(1)] * 3, {}),
    lambda run: run.finish({}),
])
def test_full_disk_is_one_line(write, tmp_path, monkeypatch) -> None:
    """Every write of a run; the file system refuses them all."""
    run = pipeline.RunFolder.create(str(tmp_path), "digits", TrainConfig())
    shutil.rmtree(run.path)
    with pytest.raises(cli.UserError, match=f"cannot write to {run.path}: No such file"):
        write(run)


def test_interrupt_is_one_line_and_keeps_what_was_done(tmp_path) -> None:
    command = [sys.executable, "-m", "quant.train", "--out", str(tmp_path), "--subset", "64",
               "--float-epochs", "100000"]
    # A shell that runs the tests in the background has them ignore SIGINT; the command must not.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True,
                          preexec_fn=heed) as process:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("float 2/"):
                process.send_signal(signal.SIGINT)
                break
        lines += process.stderr.readlines()
    assert process.returncode == 130
    told = [line for line in lines if not line.startswith(("float ", "training on "))]
    assert len(told) == 1 and re.match(
        r"interrupted: in epoch \d+ of 100000 of float training; .*digits.partial keeps "
        r"config.json, metrics.csv, checkpoint.pt\n", told[0])
    rows = list(csv.DictReader((tmp_path / "digits.partial/metrics.csv").read_text().splitlines()))
    state = torch.load(tmp_path / "digits.partial/checkpoint.pt", weights_only=True)
    assert len(rows) >= 2 and state["epoch"] in (len(rows) - 1, len(rows))
    assert not (tmp_path / "latest").is_symlink()


def test_presets_are_the_defaults() -> None:
    assert TrainConfig.resolve("digits") == TrainConfig()
    fashion = TrainConfig.resolve("fashion-mnist", epochs=7, seed=None)
    assert fashion.epochs == 7 and fashion.seed == 1
    assert fashion.batch_size == PRESETS["fashion-mnist"].batch_size


def test_config_survives_its_file(tmp_path) -> None:
    config = TrainConfig.resolve("fashion-mnist", ratio="50:40:10", subset=1000, data="d")
    config.save(tmp_path / "c.json")
    assert TrainConfig.load(tmp_path / "c.json") == config
    (tmp_path / "c.json").write_text('{"colour": 1}')
    with pytest.raises(ValueError, match="colour"):
        TrainConfig.load(tmp_path / "c.json")


def test_augmentation_moves_and_mirrors(seed) -> None:
    x = torch.zeros(200, 1, 5, 5)
    x[:, :, 2, 1] = 1
    generator = torch.Generator().manual_seed(seed)
    moved = qat.Augment(shift=1)(x, generator)
    assert moved.shape == x.shape and torch.equal(moved.sum((1, 2, 3)), torch.ones(200))
    places = {tuple(p) for p in moved.nonzero()[:, 2:].tolist()}
    assert places == {(r, c) for r in (1, 2, 3) for c in (0, 1, 2)}
    mirrored = qat.Augment(flip=True)(x, generator)
    assert {tuple(p) for p in mirrored.nonzero()[:, 2:].tolist()} == {(2, 1), (2, 3)}
    assert qat.Augment()(x, generator) is x


def test_decay_spares_scales_and_training_keeps_them_positive(seed) -> None:
    torch.manual_seed(seed)
    model = pipeline.prepare(TinyResNet(width=2))
    data = qat.Images(torch.rand(8, 1, 8, 8), torch.arange(8))
    trainer = qat.Trainer(model, data, epochs=4, batch_size=4, lr=50.0, weight_decay=0.1,
                          augment=qat.Augment(), seed=1)
    decay = {id(p): g["weight_decay"] for g in trainer.optimiser.param_groups
             for p in g["params"]}
    assert decay[id(model.conv1.weight)] == 0.1
    assert decay[id(model.conv1.alpha)] == decay[id(model.relu.clip)] == 0
    for _ in range(4):              # a step far too long
        trainer.epoch(lambda loss, accuracy: None)
        assert all((m.alpha > 0).all() for m in layers.quantised_layers(model).values())
        assert all(m.clip > 0 for m in model.modules() if isinstance(m, layers.ActQuantiser))


def test_learning_rate_warms_up_and_ends_at_zero() -> None:
    data = qat.Images(torch.rand(40, 1, 8, 8), torch.zeros(40, dtype=torch.long))
    trainer = qat.Trainer(TinyResNet(width=1), data, epochs=10, batch_size=4, lr=0.2,
                          weight_decay=0, augment=qat.Augment(), seed=1)
    rates = [0.2 * trainer.schedule.lr_lambdas[0](step) for step in range(101)]
    assert rates[0] == pytest.approx(0.04) and max(rates) == rates[4] > 0.19
    assert rates[100] == pytest.approx(0)


def test_progress_bar_on_a_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress() as progress:
        progress.stage("float", 2, 3)
        for _ in range(3):
            progress.batch(0.5, 0.25)
        progress.epoch({"stage": "float", "epoch": 1})
        progress.epoch_begins(2)
        assert progress.place == "in epoch 2 of 2 of float training"
    err = capsys.readouterr().err
    assert "epoch 1/2" in err and "loss 0.5000" in err and "accuracy 25.00%" in err
