# SPDX-License-Identifier: Apache-2.0
"""Grouped and depthwise convolutions: rows that read the same words go to the array together.

Mirrors no module: grouped convolutions pass through the whole compiler.
"""

import dataclasses

import numpy as np
import pytest

from gateware.arch.isa import Opcode
from gateware.compiler.operations import Gemm, TensorKey
from gateware.compiler.program import compile_graph
from gateware.model import estimate
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.units import TINY, assert_golden, descriptors

CONFIG = dataclasses.replace(TINY, act_depth=512, weight_depth=256, wide_depth=16)


def gemm(values: np.ndarray, groups: int) -> Gemm:
    empty = np.zeros(len(values), np.int64)
    return Gemm(
        name="conv",
        source=TensorKey("x"),
        target=TensorKey("y"),
        values=values,
        scheme=empty,
        multiplier=empty,
        bias=empty,
        shift=empty,
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        low=0,
        high=15,
        groups=groups,
    )


@pytest.mark.parametrize(
    ("rows", "channels", "groups", "words"),
    [
        (20, 12, 1, [(0, 2)]),  # all read all
        (16, 16, 16, [(0, 1), (1, 1)]),  # depthwise: eight channels are a word
        (32, 16, 16, [(0, 1), (1, 1)]),  # two rows for each channel
        (6, 24, 2, [(0, 2), (1, 2)]),  # twelve channels: both groups read the word in the middle
        (4, 36, 3, [(0, 2), (1, 2), (3, 2)]),
    ],
)
def test_parts(rows, channels, groups, words, seed):
    """Each row of a part, on the part's words, does what the row does on its group's channels."""
    rows -= rows % groups
    rng = np.random.default_rng(seed)
    values = rng.integers(-7, 8, (rows, channels // groups, 1, 1))
    x = rng.integers(0, 16, -(-channels // 8) * 8)
    x[channels:] = 0
    parts = gemm(values, groups).parts(8)
    assert [(part.first, part.words) for part in parts] == words
    seen = []
    for part in parts:
        part_x = x[part.first * 8 : (part.first + part.words) * 8]
        for index, row in enumerate(part.rows):
            group = row // (rows // groups)
            mine = x[group * channels // groups : (group + 1) * channels // groups]
            padded = part.values[index, :, 0, 0]
            assert padded @ part_x[: len(padded)] == values[row, :, 0, 0] @ mine
            seen.append(row)
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize(
    ("channels", "rows", "groups"), [(16, 16, 16), (12, 24, 12), (24, 6, 2), (36, 9, 3), (16, 8, 4)]
)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_equal_to_the_golden_model(channels, rows, groups, first, bits, seed):
    network = GraphBuilder(np.random.default_rng(seed), (channels, 7, 6), bits=bits, zero_point=3)
    source = INPUT if first else network.conv(INPUT, channels, 1, zero_point=2, bits=bits)
    network.conv(network.conv(source, rows, 3, groups=groups, padding=1), 8, 1)
    graph = network.build()
    assert_golden(graph, compile_graph(graph, CONFIG, dump=True), CONFIG, seed)


def test_with_a_residual_operand_and_stride(seed):
    network = GraphBuilder(np.random.default_rng(seed), (16, 8, 8))
    one = network.conv(INPUT, 16, 1, stride=2)
    network.conv(INPUT, 16, 3, stride=2, groups=16, padding=1, residual=one)
    graph = network.build()
    assert_golden(graph, compile_graph(graph, CONFIG, dump=True), CONFIG, seed)


def test_no_word_is_read_in_vain(seed):
    """A depthwise layer takes nine words per pixel group and word of channels, and is counted."""
    network = GraphBuilder(np.random.default_rng(seed), (32, 8, 8))
    network.conv(network.conv(INPUT, 32, 1), 32, 3, groups=32)
    program = compile_graph(network.build(), CONFIG)
    last = program.segments[-1]
    executes = [
        f for opcode, f in descriptors(program)[last.first : last.last] if opcode is Opcode.EXECUTE
    ]
    assert {f["groups"] for f in executes} == {1} and len(executes) >= 4
    assert estimate.cycles(program)[last.layer] > 0
