# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The benches of the cores, each on one tiny engine.

Mirrors no module: it is about bench.resources and bench.timing.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from amaranth import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bench import resources, timing
from bench.baselines import BASELINES
from gateware.pe.base import RowEngine
from gateware.pe.broadcast import copies
from gateware.pe.fixed8 import Fixed8Engine
from ir.cli import UserError
from sim.benches.stimulus import random_values, random_words
from tests.helpers.engines import check_engine


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine of a few multiplications in place of all."""
    for module in (resources, timing):
        monkeypatch.setattr(module, "ENGINES", (Fixed8Engine,))
        monkeypatch.setattr(module, "PIXELS", 2)
    monkeypatch.setattr(resources, "BASELINES", ())
    monkeypatch.setattr(timing, "K", 2)
    monkeypatch.setattr(timing, "ARRAYS", ())


@pytest.mark.slow
def test_resources(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "rows.json"
    assert resources.main(["--k", "1", "--jobs", "1", "--out", str(out)]) == 0
    (row,) = json.loads(out.read_text())
    assert (row["name"], row["k"], row["macs"]) == ("Fixed8Engine", 1, 2)
    assert row["cells"]["dsp48e1"] == row["estimated"]["dsp48e1"] == 1
    assert row["cells"]["lut"] == pytest.approx(row["estimated"]["lut"], rel=0.1)
    said = capsys.readouterr().out
    assert "| Fixed8Engine | 1 |" in said and "| 0.500 |" in said
    assert "| paper, Table 6" in said


@pytest.mark.slow
def test_timing(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "rows.json"
    assert timing.main(["--jobs", "1", "--out", str(out), "--json"]) == 0
    (row,) = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == [row]
    assert (row["name"], row["macs"]) == ("Fixed8Engine 2 x 2", 4)
    assert 50 < row["mhz"] < 400
    # Two products share a multiplier, and the harness took nothing away.
    assert row["cells"]["mult18"] == 2
    assert row["cells"]["ff"] > 2 * 2 * 25  # two accumulators and what they show


class Copies(wiring.Component):
    """Three copies of one register."""

    def __init__(self) -> None:
        super().__init__({"i": In(1), "o": Out(3)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.o.eq(Cat(copies(m, self.i, 3, "value")))
        return m


def test_copies_stay_apart_in_synthesis(tmp_path: Path) -> None:
    document = json.loads(timing.synthesise(Copies(), "copies", tmp_path).read_text())
    cells = document["modules"][timing.TOP]["cells"].values()
    # Beside them the harness has one register before, three behind and one for its output.
    assert sum(cell["type"] == "TRELLIS_FF" for cell in cells) == 3 + 1 + 3 + 1


def test_rows_of_other_designs_stay(
    tiny: None, monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "rows.json"
    monkeypatch.setattr(timing, "ARRAYS", ((1, 0, 0),))
    monkeypatch.setattr(
        timing,
        "route",
        lambda design, name, macs: timing.Routed(
            name, macs, 100.0, {"lut4": 1, "ff": 2, "mult18": 3}
        ),
    )
    for name, count in (("array", 1), ("Fixed8", 2)):
        assert timing.main(["--jobs", "1", "--out", str(out), "--only", name]) == 0
        assert len(json.loads(out.read_text())) == count
    said = capsys.readouterr().out.rstrip()
    assert said.endswith("| array 1:0:0 x 8 x 2 | 16 | 100.0 | 1 | 2 | 3 |")


@pytest.mark.parametrize(
    "command, arguments, message",
    [
        (resources, ["--k", "8;16"], "--k takes numbers such as 8,16, not '8;16'"),
        (
            timing,
            ["--only", "nothing"],
            "no design's name contains 'nothing'; there are Pot4Engine",
        ),
    ],
)
def test_wrong_arguments(command, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.main(arguments)


@pytest.mark.parametrize("kind", BASELINES, ids=lambda engine: engine.__name__)
def test_baselines_keep_the_contract_of_row_engines(kind: type[RowEngine], seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = random_words(rng, k=5, pixels=2, count=100, stall=0.3)
    check_engine(kind(k=5, pixels=2), random_values(rng, kind.scheme, len(words), 5)[None], words)
