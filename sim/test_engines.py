# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The row engines as Verilog with 7-series primitives, one small and one of 16 channels each."""

from gateware.pe.series7 import Series7, to_verilog
from sim.backend.harness import SERIES7_MODELS, build_and_test, find_simulator
from sim.benches.engines_design import Engines


def test_engines() -> None:
    build_and_test(
        to_verilog(Engines(), "engines", Series7()),
        toplevel="engines",
        test_module="sim.benches.engines_bench",
        extra_verilog=[SERIES7_MODELS],
        optimise=True,
        simulator=find_simulator(prefer="verilator"),
    )
