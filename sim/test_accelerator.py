# SPDX-License-Identifier: Apache-2.0
"""The accelerator that the command line builds by default runs trained networks on real images."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.compiler.lower import lower
from gateware.compiler.operations import TensorKey
from gateware.compiler.program import Program, compile_graph
from gateware.model import estimate
from ir.ratio import Ratio
from sim.backend.harness import BenchFailed
from sim.verify.cases import Case, CaseMaker, check_layers, check_logits
from sim.verify.difference import Difference, compare
from sim.verify.simulation import simulate
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import random_images

logger = logging.getLogger(__name__)

CONFIG = AccelConfig.from_ratio(Ratio(65, 30, 5), 16)


@pytest.mark.parametrize("stall", [0, 48])
def test_logits_equal_pytorch(make_case: CaseMaker, stall: int, seed: int) -> None:
    check_logits(make_case(CONFIG, "65:30:5"), stall, seed)


@pytest.mark.parametrize("ratio", ["65:30:5", "60:35:5"])
def test_every_layer_equals_the_golden_model(make_case: CaseMaker, ratio: str, seed: int) -> None:
    """Also for a network whose rows do not fill this array's lanes."""
    check_layers(make_case(CONFIG, ratio), seed)


def test_stem_of_a_large_network(seed: int) -> None:
    """An image that comes in strips, as patches; its first result is made and pooled in strips."""
    rng = np.random.default_rng(seed)
    network = GraphBuilder(rng, (3, 64, 64), bits=8)
    conv = network.conv(INPUT, 64, 7, stride=2, padding=3)
    pool = network.max_pool(conv, 3, stride=2, padding=(1, 1, 1, 1))
    inner = network.conv(pool, 16, 3)
    last = network.conv(inner, 64, 3, residual=pool)
    network.linear(network.flatten(network.avg_pool(last)), 40, wide=True)
    graph = network.build()
    lowered = lower(graph, CONFIG)
    assert lowered.plan.strips and lowered.plan.input_strips
    channels, rows, width = lowered.plan.places[TensorKey(INPUT)].shape
    assert (channels, width) == (12, 32) and rows < 32
    images = random_images(graph, rng)
    program = compile_graph(graph, CONFIG, dump=True)
    result = simulate(program, images, stall=48, seed=seed)
    assert compare(graph, images, result.outputs) is None


@pytest.mark.parametrize("stall", [0, 48])
def test_a_network_in_bands(stall: int, seed: int) -> None:
    """From memory to memory, in a part of the buffer; the estimate knows what that takes."""
    rng = np.random.default_rng(seed)
    network = GraphBuilder(rng, (16, 40, 40))
    first = network.conv(INPUT, 32, 3)
    inner = network.conv(network.conv(first, 48, 1), 32, 3, residual=first)
    last = network.conv(network.max_pool(inner, 2), 64, 3, stride=2)
    network.linear(network.flatten(network.avg_pool(last)), 40, wide=True)
    graph, small = network.build(), dataclasses.replace(CONFIG, act_depth=256)
    assert len(lower(graph, small, banded=True).plan.bands) >= 4
    images = random_images(graph, rng)
    program = dataclasses.replace(compile_graph(graph, small, dump=True), config=CONFIG)
    result = simulate(program, images, stall=stall, seed=seed)
    assert compare(graph, images, result.outputs) is None
    if not stall:
        cycles, estimated = result.counters[0]["CYCLES"], sum(estimate.cycles(program).values())
        logger.info("in bands: %d cycles in RTL, %d estimated", cycles, estimated)
        assert estimated == pytest.approx(cycles, rel=0.03)


def test_recovers_from_errors(make_case: CaseMaker, seed: int) -> None:
    """A bus error, the watchdog and aborts at many moments leave nothing behind."""
    case = make_case(CONFIG, "65:30:5")
    result = simulate(
        case.program(),
        case.images[:3],
        stall=32,
        seed=seed,
        testcase="recover",
        plusargs=["+ddr_error_beat=300"],
    )
    got = np.stack([output[case.graph.output.name].reshape(-1) for output in result.outputs])
    np.testing.assert_array_equal(got, case.logits[:3])


def _flip(program: Program, opcode: isa.Opcode, bit: int) -> Program:
    """``program`` with one bit flipped in the first block that ``opcode`` loads."""
    image = bytearray(program.image)
    load = next(d for d in isa.descriptors(program.image) if d.opcode is opcode)
    start = load.fields["offset"]
    image[start + bit // 8] ^= 1 << bit % 8
    return dataclasses.replace(program, image=bytes(image))


def _first_mismatch(
    case: Case, program: Program, seed: int, plusargs: Sequence[str] = ()
) -> Difference | None:
    images = case.images[:2]
    return compare(
        case.graph, images, simulate(program, images, seed=seed, plusargs=plusargs).outputs
    )


def test_one_wrong_weight_code_is_caught(make_case: CaseMaker, seed: int) -> None:
    case = make_case(CONFIG, "65:30:5")
    mismatch = _first_mismatch(
        case, _flip(case.program(dump=True), isa.Opcode.LOAD_WEIGHTS, 1), seed
    )
    assert mismatch is not None
    assert mismatch.layer == "conv1"
    for word in ("image 0", "conv1", "pixel", "channel", "expected", "got"):
        assert word in str(mismatch)


def test_one_wrong_shift_is_caught(make_case: CaseMaker, seed: int) -> None:
    case = make_case(CONFIG, "65:30:5")
    lane = isa.slot_layout(CONFIG)["lanes"].shape.elem_shape
    bit = lane["shift"].offset
    mismatch = _first_mismatch(
        case, _flip(case.program(dump=True), isa.Opcode.LOAD_SLOTS, bit), seed
    )
    assert mismatch is not None
    assert mismatch.layer == "conv1"


def test_one_dropped_beat_is_caught(make_case: CaseMaker, seed: int) -> None:
    """The model of the memory loses one beat of the weights of the second layer."""
    case = make_case(CONFIG, "65:30:5")
    try:
        caught = (
            _first_mismatch(case, case.program(dump=True), seed, plusargs=["+ddr_drop_beat=700"])
            is not None
        )
    except BenchFailed:
        caught = True
    assert caught
