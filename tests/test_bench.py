# SPDX-License-Identifier: Apache-2.0
"""Kept figures of synthesis beside today's estimates, and the bench of training."""

import json
import sys

import pytest

from bench import synthesis, train_step
from gateware.arch.config import AccelConfig
from ir.cli import UserError


@pytest.mark.parametrize("name", synthesis.kept())
def test_estimates_are_near_what_was_measured(name: str) -> None:
    row = synthesis.kept()[name]
    config = AccelConfig(**row["config"])
    assert config == synthesis.DESIGNS[name][1]
    for cell, found in synthesis.compare(row["measured"], config).items():
        assert abs(found["error_percent"]) <= 10, cell
    parts = row["modules"]
    for cell, total in row["measured"].items():
        assert sum(part[cell] for part in parts) == total


def test_table_of_synthesised_accelerators(capsys) -> None:
    assert synthesis.main([]) == 0
    said = capsys.readouterr().out
    assert said.count("DSP48E1") == len(synthesis.kept())
    with pytest.raises(UserError, match="--measure takes default, xc7z020, xc7z045, not 'zc706'"):
        synthesis.main(["--measure", "zc706"])


SMALL = ["--model", "tiny", "--width", "2", "--size", "8", "--batch", "2", "--steps", "1"]


def test_training_step_without_brevitas(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "brevitas", None)  # as if it were not installed
    assert train_step.main([*SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["unavailable"] == {"brevitas": "not installed"}
    assert set(result["milliseconds"]) == {"float", "ours"}
    assert min(result["milliseconds"].values()) > 0 and result["ratio"]["float"] == 1
    assert train_step.main(SMALL) == 0
    assert "not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, not 0"),
        (["--size", "2"], "too small"),
    ],
)
def test_training_step_of_nothing(option, message) -> None:
    with pytest.raises(UserError, match=message):
        train_step.main([*SMALL, *option])
