# SPDX-License-Identifier: Apache-2.0
"""Reading netlists: hierarchy, constants, names and lines of source."""

from pathlib import Path

import pytest

from gateware.model.netlist import NONE, JoinedNetlist
from tests.helpers.netlists import Module


def nested() -> dict:
    """Two instances of a module of one LUT, in a row; between them ``middle``."""
    inner = Module("/src/gateware/inner.py:7")
    (a,) = inner.port("A", "input", inner.bits())
    (y,) = inner.port("Y", "output", inner.bits())
    inner.cell("LUT1", "lut", I0=[a], O=[y])
    top = Module("/src/gateware/top.py:3")
    (i,) = top.port("i", "input", top.bits())
    (o,) = top.port("o", "output", top.bits())
    (middle,) = top.name("middle", top.bits(), "/src/gateware/top.py:5")
    top.cell("inner", "first", A=[i], Y=[middle])
    top.cell("inner", "second", A=[middle], Y=[o])
    top.cell("$scopeinfo", "about")
    box = Module()
    box.json["attributes"]["blackbox"] = "1"
    return {"modules": {"top": top.json, "inner": inner.json, "LUT1": box.json}}


def test_instances_are_joined() -> None:
    netlist = JoinedNetlist(nested(), "top")
    first, second = netlist.cells
    assert [cell.path for cell in netlist.cells] == [("first",), ("second",)]
    assert first.kind == "LUT1"
    assert first.pins("O") == second.pins("I0") != first.pins("I0")
    assert {port.name: port.net for port in netlist.ports} == {
        "i": first.pins("I0")[0],
        "o": second.pins("O")[0],
    }


def test_a_wire_of_an_instance() -> None:
    netlist = JoinedNetlist(nested(), "top")
    first, second = netlist.cells
    assert netlist.wire((), "middle") == first.pins("O")
    assert netlist.wire(("second",), "A") == second.pins("I0")
    with pytest.raises(KeyError, match="third"):
        netlist.wire(("third",), "A")
    with pytest.raises(KeyError, match="none"):
        netlist.wire((), "none")


def test_names_are_those_nearest_to_the_driver() -> None:
    document = nested()
    netlist = JoinedNetlist(document, "top", Path("/src"))
    first, second = netlist.cells
    (middle,) = first.pins("O")
    (name,) = netlist.names({middle: first.path}).values()
    assert (name.text, name.source) == ("first.Y", "gateware/inner.py:7")
    (name,) = netlist.names({middle: ()}).values()
    assert (name.text, name.source) == ("middle", "gateware/top.py:5")
    document["modules"]["inner"]["netnames"]["Y"]["hide_name"] = 1  # made by Yosys
    (name,) = JoinedNetlist(document, "top").names({middle: first.path}).values()
    assert name.text == "middle"
    assert second.source == "gateware/inner.py:7"  # it has none of its own


def test_a_line_of_a_library_counts_as_the_one_around_it() -> None:
    document = nested()
    document["modules"]["inner"]["attributes"]["src"] = "/lib/amaranth/fifo.py:1"
    netlist = JoinedNetlist(document, "top", Path("/src"))
    assert netlist.cells[0].source == "gateware/top.py:3"
    assert JoinedNetlist(document, "top").cells[0].source == "/lib/amaranth/fifo.py:1"


def test_two_ports_that_are_one_net_inside_join_the_nets_outside() -> None:
    wire = Module()
    (both,) = wire.bits()
    wire.port("A", "input", [both])
    wire.port("Y", "output", [both])
    top = Module()
    (i,) = top.port("i", "input", top.bits())
    (o,) = top.port("o", "output", top.bits())
    top.cell("wire", "wire", A=[i], Y=[o])
    netlist = JoinedNetlist({"modules": {"top": top.json, "wire": wire.json}}, "top")
    assert len({port.net for port in netlist.ports}) == 1


def test_constants_and_parameters() -> None:
    top = Module()
    (o,) = top.bits()
    top.cell("LUT2", "lut", {"INIT": "0110", "MODE": "SDP"}, I0=["1"], I1=["x"], O=[o])
    (cell,) = JoinedNetlist({"modules": {"top": top.json}}, "top").cells
    assert cell.pins("I0") == [NONE] and cell.pins("open") == []
    assert cell.is_constant("I0") == "1" and cell.is_constant("O") is None
    assert cell.integer("INIT") == 6
    assert cell.integer("MODE", 3) == cell.integer("absent", 3) == 3


def test_top_must_be_there() -> None:
    with pytest.raises(ValueError, match="the netlist has no module 'bottom'"):
        JoinedNetlist(nested(), "bottom")
