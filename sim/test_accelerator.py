# SPDX-License-Identifier: Apache-2.0
"""Whole accelerators in simulation of their Verilog run trained networks on real images."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gateware import estimate, isa
from gateware.compiler.program import Program, compile_graph
from gateware.config import AccelConfig
from quant.intgraph import IntGraph
from quant.ratio import Ratio
from sim.accelerator import Mismatch, compare, simulate
from sim.harness import BenchFailed

# One worker of a parallel run takes all tests of a configuration: they share its build.
SMALL = pytest.mark.xdist_group("system-64-bit")
NARROW = pytest.mark.xdist_group("system-32-bit")

#: What the command line builds for a board by default.
DEFAULT = AccelConfig.from_ratio(Ratio(65, 30, 5), 16)
#: Another one in every respect: twice the rows, half the channels, other ratio.
OTHER = AccelConfig.from_ratio(
    Ratio(60, 35, 5), 32, bus_bits=32, requant_lanes=4, act_depth=2048, slot_depth=128
)
IMAGES = 100


@dataclasses.dataclass(frozen=True)
class Case:
    config: AccelConfig
    graph: IntGraph
    images: np.ndarray
    logits: np.ndarray  #: of PyTorch's integer inference

    def program(self, **options: bool) -> Program:
        return compile_graph(self.graph, self.config, **options)


@pytest.fixture(scope="session")
def case(trained: Callable[[str, int], Path]) -> Callable[[AccelConfig, str], Case]:
    def make(config: AccelConfig, ratio: str) -> Case:
        run = trained(ratio, config.rows)
        with np.load(run / "vectors.npz") as vectors:
            return Case(
                config,
                IntGraph.load(run / "graph.safetensors"),
                vectors["images"],
                vectors["logits"],
            )

    return make


@pytest.mark.parametrize(
    ("config", "ratio", "stall"),
    [
        pytest.param(DEFAULT, "65:30:5", 0, marks=SMALL),
        pytest.param(DEFAULT, "65:30:5", 48, marks=SMALL),
        pytest.param(OTHER, "60:35:5", 0, marks=NARROW),
        pytest.param(OTHER, "60:35:5", 48, marks=NARROW),
    ],
)
def test_logits_equal_pytorch(case, config: AccelConfig, ratio: str, stall: int, seed: int) -> None:
    """All logits of 100 images, on a memory with and without random stalls."""
    case = case(config, ratio)
    program = case.program()
    result = simulate(program, case.images[:IMAGES], stall=stall, seed=seed)
    got = np.stack([output[case.graph.header.output].reshape(-1) for output in result.outputs])
    np.testing.assert_array_equal(got, case.logits[:IMAGES])
    if not stall:
        predicted = sum(estimate.cycles(program).values())
        assert abs(predicted - result.cycles) <= 0.03 * result.cycles, (predicted, result.cycles)


@pytest.mark.parametrize(
    ("config", "ratio"),
    [
        pytest.param(DEFAULT, "65:30:5", marks=SMALL),
        pytest.param(DEFAULT, "60:35:5", marks=SMALL),  # rows that do not fill this array's lanes
        pytest.param(OTHER, "60:35:5", marks=NARROW),
    ],
)
def test_every_layer_equals_the_golden_model(
    case, config: AccelConfig, ratio: str, seed: int
) -> None:
    case = case(config, ratio)
    images = case.images[-3:]
    result = simulate(case.program(dump=True), images, stall=32, seed=seed)
    assert {node.output for node in case.graph.nodes if node.op != "flatten"} == set(
        result.outputs[0]
    )
    assert compare(case.graph, images, result.outputs) is None


@SMALL
def test_recovers_from_errors(case, seed: int) -> None:
    """A bus error, the watchdog and aborts at many moments leave nothing behind."""
    case = case(DEFAULT, "65:30:5")
    result = simulate(
        case.program(),
        case.images[:3],
        stall=32,
        seed=seed,
        testcase="recover",
        plusargs=["+ddr_error_beat=300"],
    )
    got = np.stack([output[case.graph.header.output].reshape(-1) for output in result.outputs])
    np.testing.assert_array_equal(got, case.logits[:3])


def _flip(program: Program, opcode: isa.Opcode, bit: int) -> Program:
    """``program`` with one bit flipped in the first block that ``opcode`` loads."""
    image, at = bytearray(program.image), 0
    while image[at] != opcode:
        at += isa.DESCRIPTOR_BYTES
    word = int.from_bytes(image[at : at + isa.DESCRIPTOR_BYTES], "little")
    start = isa.unpack(isa.TRANSFER, word)["offset"]
    image[start + bit // 8] ^= 1 << bit % 8
    return dataclasses.replace(program, image=bytes(image))


def _first_mismatch(case: Case, program: Program, seed: int, **options: object) -> Mismatch | None:
    images = case.images[:2]
    return compare(case.graph, images, simulate(program, images, seed=seed, **options).outputs)


@SMALL
def test_one_wrong_weight_code_is_caught(case, seed: int) -> None:
    case = case(DEFAULT, "65:30:5")
    mismatch = _first_mismatch(
        case, _flip(case.program(dump=True), isa.Opcode.LOAD_WEIGHTS, 1), seed
    )
    assert mismatch is not None
    assert mismatch.layer == "conv1"
    for word in ("image 0", "conv1", "pixel", "channel", "expected", "got"):
        assert word in str(mismatch)


@SMALL
def test_one_wrong_shift_is_caught(case, seed: int) -> None:
    case = case(DEFAULT, "65:30:5")
    lane = isa.slot_layout(DEFAULT)["lanes"].shape.elem_shape
    bit = lane["shift"].offset
    mismatch = _first_mismatch(
        case, _flip(case.program(dump=True), isa.Opcode.LOAD_SLOTS, bit), seed
    )
    assert mismatch is not None
    assert mismatch.layer == "conv1"


@SMALL
def test_one_dropped_beat_is_caught(case, seed: int) -> None:
    """The model of the memory loses one beat of the weights of the second layer."""
    case = case(DEFAULT, "65:30:5")
    try:
        caught = (
            _first_mismatch(case, case.program(dump=True), seed, plusargs=["+ddr_drop_beat=700"])
            is not None
        )
    except BenchFailed:
        caught = True
    assert caught
