# SPDX-License-Identifier: Apache-2.0
"""The command that writes ONNX models."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from ir import cli, golden
from ir.vectors import Vectors, beside
from quant import to_onnx
from quant.onnx import check
from tests.helpers.graphs import random_images, residual_graph, sequence_graph


def run(*arguments: object) -> int:
    return cli.run(to_onnx.main, [str(argument) for argument in arguments])


@pytest.fixture
def path(tmp_path: Path, seed: int) -> Path:
    path = tmp_path / "run" / "graph.safetensors"
    path.parent.mkdir()
    residual_graph(seed).save(path)
    return path


def test_folder_of_a_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path.parent, "--images", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "onnxruntime's integers are the golden model's" in lines[0]
    assert lines[0].endswith("on 2 random images")
    assert lines[1].startswith(f"{path.with_suffix('.onnx')}: ")
    onnx.checker.check_model(path.with_suffix(".onnx"), full_check=True)


def test_images_beside_the_graph(path: Path, seed: int, capsys, tmp_path: Path) -> None:
    graph = residual_graph(seed)
    images = random_images(graph, np.random.default_rng(seed), 3)
    Vectors.of(graph, images, golden.logits(graph, images)).save(beside(path))
    assert run(path, "-o", tmp_path / "own.onnx") == 0
    assert "on 3 test images" in capsys.readouterr().out
    model = onnx.load(tmp_path / "own.onnx")
    (logits,) = check.run(model, images).values()
    assert np.array_equal(logits.reshape(3, -1), golden.logits(graph, images))


def test_without_images_nothing_is_compared(path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(check, "compare", None)
    assert run(path, "--images", 0) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_difference_is_no_success(path: Path, capsys, monkeypatch) -> None:
    def differ(*_: object) -> int:
        raise check.Mismatch("conv0 differs")

    monkeypatch.setattr(check, "compare", differ)
    assert run(path) == 1
    assert capsys.readouterr().err == "error: conv0 differs\n"
    assert not path.with_suffix(".onnx").exists()


def test_mistakes_are_one_line(path: Path, tmp_path: Path, seed: int, capsys) -> None:
    sequence_graph(seed).save(tmp_path / "sequence.safetensors")
    cases = {
        (tmp_path / "nothing",): "no graph file at",
        (tmp_path / "sequence.safetensors",): "is the host's (embedding)",
        (path, "-o", tmp_path / "no" / "folder.onnx"): "cannot write",
        (path, "-o", tmp_path): "cannot write",
        (path, "--images", -1): "must be at least 0",
    }
    for arguments, line in cases.items():
        assert run(*arguments) == cli.EXIT_USER_ERROR
        (told,) = capsys.readouterr().err.splitlines()
        assert line in told
