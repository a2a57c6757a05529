# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""No stream of the hardware decides valid from ready; no path goes through two units."""

import itertools
from pathlib import Path

import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from sim.formal import __main__ as command
from sim.formal.channels import channels
from sim.formal.designs import designs
from sim.formal.handshakes import OUTSIDE, handshakes
from sim.formal.proofs import CASES, SIMULATED

#: Streams between units that each design has at least; fewer would mean that the walk misses some.
STREAMS = {"serial": 24, "zynq": 32}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_of_the_hardware(name: str, tmp_path: Path) -> None:
    found = handshakes(designs()[name], tmp_path)
    assert found.faults == []
    across = [one for one in found.streams if one.across]
    assert len(across) >= STREAMS[name]
    # Whoever offers a word is proved to keep it on offer.
    kinds = {one.source.kind for one in found.streams if one.has_source and one.source.kind}
    assert kinds <= {*CASES, *SIMULATED}
    assert {one.source.place for one in across if not one.source.kind} <= {OUTSIDE}


class Stage(wiring.Component):
    """From ``i`` to ``o``, in one of several ways to do the handshakes."""

    i: In(stream.Signature(4))
    o: Out(stream.Signature(4))

    def __init__(self, way: str) -> None:
        self._way = way
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i, o, way = self.i, self.o, self._way
        full, word = Signal(), Signal(4)
        m.d.comb += [i.ready.eq(~full), o.valid.eq(full), o.payload.eq(word)]
        with m.If(~full):
            m.d.sync += [full.eq(i.valid), word.eq(i.payload)]
        with m.Elif(o.ready):
            m.d.sync += full.eq(0)
        if way == "valid":
            m.d.comb += o.valid.eq(full & o.ready)
        if way == "payload":
            m.d.comb += o.payload.eq(Mux(o.ready, word, 0))
        if way == "through":
            m.d.sync += full.eq(~full)
            m.d.comb += [i.ready.eq(o.ready & full), o.valid.eq(i.valid & full)]
        return m


class Row(wiring.Component):
    """Stages one after the other."""

    i: In(stream.Signature(4))
    o: Out(stream.Signature(4))

    def __init__(self, *ways: str) -> None:
        self._ways = ways
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stages = [Stage(way) for way in self._ways]
        for index, stage in enumerate(stages):
            m.submodules[f"stage_{index}"] = stage
        for one, other in itertools.pairwise(stages):
            connect(m, one.o, other.i)
        connect(m, wiring.flipped(self.i), stages[0].i)
        connect(m, stages[-1].o, wiring.flipped(self.o))
        return m


def test_registered_stages_have_no_fault(tmp_path: Path) -> None:
    found = handshakes(Row("", "", ""), tmp_path)
    assert [one.name for one in found.streams] == [
        "outside -> stage_0.i",
        "stage_2.o -> outside",
        "stage_0.o -> stage_1.i",
        "stage_1.o -> stage_2.i",
    ]
    assert found.faults == [] and len(found.chain) == 1


@pytest.mark.parametrize("way,what", [("valid", "valid"), ("payload", "the payload")])
def test_an_offer_that_follows_from_ready_is_found(way: str, what: str, tmp_path: Path) -> None:
    found = handshakes(Row("", way, ""), tmp_path)
    assert found.faults == [f"stage_1.o -> stage_2.i: {what} follows from ready in the same cycle"]


@pytest.mark.parametrize("passed", [1, 2, 3])
def test_a_path_through_two_units_is_found(passed: int, tmp_path: Path) -> None:
    found = handshakes(Row("", *["through"] * passed, ""), tmp_path)
    assert len(found.chain) == passed + 1
    assert [f"goes through {passed} units" in fault for fault in found.faults] == [True] * (
        passed > 1
    )


def test_the_command_says_what_is_wrong(monkeypatch, capsys) -> None:
    monkeypatch.setattr(command, "designs", lambda: {"good": Row("", "")})
    assert command.main([]) == 0
    said = capsys.readouterr()
    assert "| `stage_0.o` | `stage_1.i` | 4 | no | no |" in said.out and not said.err
    monkeypatch.setattr(command, "designs", lambda: {"bad": Row("valid", "")})
    assert command.main([]) == 1
    said = capsys.readouterr()
    assert "| `stage_0.o` | `stage_1.i` | 4 | yes | no |" in said.out
    fault = "error: stage_0.o -> stage_1.i: valid follows from ready in the same cycle\n"
    assert said.err == fault


def test_channels_of_plain_members() -> None:
    unit = wiring.Signature(
        {
            "load_valid": In(1),
            "load_ready": Out(1),
            "load_data": In(3),
            "load_count": Out(2),
            "valid": Out(1),
        }
    ).create()
    (channel,) = channels(unit)
    assert (channel.name, channel.is_source, len(channel.word)) == ("load", False, 3)


def test_a_handshake_that_goes_one_way_is_refused() -> None:
    unit = wiring.Signature({"a_valid": Out(1), "a_ready": Out(1)}).create()
    with pytest.raises(ValueError, match="valid and ready of a go the same way"):
        channels(unit)
