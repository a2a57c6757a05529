# SPDX-License-Identifier: Apache-2.0
"""The arithmetic cores as Verilog: one design, so that it is built once."""

from sim.backend.harness import build_and_test, find_simulator
from sim.benches.cores_design import CONFIG, Cores


def test_cores() -> None:
    build_and_test(
        Cores(CONFIG),
        toplevel="cores",
        test_module="sim.benches.cores_bench",
        optimise=True,
        simulator=find_simulator(prefer="verilator"),
    )
