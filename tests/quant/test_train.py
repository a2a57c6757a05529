# SPDX-License-Identifier: Apache-2.0
"""The training command: what it writes, how it fails, how it is interrupted, that it repeats."""

import csv
import dataclasses
import functools
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gateware.compiler.operations import CompileError
from ir import cli, golden, numerics
from ir.graph import IntGraph
from ir.numerics import Scheme
from ir.ratio import Ratio
from ir.vectors import Vectors
from quant import train
from quant.data import ArraySplit, Dataset
from quant.lowering import verify
from quant.models.weights import IMAGENET_MEAN, IMAGENET_STD
from quant.training import pipeline, session
from quant.training.config import TrainConfig
from quant.training.device import choose_device
from quant.training.progress import Progress
from quant.training.runs import RunFolder

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    "--subset",
    "128",
    "--batch-size",
    "16",
    "--float-epochs",
    "3",
    "--epochs",
    "2",
    "--reassign-every",
    "1",
    "--width",
    "4",
    "--tile-rows",
    "8",
    "--no-plots",
    "--no-tensorboard",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run: its folder and its result."""
    out = tmp_path_factory.mktemp("runs")
    argv = [*SHORT, "--tensorboard", "--plots", "--out", str(out), "--name", "short", "-q"]
    assert cli.run(train.main, argv) == 0
    return out / "short", json.loads((out / "short/result.json").read_text())


def test_folder_is_complete(run) -> None:
    path, result = run
    assert {file.name for file in path.iterdir()} == {
        "config.json",
        "metrics.csv",
        "metrics.jsonl",
        "float.pt",
        "quantised.pt",
        "schemes.csv",
        "graph.safetensors",
        "vectors.npz",
        "result.json",
        "tensorboard",
        "plots",
    }
    assert (path.parent / "latest").readlink() == Path("short")
    assert TrainConfig.load(path / "config.json").tile_rows == 8
    assert [change["epoch"] for change in result["reassignments"]] == [0, 1]
    assert {file.name for file in (path / "plots").iterdir()} == {
        "curves.png",
        "schemes.png",
        "weights.png",
    }


def test_metrics(run) -> None:
    path, result = run
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    assert [(r["stage"], r["epoch"]) for r in rows] == [
        ("float", "1"),
        ("float", "2"),
        ("float", "3"),
        ("quantised", "1"),
        ("quantised", "2"),
    ]
    assert [r["changed"] for r in rows[:4]] == [""] * 4
    change = result["reassignments"][1]
    assert int(rows[4]["changed"]) == change["changed"]
    assert float(rows[4]["churn"]) == change["changed"] / change["rows"]
    assert float(rows[2]["test_accuracy"]) == result["accuracy"]["float"]
    records = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [
        {k: "" if v is None else str(v) for k, v in record.items()} for record in records
    ] == rows


def test_tensorboard_has_the_metrics(run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, _ = run
    events = EventAccumulator(str(path / "tensorboard"), {"histograms": 0}).Reload()
    rows = list(csv.DictReader((path / "metrics.csv").read_text().splitlines()))
    for key in ("loss", "test_accuracy", "lr"):
        seen = events.Scalars(f"epoch/{key}")
        assert [event.step for event in seen] == [1, 2, 3, 4, 5]
        assert [event.value for event in seen] == pytest.approx([float(r[key]) for r in rows])
    assert [event.step for event in events.Scalars("epoch/churn")] == [5]
    assert [event.step for event in events.Histograms("alpha/conv1")] == [4, 5]
    assert len([tag for tag in events.Tags()["scalars"] if tag.startswith("clip/")]) > 3


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
            Scheme(s).name for s in layer.scheme
        ]


def test_scales_are_those_that_the_hardware_has(run) -> None:
    """A residual operand's factor is exact, not rounded when it was exported."""
    path, _ = run
    graph = IntGraph.load(path / "graph.safetensors")
    residuals = [node for node in graph.nodes if getattr(node, "residual", None)]
    assert residuals
    for node in residuals:
        ratio = graph.tensor(node.residual.tensor).scale / graph.tensor(node.output).scale
        assert node.residual.n / 2**numerics.SHIFT_MIN == pytest.approx(ratio, rel=1e-6)


def test_vectors_are_those_of_the_graph(run) -> None:
    path, result = run
    graph, vectors = IntGraph.load(path / "graph.safetensors"), np.load(path / "vectors.npz")
    assert vectors["graph_digest"] == graph.digest
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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--ratio", "65:30"], "ratio '65:30' is not of the form PoT4:Fixed4:Fixed8"),
        (["--ratio", "65:30:6"], "sums to 101"),
        (["--dataset", "mnist"], "unknown dataset 'mnist'; known are digits, fashion-mnist"),
        (["--model", "vgg"], "unknown model 'vgg'; known are tiny"),
        (["--method", "int3"], "unknown method 'int3'; known are float32, fixed4"),
        (
            ["--dataset", "fashion-mnist", "--data", "nowhere"],
            "apt-get install dataset-fashion-mnist",
        ),
        (["--size", "32"], "digits has no option --size"),
        (["--tile-rows", "0"], "--tile-rows should be greater than or equal to 1"),
        (["--lr", "nan"], "lr should be a finite number"),
        (["--subset", "10"], "subset 10 is less than one batch"),
        (["--batch-size", "2000"], "--batch-size 2000 is more than the 1437 training samples"),
        (["--model", "resnet18", "--stem", "imagenet"], "images of 8x8 pixels are too small"),
        (["--pretrained", "none.pt"], "no checkpoint at none.pt"),
        (["--config", "none.toml"], "none.toml cannot be read: No such file"),
        (["--act-bits", "5"], "argument --act-bits: invalid choice: 5"),
        (["--name", "a/b"], "'a/b' cannot name a run"),
        (["--name", "latest"], "'latest' cannot name a run"),
        (["--name", "x.partial"], "'x.partial' cannot name a run"),
        (["--out", __file__], "cannot write to"),
        (["--resume", "nothing"], "no run nothing, neither here nor in runs"),
        (["--resume", "digits", "--name", "x"], "--resume has a name already: leave --name out"),
        (["--resume", ""], "--resume needs the folder or the name of a run"),
        (["--resume", "/"], "no run /, neither here nor in runs"),
        (["--name", ""], "'' cannot name a run"),
        (["--name", 201 * "x"], "x' cannot name a run"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        pytest.param(
            ["--device", "cuda"],
            "torch finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_error_of_the_user_is_one_line(argv, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(train.main, argv) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ") and message in out.err and out.err.count("\n") == 1
    assert out.out == "" and not (tmp_path / "runs").exists()


def test_settings_of_a_file_and_flags_on_top(tmp_path, capsys) -> None:
    (tmp_path / "c.toml").write_text("""
        method = "fixed4+fixed8"
        width = 4
        tile_rows = 8
        subset = 64
        batch_size = 16
        float_epochs = 0
        epochs = 1
        split = "kurtosis"
        plots = false
        tensorboard = false
    """)
    argv = ["--config", str(tmp_path / "c.toml"), "--epochs", "0", "--out", str(tmp_path), "-q"]
    assert cli.run(train.main, argv) == 0
    config = TrainConfig.load(tmp_path / "digits/config.json")
    assert (config.method, config.ratio, config.epochs, config.split, config.device) == (
        "fixed4+fixed8",
        "0:95:5",
        0,
        "kurtosis",
        choose_device("auto"),
    )
    (tmp_path / "c.toml").write_text("colour = 1")
    assert cli.run(train.main, ["--config", str(tmp_path / "c.toml")]) == 2
    assert "unknown setting 'colour'; known are dataset, " in capsys.readouterr().err


@pytest.mark.parametrize("method", ["float32", "apot4", "apot4+fixed4"])
def test_method_without_hardware(method, tmp_path, capsys) -> None:
    argv = [
        *SHORT,
        "--float-epochs",
        "1",
        "--epochs",
        "1",
        "--method",
        method,
        "--out",
        str(tmp_path),
        "--json",
    ]
    assert cli.run(train.main, argv) == 0
    out = capsys.readouterr()
    result = json.loads(out.out)
    quantised = method != "float32"
    assert set(result["accuracy"]) == ({"float", "quantised"} if quantised else {"float"})
    assert result["digest"] is None
    assert ("APoT-4 rows are for training only, no integer graph" in out.err) == quantised
    found = {file.name for file in (tmp_path / "digits").iterdir()}
    assert found == {"config.json", "metrics.csv", "metrics.jsonl", "float.pt", "result.json"} | (
        {"quantised.pt", "schemes.csv"} if quantised else set()
    )
    if quantised:
        rows = list(csv.DictReader((tmp_path / "digits/schemes.csv").read_text().splitlines()))
        assert {row["scheme"] for row in rows} == {"APOT4"} | (
            {"FIXED4"} if method == "apot4+fixed4" else set()
        )


def test_every_other_choice_at_once(tmp_path, monkeypatch, capsys) -> None:
    """A network from a checkpoint, 8-bit ends, other scores, bfloat16, AdamW."""
    asked, original = [], session.row_scores
    monkeypatch.setattr(
        session,
        "row_scores",
        lambda kind, *given, **options: asked.append(kind) or original(kind, *given, **options),
    )
    argv = [
        *SHORT,
        "--out",
        str(tmp_path),
        "--method",
        "float32",
        "--model",
        "resnet20",
        "--float-epochs",
        "1",
        "--name",
        "first",
        "-q",
    ]
    assert cli.run(train.main, argv) == 0
    argv = [
        *SHORT,
        "--out",
        str(tmp_path),
        "--model",
        "resnet20",
        "--pretrained",
        str(tmp_path / "first/float.pt"),
        "--first-last",
        "w8a8",
        "--act-bits",
        "8",
        "--assign",
        "fisher",
        "--split",
        "random",
        "--amp",
        "bf16",
        "--optimiser",
        "adamw",
        "--lr",
        "1e-3",
        "--epochs",
        "1",
        "--integer-samples",
        "50",
        "--json",
    ]
    del argv[argv.index("--float-epochs") : argv.index("--float-epochs") + 2]
    capsys.readouterr()
    assert cli.run(train.main, argv) == 0
    result = json.loads(capsys.readouterr().out)
    first = json.loads((tmp_path / "first/result.json").read_text())
    assert result["accuracy"]["float"] == first["accuracy"]["float"]
    assert result["integer_images"] == 50 and result["images"] == 360
    graph = IntGraph.load(tmp_path / "digits/graph.safetensors")
    assert {tensor.bits for tensor in graph.header.tensors} == {8} and asked == ["fisher"]
    rows = list(result["rows"].values())
    assert rows[0][:2] == rows[-1][:2] == [0, 0] and sum(rows[1][:2]) > 0
    stages = {
        row["stage"]
        for row in csv.DictReader((tmp_path / "digits/metrics.csv").read_text().splitlines())
    }
    assert stages == {"quantised"}


def test_checkpoint_of_normalised_images(tmp_path, seed) -> None:
    rng = np.random.default_rng(seed)
    split = ArraySplit(rng.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8), np.arange(4))
    dataset = Dataset("cifar10", split, split, tuple("abcd"))
    settings = {"dataset": "cifar10", "model": "resnet20", "pretrained": str(tmp_path / "f.pt")}
    model = pipeline.build(TrainConfig(**settings), dataset)
    torch.save(model.state_dict(), tmp_path / "f.pt")
    run = RunFolder.plan(str(tmp_path), "x")
    plain, normalised = (
        pipeline.start(TrainConfig(**settings, normalised=on), dataset, run, Progress(-1))
        for on in (False, True)
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.equal(plain.conv1.weight, normalised.conv1.weight)
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(normalised.eval()(x), plain.eval()((x - mean) / std))
    grey = dataclasses.replace(
        dataset,
        **{part: ArraySplit(split.images[:, :1], split.labels) for part in ("train", "test")},
    )
    torch.save(pipeline.build(TrainConfig(**settings), grey).state_dict(), tmp_path / "f.pt")
    with pytest.raises(cli.UserError, match=r"normalised: .* cannot take 3 means"):
        pipeline.start(TrainConfig(**settings, normalised=True), grey, run, Progress(-1))


def test_divergence_is_one_line_and_the_checkpoint_stays(tmp_path, capsys) -> None:
    argv = [*SHORT, "--out", str(tmp_path), "--lr", "1e30"]
    assert cli.run(train.main, argv) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"error: quantised epoch 1, batch \d+: the loss is (nan|inf); train with a "
        r"lower --lr than 1e\+30",
        told,
    )
    state = torch.load(tmp_path / "digits.partial/checkpoint.pt", weights_only=True)
    assert (state["stage"], state["epoch"]) == ("float", 3)
    assert not (tmp_path / "digits").exists()


def test_difference_between_integer_models_is_an_error(tmp_path, monkeypatch, capsys) -> None:
    def differs(*_: object, **__: object) -> None:
        raise verify.Mismatch("tensor 'x' at (0,)")

    monkeypatch.setattr(verify, "verify", differs)
    argv = [*SHORT, "--float-epochs", "0", "--epochs", "0", "--out", str(tmp_path), "-q"]
    assert cli.run(train.main, argv) == 1
    assert capsys.readouterr().err == "error: tensor 'x' at (0,)\n"
    assert not (tmp_path / "digits/result.json").exists()


def test_what_the_compiler_refuses_is_refused_before_the_first_epoch(
    tmp_path, monkeypatch, capsys
) -> None:
    def refuses(graph: IntGraph, board: str, *given: object) -> None:
        assert board == "zc706" and given == (None, 8)  # tile rows of SHORT
        raise CompileError("layer 'fc' is too large")

    monkeypatch.setattr("gateware.check.array_for", refuses)
    argv = [*SHORT, "--board", "zc706", "--out", str(tmp_path), "-q"]
    assert cli.run(train.main, argv) == cli.EXIT_USER_ERROR
    assert capsys.readouterr().err == "error: layer 'fc' is too large\n"
    assert list(tmp_path.iterdir()) == []


def test_former_run_stays_until_the_new_one_is_complete(tmp_path) -> None:
    folder = tmp_path / "digits"
    (folder / "plots").mkdir(parents=True)
    for file in ("result.json", "graph.safetensors", "plots/curves.png"):
        (folder / file).write_text("old")
    (folder / "notes.txt").write_text("mine")
    run = RunFolder.plan(str(tmp_path), "digits")
    run.begin(TrainConfig(method="float32"))
    run.replace("float.pt", b"new")
    run.replace("checkpoint.pt", b"new")
    assert (folder / "result.json").read_text() == "old"
    run.finish({"new": 1})
    assert {file.name for file in folder.iterdir()} == {
        "notes.txt",
        "config.json",
        "float.pt",
        "result.json",
    }
    assert (folder / "notes.txt").read_text() == "mine"
    assert run.path == folder and run.result() == {"new": 1}
    assert {file.name for file in tmp_path.iterdir()} == {"digits", "latest"}


@pytest.mark.parametrize(
    "write",
    [
        lambda run: run.begin(TrainConfig()),
        lambda run: run.save_state("checkpoint.pt", x=torch.zeros(9)),
        lambda run: run.append("metrics.csv", "1"),
        lambda run: run.save_schemes([{"row": 1}]),
        lambda run: run.save_vectors(
            Vectors(graph_digest="0", inputs={"images": np.zeros(1)}, logits=np.zeros(1))
        ),
        lambda run: run.finish({}),
    ],
)
def test_full_disk_is_one_line(write, tmp_path) -> None:
    """Every write of a run; the file system refuses them all."""
    (tmp_path / "runs").write_text("a file, no folder")
    run = RunFolder.plan(str(tmp_path / "runs"), "digits")
    with pytest.raises(cli.UserError, match=f"cannot write to {run.path}: Not a directory"):
        write(run)


@pytest.mark.parametrize(
    ("name", "message"),
    [("digits", "digits is a file: move it away"), ("latest", "latest is no link to the newest")],
)
def test_what_is_in_the_way_is_told_before_training(name, message, tmp_path, capsys) -> None:
    (tmp_path / name).touch()
    assert cli.run(train.main, [*SHORT, "--out", str(tmp_path)]) == 2
    assert re.fullmatch(rf"error: \S*{message}.*\n", capsys.readouterr().err)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_interrupt_before_anything_is_written(tmp_path, monkeypatch, capsys) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "build", stop)
    assert cli.run(train.main, ["--out", str(tmp_path)]) == 130
    told = capsys.readouterr().err
    assert told == "interrupted: before the first epoch; nothing was written yet\n"


@pytest.mark.slow
def test_interrupt_is_one_line_and_keeps_what_was_done(tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "quant.train",
        "--out",
        str(tmp_path),
        "--subset",
        "64",
        "--float-epochs",
        "100000",
        "--no-tensorboard",
    ]
    # A shell that runs the tests in the background has them ignore SIGINT; the command must not.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    ) as process:
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
        r"interrupted: in epoch \d+ of 100000 of float training; go on with python -m "
        rf"quant.train --resume {tmp_path}/digits\n",
        told[0],
    )
    rows = list(csv.DictReader((tmp_path / "digits.partial/metrics.csv").read_text().splitlines()))
    state = torch.load(tmp_path / "digits.partial/checkpoint.pt", weights_only=True)
    assert len(rows) >= 2 and state["epoch"] in (len(rows) - 1, len(rows))
    assert not (tmp_path / "latest").is_symlink()


def test_progress_bar_on_a_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress() as progress:
        progress.stage("float", 2, 3)
        for _ in range(3):
            progress.batch(0.5, 0.25)
        progress.epoch({"stage": "float", "epoch": 1})
        progress.epoch_begins(2)
        assert progress.place == "in epoch 2 of 2 of float training"
        progress.stage("quantised", 4, 3, done=3)
        assert progress.place == "in epoch 4 of 4 of quantised training"
        progress.batch(0.125, 0.5)
        for step in (1, 2, 3):
            progress.measured(step, 3)
        assert progress.place == "in the measurement of sensitivities (3 of 3 steps)"
        for done in (0, 250, 360):
            progress.compared(done, 360)
        assert progress.place == "in the comparison of integer models (360 of 360 samples)"
    err = capsys.readouterr().err
    assert "epoch 1/2" in err and "loss 0.5000" in err and "accuracy 25.00%" in err
    assert "sensitivities" in err and "integer models" in err
    assert "epoch 4/4" in err and "loss 0.1250" in err
