# SPDX-License-Identifier: Apache-2.0
"""The driver of the boards runs the exported network on the generated Verilog."""

import shutil
from pathlib import Path

import pytest

import boards
from gateware.arch.config import AccelConfig
from gateware.compiler.hybrid import compile_all
from gateware.flow import manifest
from gateware.flow.verilog import accelerator_verilog
from gateware.soc import zynq7
from ir.ratio import Ratio
from sim.backend.harness import build_and_test
from sim.backend.simulators import VERILATOR, find_simulator
from sim.verify.cases import CaseMaker
from sim.world.zynq_logic import ZynqLogic
from tests.helpers.graphs import sequence_graph

CONFIG = AccelConfig.from_ratio(Ratio(65, 30, 5), 16)


@pytest.fixture(scope="module")
def package(make_case: CaseMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package that gateware.build hands to the driver of a board."""
    folder = tmp_path_factory.mktemp("package")
    case = make_case(CONFIG, "65:30:5")
    board = boards.get("pynq_z2")
    case.program(batch=2).save(folder)
    manifest.write_golden(folder, case.graph, case.images)
    manifest.write_accelerator(
        folder, board, CONFIG, connection=zynq7.connection(board, CONFIG.ports), bitstream="top.bit"
    )
    return folder


@pytest.fixture(scope="module")
def layers(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package of the same for a hybrid network."""
    folder = tmp_path_factory.mktemp("layers")
    network = sequence_graph(1, length=8)
    for one in compile_all(network, CONFIG):
        (folder / one.folder).mkdir(parents=True)
        one.program.save(folder / one.folder, network.digest)
        manifest.write_golden(folder / one.folder, one.graph, None)
    shutil.copy(package / manifest.ACCELERATOR, folder)
    return folder


def test_driver(package: Path, layers: Path, seed: int) -> None:
    build_and_test(
        ZynqLogic(CONFIG),
        toplevel="zynq",
        test_module="sim.benches.driver_bench",
        extra_verilog=[accelerator_verilog(CONFIG)],
        optimise=True,
        simulator=find_simulator(prefer=VERILATOR),
        seed=seed,
        env={"DRIVER_PACKAGE": str(package), "DRIVER_LAYERS": str(layers), "SEED": str(seed)},
    )
