# SPDX-License-Identifier: Apache-2.0
"""The command from a trained network to a run, which is evaluated and trained on."""

import json
import warnings

import pytest
import torch

import quant.calibrate
import quant.train
from ir import cli
from ir.graph import IntGraph
from quant.evaluate import evaluate
from quant.models import build, load_pretrained
from quant.training.runs import RunFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A float network for digits, as quant.train leaves it."""
    out = tmp_path_factory.mktemp("float")
    options = "--method float32 --width 4 --float-epochs 6 --no-plots --name float -q --out"
    assert cli.run(quant.train.main, [*options.split(), str(out)]) == 0
    return out / "float" / "float.pt"


def calibrate(trained, out, *more: str) -> int:
    options = ["--pretrained", str(trained), "--width", "4", "--out", str(out), "-q", *more]
    return cli.run(quant.calibrate.main, options)


def test_run_is_evaluated_and_trained_on(trained, tmp_path, capsys) -> None:
    assert calibrate(trained, tmp_path, "--images", "48", "--act-bits", "8", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"]["integer"] > result["accuracy"]["float"] - 0.02
    run = RunFolder.open(str(tmp_path / "digits-calibrated"))
    measured = evaluate(run)
    assert measured["digest"] == result["digest"]
    assert measured["accuracy"] == result["accuracy"]
    report = json.loads((run / "sensitivity.json").read_text())
    assert (run / "plots" / "sensitivity.png").is_file()
    for layer in report["layers"]:
        assert len(layer["rows"]) == len(layer["schemes"])
        assert sum(layer["rows"]) == pytest.approx(layer["error"])
        assert layer["under"]["FIXED8"] < layer["error"] <= layer["under"]["POT4"] * 1.01
    options = f"--from {run.path} --epochs 1 --no-plots -q --json --name on --out {tmp_path}"
    assert cli.run(quant.train.main, options.split()) == 0
    trained_on = json.loads(capsys.readouterr().out)
    config = RunFolder.open(str(tmp_path / "on")).config()
    assert (config.act_bits, config.width, config.float_epochs) == (8, 4, 0)
    assert trained_on["rows"] == result["rows"] and trained_on["digest"] != result["digest"]


@pytest.fixture
def file(trained, tmp_path):
    """That network in an ONNX file, with its batch-norm."""
    network = build("tiny", shape=(1, 8, 8), classes=10, width=4)
    load_pretrained(network, trained)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter that needs no further package
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 1, 8, 8),),
            tmp_path / "net.onnx",
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    return tmp_path / "net.onnx"


def test_network_of_an_onnx_file(trained, file, tmp_path, capsys) -> None:
    options = "--images 24 --act-bits 8 --integer-samples 60 --no-plots --json"
    assert calibrate(trained, tmp_path, *options.split(), "--name", "same") == 0
    same = json.loads(capsys.readouterr().out)
    options += f" -q --out {tmp_path} --onnx {file}"
    assert cli.run(quant.calibrate.main, options.split()) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["accuracy"] == same["accuracy"] and result["rows"] == same["rows"]
    run = RunFolder.open(str(tmp_path / "digits-calibrated"))
    assert IntGraph.load(run / "graph.safetensors").header.name == "net-digits"
    assert evaluate(run)["digest"] == result["digest"]
    options = f"--from {run.path} --epochs 1 --integer-samples 9 --no-plots -q --json --name on"
    assert cli.run(quant.train.main, [*options.split(), "--out", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == result["rows"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--onnx", "missing.onnx"), "no ONNX model at missing.onnx"),
        (("--model", "tiny"), "model onnx is that of a file: name it with --onnx"),
    ],
)
def test_mistakes_with_an_onnx_file(tmp_path, capsys, more, message) -> None:
    options = ["--onnx", "a.onnx", "--images", "2", "--out", str(tmp_path / "runs"), "-q", *more]
    assert cli.run(quant.calibrate.main, options) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_steps_are_those_of_the_seed(trained, tmp_path, capsys) -> None:
    digests = []
    for name in ("first", "second"):
        options = ("--images", "9", "--no-plots", "--json", "--name", name)
        assert calibrate(trained, tmp_path, *options) == 0
        digests.append(json.loads(capsys.readouterr().out)["digest"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--images", "1"), "--images should be greater than or equal to 2, not 1"),
        (("--images", "99999"), "99999 calibration images are more than the 1437 training"),
        (("--method", "apot4"), "method apot4 has no integer graph"),
        (("--method", "float32"), "method float32 has no integer graph"),
        (("--pretrained", "missing.pt"), "no checkpoint at missing.pt"),
        (("--pretrained", ""), "--pretrained FILE or --onnx FILE is missing"),
        (("--onnx", "a.onnx"), "width is that of the network in a.onnx: leave it out"),
        (("--split", "best"), "invalid choice: 'best'"),
    ],
)
def test_mistakes_are_told_in_one_line(trained, tmp_path, capsys, more, message) -> None:
    assert calibrate(trained, tmp_path, *more) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_start_that_is_no_quantised_run(trained, tmp_path, capsys) -> None:
    assert cli.run(quant.train.main, ["--from", str(tmp_path)]) == 2
    assert "is not a complete run" in capsys.readouterr().err
    assert cli.run(quant.train.main, ["--from", str(trained.parent)]) == 2
    assert "is not quantised" in capsys.readouterr().err
