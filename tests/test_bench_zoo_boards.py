# SPDX-License-Identifier: Apache-2.0
"""Table of well-known networks on boards: its columns, and rows that are built or refused."""

import json
from pathlib import Path

import pytest
from torch import nn

import boards
from bench import zoo_boards
from bench.networks import NETWORKS, Network
from ir.cli import UserError


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(zoo_boards, "ROWS", tmp_path / "rows.json")
    monkeypatch.setattr(zoo_boards, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(zoo_boards.choose, "PROGRAMS", 2)
    small = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    small.append(nn.Linear(16, 4))
    monkeypatch.setitem(NETWORKS, "unet", Network(lambda size: small, 12))
    return tmp_path


def test_a_network_is_built_and_kept(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["unet", "--boards", "zedboard", "--keep"]
    assert zoo_boards.main([*options, "--equal", "12"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "| unet |" in line]
    (row,) = json.loads((results / "rows.json").read_text())
    assert row["binds"] in row["bounds"] and row["cycles"] >= max(row["bounds"].values())
    assert row["equal"] == "12x12" and f"| {row['cycles']} |" in line
    assert row["ddr_bytes"] > 12 * 12 * 3 and line in (results / "page.md").read_text()


def test_what_is_refused_has_its_reason(results: Path, monkeypatch) -> None:
    def refuse(*_, **__):
        raise zoo_boards.CompileError("no array runs it")

    monkeypatch.setattr(zoo_boards.choose, "search", refuse)
    row = zoo_boards.row(zoo_boards.shapes("unet"), boards.get("zc706")) | {"equal": "no: x"}
    assert "| no: x | refused: no array runs it |" in zoo_boards.table([row])
    with pytest.raises(UserError, match="no network 'vgg17'; there are resnet18, "):
        zoo_boards.main(["vgg17"])


def test_kept_rows_are_of_known_networks() -> None:
    rows = json.loads(zoo_boards.ROWS.read_text())
    assert {row["network"] for row in rows} <= set(NETWORKS)
    for row in rows:
        assert row["refusal"] or row["cycles"] > 0
        assert zoo_boards.table([row]).splitlines()[-1] in zoo_boards.PAGE.read_text()
