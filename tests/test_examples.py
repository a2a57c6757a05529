# SPDX-License-Identifier: Apache-2.0
"""The examples that documentation points at do what it says."""

from pathlib import Path

import numpy as np
import pytest

from examples import own_model
from gateware.compiler.program import Program
from gateware.model.emulator import Emulator
from ir.graph import IntGraph
from ir.vectors import Vectors, beside


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.chdir(folder)
    assert own_model.main(options) == 0


@pytest.mark.slow
def test_own_model_is_built_and_runs_on_the_emulator(tmp_path, monkeypatch, capsys) -> None:
    run(tmp_path, monkeypatch, "--no-simulation")
    said = capsys.readouterr().out
    assert "quantised: " in said and "logits equal" not in said
    graph = IntGraph.load(own_model.FOLDER / "own.safetensors")
    ops = [node.op for node in graph.nodes]
    assert ops == ["conv", "max_pool", "conv", "avg_pool", "flatten", "linear"]
    vectors = Vectors.load(beside(own_model.FOLDER / "own.safetensors"), graph)
    assert np.mean(vectors.logits.argmax(1) == vectors.labels) > 0.8
    program = Program.load(own_model.FOLDER / "zedboard")
    memory = Emulator(program.config).run(
        program.image, program.pack(vectors.images[0]), program.output_size
    )
    logits = program.read(memory)[0][graph.output.name]
    np.testing.assert_array_equal(logits.reshape(-1), vectors.logits[0])


@pytest.mark.slow
def test_own_model_ends_with_equal_logits(tmp_path, monkeypatch, capsys) -> None:
    run(tmp_path, monkeypatch)
    assert capsys.readouterr().out.endswith(": logits equal\n")
