# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The timing graph with delays of ECP5 beside clocks that nextpnr routed."""

import functools
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from bench import timing
from gateware.arch.config import AccelConfig
from gateware.model.delays_ecp5 import Ecp5Delays
from gateware.model.netlist import JoinedNetlist
from gateware.model.paths import TimingGraph
from gateware.pe.fixed4_dsp import Fixed4DspEngine
from gateware.pe.fixed4_lut import Fixed4LutEngine
from gateware.pe.fixed8 import Fixed8Engine
from gateware.pe.pot4 import Pot4Engine
from gateware.rtl.array import GemmArray
from gateware.rtl.top import Accelerator
from ir import cli

ROUTED = Path(__file__).parent / "results" / "timing.json"
_ARRAY = AccelConfig(pot4_rows=3, fixed4_rows=1, fixed8_rows=1, bus_bits=32, requant_lanes=1)
#: Designs that the constants were not fitted to.
HELD_OUT: dict[str, Callable[[], wiring.Component]] = {
    "Pot4Engine 32 x 2": functools.partial(Pot4Engine, k=32, pixels=2),
    "Fixed8Engine 8 x 4": functools.partial(Fixed8Engine, k=8, pixels=4),
    "Fixed4LutEngine 8 x 2": functools.partial(Fixed4LutEngine, k=8, pixels=2),
    "Fixed4DspEngine 8 x 2": functools.partial(Fixed4DspEngine, k=8, pixels=2),
    "array 3:1:1 x 8 x 2": functools.partial(GemmArray, _ARRAY),
}

#: The whole accelerator of a bitstream, which took 18 minutes to route.
BITSTREAM = Path(__file__).parent / "results" / "ulx3s_85f.md"
ACCELERATOR = AccelConfig(
    pot4_rows=5,
    fixed4_rows=2,
    fixed8_rows=1,
    bus_bits=32,
    requant_lanes=2,
    act_depth=512,
    act_copies=1,
)


def predicted_mhz(make: Callable[[], wiring.Component], name: str) -> float:
    """Clock of a design in the harness of :mod:`bench.timing`, from its netlist."""
    with tempfile.TemporaryDirectory(prefix="rmsmp-") as folder:
        document = json.loads(timing.synthesise(make(), name, Path(folder)).read_text())
    path = TimingGraph(JoinedNetlist(document, timing.TOP), Ecp5Delays()).longest()
    if path is None:
        raise ValueError(f"{name} has no path")
    return 1000 / path.ns


def routed(text: str = "") -> list[dict[str, Any]]:
    """Predicted and routed clock of the designs that :mod:`bench.timing` has routed and whose name
    contains ``text``."""
    known = {row["name"]: row["mhz"] for row in json.loads(ROUTED.read_text())}
    return [
        _row(name, predicted_mhz(make, name), known[name])
        for name, (make, _) in timing.designs().items()
        if text in name and name in known
    ]


def held_out() -> list[dict[str, Any]]:
    """The same of :data:`HELD_OUT`, which are routed now, and of :data:`ACCELERATOR`; minutes."""
    rows = [
        _row(name, predicted_mhz(make, name), timing.route(make(), name, 0).mhz)
        for name, make in HELD_OUT.items()
    ]
    name = "accelerator of ulx3s_85f"
    predicted = predicted_mhz(functools.partial(Accelerator, ACCELERATOR), name)
    return [*rows, _row(name, predicted, bitstream_mhz())]


def bitstream_mhz() -> float:
    """Routed clock in :data:`BITSTREAM`."""
    found = re.search(r"Routed for up to ([\d.]+) MHz", BITSTREAM.read_text())
    if found is None:
        raise ValueError(f"{BITSTREAM} names no routed clock")
    return float(found[1])


def _row(name: str, predicted: float, mhz: float) -> dict[str, Any]:
    error = round(100 * (predicted / mhz - 1), 1)
    cli.say(f"{name}: {error:+.1f} %")
    return {
        "name": name,
        "predicted_mhz": round(predicted, 1),
        "routed_mhz": round(mhz, 1),
        "error_percent": error,
    }
