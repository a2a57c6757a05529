# SPDX-License-Identifier: Apache-2.0
"""What an ECP5 board holds, all but its pins and PLL, runs a trained network for the driver."""

from pathlib import Path

import boards
from gateware.arch.config import AccelConfig
from gateware.flow import manifest
from gateware.flow.verilog import AcceleratorBox, accelerator_verilog
from gateware.pe.ecp5 import Ecp5
from gateware.soc.ecp5 import connection
from gateware.soc.serial_system import BUS_BITS, SerialSystem
from ir.ratio import Ratio
from sim.backend.harness import ECP5_MODELS, build_and_test
from sim.backend.simulators import VERILATOR, find_simulator
from sim.verify.cases import CaseMaker

CONFIG = AccelConfig.from_ratio(Ratio(65, 30, 5), 16, bus_bits=BUS_BITS, clock_hz=50_000_000)
MEMORY_BYTES = 1 << 16
SILENCE_CYCLES = 1 << 12
DIVISOR = 4  #: the fastest line, for a short simulation


def test_driver_over_a_serial_line(make_case: CaseMaker, tmp_path: Path, seed: int) -> None:
    case = make_case(CONFIG, "65:30:5")
    case.program().save(tmp_path)
    manifest.write_golden(tmp_path, case.graph, case.images)
    reached = connection(MEMORY_BYTES, CONFIG.clock_hz)
    reached["silence_seconds"] = 2 * SILENCE_CYCLES / CONFIG.clock_hz
    manifest.write_accelerator(
        tmp_path, boards.get("ulx3s_85f"), CONFIG, connection=reached, bitstream="top.bit"
    )
    system = SerialSystem(
        AcceleratorBox(CONFIG),
        memory_bytes=MEMORY_BYTES,
        divisor=DIVISOR,
        silence_cycles=SILENCE_CYCLES,
    )
    build_and_test(
        system,
        toplevel="serial",
        test_module="sim.benches.serial_bench",
        extra_verilog=[accelerator_verilog(CONFIG, Ecp5()), ECP5_MODELS],
        optimise=True,
        simulator=find_simulator(prefer=VERILATOR),
        seed=seed,
        env={"DRIVER_PACKAGE": str(tmp_path), "SERIAL_DIVISOR": str(DIVISOR)},
    )
