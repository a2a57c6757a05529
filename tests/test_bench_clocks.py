# SPDX-License-Identifier: Apache-2.0
"""Default clocks and pages follow from the kept models."""

import dataclasses
import json

import pytest

import boards
from bench import clocks as bench
from bench import paths, table6
from boards import clocks
from gateware.flow.clock import mhz
from ir.cli import UserError


def test_defaults_follow_from_the_kept_models() -> None:
    assert json.loads(clocks.FILE.read_text()) == bench.content(bench.models())


def test_a_faster_model_raises_a_default() -> None:
    known = bench.models()
    place = ("xc7z045", 2, bench.sizes_digest(bench.config_of_board(boards.get("zc706"))))
    faster = [
        dataclasses.replace(one, ns=4.25) if (one.device, one.grade, one.config) == place else one
        for one in known
    ]
    before, after = bench.content(known)["boards"], bench.content(faster)["boards"]
    assert after["zc706"] == 200_000_000
    assert {name: hz for name, hz in after.items() if name != "zc706"} == {
        name: hz for name, hz in before.items() if name != "zc706"
    }
    with pytest.raises(UserError, match=r"bench\.clocks --measure$"):
        bench.content([])


def test_an_ecp5_has_what_was_routed() -> None:
    for name in ("ulx3s_85f", "ecpix5_85"):
        routed = 1e6 * bench.paths_ecp5.bitstream_mhz()
        assert 0.8 * routed < boards.get(name).clock_hz <= routed


@pytest.mark.parametrize("name", bench.blocks())
def test_pages_follow_from_the_kept_models(name: str) -> None:
    text = (bench.ROOT / name).read_text()
    for part, content in bench.blocks()[name].items():
        text = bench.with_block(text, part, content)
    assert text == (bench.ROOT / name).read_text()


def test_table_6_follows_from_the_kept_models() -> None:
    assert table6.PAGE.read_text() == table6.table(table6.kept()) + "\n"


def test_times_have_their_clock_named() -> None:
    rows = bench.times_table().splitlines()[2:]
    assert len(rows) == len(bench.runs())
    for row, run in zip(rows, bench.runs(), strict=True):
        hz, basis = table6.clock_of(boards.get(run.board), run.config)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[4] == f"{mhz(hz)} MHz, {basis}"
        if run.memory_bytes == 32:
            assert cells[6] == ""  # at 200 MHz the memory gives half of it
            measured = f"{1e3 * run.cycles / hz:.2f} ms"
            if hz <= 100_000_000:
                assert cells[3] == measured
            else:
                assert cells[3].endswith(" ms (estimated)")
                # Of today's compiler, which may need less than the run that was measured.
                assert float(cells[3].split()[0]) > 0.99 * float(measured.split()[0])


def test_a_page_without_its_marks() -> None:
    with pytest.raises(ValueError, match=r"bench\.clocks: times"):
        bench.with_block("# A page\n", "times", "text")


def test_designs_are_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(bench.designs())
    assert {"small", "default", "zedboard", "zc706"} <= set(names)
    sizes = [
        (part[:7], bench.sizes_digest(design.config))
        for design in bench.designs().values()
        for part in design.parts
    ]
    assert len(set(sizes)) == len(sizes)
    with pytest.raises(UserError, match="no design is called 'none'; they are small, default"):
        bench.main(["--measure", "none"])


def test_check_names_models_of_other_verilog(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(bench, "accelerator_verilog", lambda *args: "other")
    assert bench.main(["--check"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said and all(line.endswith(": the kept model is of other Verilog") for line in said)
    assert paths.kept()["designs"].keys() >= {line.partition(":")[0] for line in said}
