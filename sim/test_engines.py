# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The row engines as Verilog with primitives of a family, one small and one of 16 channels each."""

from pathlib import Path

import pytest

from gateware.pe.ecp5 import Ecp5
from gateware.pe.series7 import Series7, to_verilog
from sim.backend.harness import ECP5_MODELS, SERIES7_MODELS, build_and_test, find_simulator
from sim.benches.engines_design import Engines


@pytest.mark.parametrize(
    "platform, models", [(Series7(), SERIES7_MODELS), (Ecp5(), ECP5_MODELS)], ids=["xc7", "ecp5"]
)
def test_engines(platform: object, models: Path) -> None:
    build_and_test(
        to_verilog(Engines(), "engines", platform),
        toplevel="engines",
        test_module="sim.benches.engines_bench",
        extra_verilog=[models],
        optimise=True,
        simulator=find_simulator(prefer="verilator"),
    )
