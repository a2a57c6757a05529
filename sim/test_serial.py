# SPDX-License-Identifier: Apache-2.0
"""What an ECP5 board holds, all but its pins and PLL, runs a trained network for the driver."""

from pathlib import Path

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

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
from sim.world.axi3_checker import CheckedAccelerator, Rule

CONFIG = AccelConfig.from_ratio(Ratio(65, 30, 5), 16, bus_bits=BUS_BITS, clock_hz=50_000_000)
MEMORY_BYTES = 1 << 16
SILENCE_CYCLES = 1 << 12
DIVISOR = 4  #: the fastest line, for a short simulation


class CheckedSystem(wiring.Component):
    """System whose ``violation`` is a rule of the bus that the accelerator or its memory broke."""

    rx: In(1, init=1)
    tx: Out(1, init=1)
    violation: Out(Rule)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        accelerator = CheckedAccelerator(AcceleratorBox(CONFIG), CONFIG)
        m.submodules.system = system = SerialSystem(
            accelerator,
            memory_bytes=MEMORY_BYTES,
            divisor=DIVISOR,
            silence_cycles=SILENCE_CYCLES,
        )
        m.d.comb += [
            system.rx.eq(self.rx),
            self.tx.eq(system.tx),
            self.violation.eq(accelerator.violation),
        ]
        return m


def test_driver_over_a_serial_line(make_case: CaseMaker, tmp_path: Path, seed: int) -> None:
    case = make_case(CONFIG, "65:30:5")
    case.program().save(tmp_path)
    manifest.write_golden(tmp_path, case.graph, case.images)
    reached = connection(MEMORY_BYTES, CONFIG.clock_hz)
    reached["silence_seconds"] = 2 * SILENCE_CYCLES / CONFIG.clock_hz
    manifest.write_accelerator(
        tmp_path, boards.get("ulx3s_85f"), CONFIG, connection=reached, bitstream="top.bit"
    )
    build_and_test(
        CheckedSystem(),
        toplevel="serial",
        test_module="sim.benches.serial_bench",
        extra_verilog=[accelerator_verilog(CONFIG, Ecp5()), ECP5_MODELS],
        optimise=True,
        simulator=find_simulator(prefer=VERILATOR),
        seed=seed,
        env={"DRIVER_PACKAGE": str(tmp_path), "SERIAL_DIVISOR": str(DIVISOR)},
    )
