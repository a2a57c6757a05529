# SPDX-License-Identifier: Apache-2.0
"""The compiler: places that never collide, a refusal for everything that does not fit, packing."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import CompileError
from gateware.compiler.pack import (
    SlotResult,
    pack_slot,
    pack_weights,
    unpack_weights,
)
from gateware.compiler.program import compile_graph
from ir.graph import IntGraph, Residual
from ir.numerics import Scheme, weight_values
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import sequence_graph
from tests.helpers.seeds import suite_rng
from tests.helpers.units import TINY, act_memory, executes

ROOMY = dataclasses.replace(TINY, act_depth=512, weight_depth=256, wide_depth=16)
LARGE = AccelConfig.from_ratio(Ratio(50, 25, 25), 16, pixels=4, requant_lanes=8)
CONFIGS = {"tiny": ROOMY, "large": LARGE}


def builder(*shape: int, **options) -> GraphBuilder:
    return GraphBuilder(suite_rng(), shape, ratio="50:25:25", tile_rows=4, **options)


def layout_of(shape: tuple[int, int, int], bits: int, k: int, banks: int) -> TensorLayout:
    channels, height, width = shape
    return TensorLayout(
        channels=channels, height=height, width=width, bits=bits, zero_point=0, k=k, banks=banks
    )


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 6),
    st.integers(1, 19),
    st.sampled_from([4, 8]),
    st.sampled_from([(8, 4), (16, 8), (16, 16)]),
    st.integers(0, 2**32),
)
def test_layout_round_trip(channels, height, width, bits, shape, seed):
    place = layout_of((channels, height, width), bits, *shape)
    tensor = np.random.default_rng(seed).integers(0, 1 << bits, (channels, height, width))
    stored = place.pack(tensor)
    assert len(stored) == place.beats * place.k // 2
    np.testing.assert_array_equal(place.unpack(stored), tensor)


@pytest.mark.parametrize("bits", [4, 8])
def test_layout_counts_its_words(bits):
    place = dataclasses.replace(layout_of((17, 3, 9), bits, 8, 4), address=5)
    memory = act_memory(place, np.full((17, 3, 9), (1 << bits) - 1), 256)
    used = np.flatnonzero(memory.any((0, 2)))
    assert (used.min(), used.max()) == (5, 5 + place.words - 1)


def test_memory_order_is_channels_last_hi_plane_first():
    place = layout_of((2, 1, 2), 8, 4, 4)
    tensor = np.array([[[0x12, 0x34]], [[0x56, 0x78]]])
    assert place.pack(tensor).hex() == "51006200" + "73008400"


# Weights


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 3, 2), (33, 1, 1)])
def test_weights_round_trip(name, shape, seed):
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    schemes = config.lane_schemes
    rows = rng.permutation(config.rows)  # rows[lane]
    values = np.zeros((config.rows, *shape), np.int64)
    for lane, row in enumerate(rows):
        values[row] = rng.choice(weight_values(schemes[lane]), shape)
    lanes = [int(row) if rng.random() < 0.8 else -1 for row in rows]
    words = unpack_weights(pack_weights(values, lanes, config), config)
    groups = -(-shape[0] // config.k)
    assert words.shape == (shape[1] * shape[2] * groups, config.rows, config.k)
    order = itertools.product(range(shape[1]), range(shape[2]), range(groups))
    for word, (ky, kx, group) in zip(words, order, strict=True):
        for lane, row in enumerate(lanes):
            part = values[row, group * config.k :, ky, kx][: config.k] if row >= 0 else []
            expected = np.zeros(config.k, np.int64)
            expected[: len(part)] = part
            assert word[lane].tolist() == expected.tolist()


def test_a_wide_result_is_named_by_the_column_of_its_lane():
    results = [
        SlotResult(lane=lane, column=7, offset=offset, multiplier=1, bias=-1, shift=14)
        for lane, offset in ((3, 6), (4, 5))
    ]
    slot = int.from_bytes(pack_slot(results, TINY, wide=True), "little")
    columns = isa.slot_layout(TINY).from_bits(slot).columns
    assert [int(columns[j].enable) for j in range(TINY.k)] == [1, 1] + [0] * (TINY.k - 2)
    assert [int(columns[j].offset) for j in (0, 1)] == [5, 6]


# Refusals


def refused(graph: IntGraph, config: AccelConfig = ROOMY, *, match: str) -> None:
    with pytest.raises(CompileError, match=match):
        compile_graph(graph, config)


def conv(shape, rows: int, *args, config: AccelConfig = ROOMY, match: str, **options) -> None:
    """A convolution is refused where it is the second layer; a first one would be rewritten."""
    build = builder(*shape)
    build.conv(build.max_pool(INPUT, 1, stride=1), rows, *args, **options)
    refused(build.build(), config, match=match)


def test_host_nodes_are_refused():
    refused(
        sequence_graph(1),
        match="node 'host0' runs embedding on the host; its layers become a program each",
    )


def test_high_strides_are_refused():
    conv((1, 20, 9), 4, 1, stride=(16, 1), match=r"'conv1' has kernel .* stride \(16, 1\)")


def test_any_horizontal_stride_of_a_single_column():
    build = builder(1, 9, 9)
    build.conv(INPUT, 4, 9, stride=9, padding=0)
    program = compile_graph(build.build(), ROOMY)
    assert executes(program)[0]["stride_x"] == 1


def test_large_paddings_are_refused():
    for padding in ((32, 0, 0, 0), (0, 32, 0, 0), (0, 0, 32, 0), (0, 0, 0, 32)):
        conv((1, 3, 3), 4, 1, padding=padding, match="'conv1' has kernel .* 255, 15 and 31")


def test_large_kernels_are_refused():
    config = dataclasses.replace(ROOMY, weight_depth=1024)
    conv((1, 256, 1), 4, (256, 1), padding=0, config=config, match=r"'conv1' has kernel \(256, 1\)")


def test_large_images_are_refused():
    conv((1, 1024, 1), 4, 1, match="'max_pool0' has a height or width over 1023")
    conv((1, 1, 1024), 4, 1, match="'max_pool0' has a height or width over 1023")


def test_wide_images_that_leave_no_room_are_refused():
    conv(
        (2, 3, 9),
        4,
        1,
        wide=True,
        match="'conv1' gives raw outputs of 16 pixels at a time, the buffer holds 8",
        config=dataclasses.replace(ROOMY, pixels=8, wide_depth=8),
    )


def test_deep_weights_are_refused():
    conv((65, 7, 7), 4, 7, match="'conv1' has 441 weight words per row tile, .* holds 256")


def test_many_channels_are_refused():
    config = dataclasses.replace(ROOMY, weight_depth=512, act_depth=4096)
    conv(
        (2041, 1, 1),
        4,
        1,
        config=config,
        match="'conv1' has 256 weight words per row tile, 256 for each pixel",
    )
    build = builder(1024, 2, 1, bits=8)
    build.conv(INPUT, 4, 1)
    refused(build.build(), config, match="tensor 'image' has 256 words per pixel")


def test_a_small_activation_buffer_is_refused():
    conv(
        (8, 4, 129),
        8,
        3,
        config=TINY,
        match="layer 'max_pool0' does not fit .*: even in bands of a row it takes 66 words",
    )


def test_missing_lanes_are_refused():
    config = dataclasses.replace(ROOMY, pot4_rows=3, fixed8_rows=0)
    conv(
        (1, 3, 3),
        8,
        1,
        config=config,
        match="layer 'conv1' has 2 FIXED8 rows, but the array has no FIXED8 lane",
    )


def test_pooling_with_few_drain_slots_is_refused():
    config = AccelConfig(pot4_rows=1, fixed4_rows=0, fixed8_rows=0, requant_lanes=1, slot_depth=8)
    build = builder(2, 4, 4)
    build.max_pool(INPUT)
    refused(
        build.build(), config, match="'max_pool0' needs 16 drain slots, the slot buffer holds 8"
    )


def test_reading_a_flattened_tensor_is_refused():
    build = builder(2, 2, 2)
    build.conv(build.flatten(INPUT), 4, 1)
    refused(build.build(), match="'conv1' reads a flattened tensor; only a linear layer can")


def test_adding_a_flattened_tensor_is_refused():
    # Same numbers, other order: it would add the wrong channels.
    build = builder(2, 2, 2)
    build.linear(build.flatten(INPUT), 8)
    graph = build.build()
    node = graph.nodes[-1].model_copy(update={"residual": Residual(tensor="flatten0", n=9000)})
    header = graph.header.model_copy(update={"nodes": (*graph.nodes[:-1], node)})
    refused(IntGraph(header, graph.layers), match="'linear1' adds 'image' flattened")


def test_a_flattened_output_is_refused():
    build = builder(2, 2, 2)
    build.flatten(build.conv(INPUT, 4))
    refused(
        build.build(), match="ends with 'flatten1', a flattened tensor; let it end with 'conv0'"
    )


def test_a_graph_without_layers_is_refused():
    build = builder(2, 2, 2)
    build.flatten(INPUT)
    refused(build.build("empty"), match="graph 'empty' has no layer to run")


def test_accumulator_and_bias_are_refused():
    # Beyond what a valid graph can hold, hence smuggled in after its validation.
    build = builder(8, 16, 16, bits=8)
    build.conv(INPUT, 4, 16, padding=0)
    layer = build.layers["conv0"]
    build.layers["conv0"] = layer = dataclasses.replace(layer, values=np.zeros_like(layer.values))
    graph = build.build()
    largest = np.where(layer.scheme == Scheme.POT4, 64, 0)[:, None, None, None]
    graph.layers["conv0"] = dataclasses.replace(
        layer, values=np.broadcast_to(largest, layer.values.shape)
    )
    with pytest.raises(
        CompileError,
        match=r"'conv0': the sums of row \d reach 0..33423360, an "
        r"accumulator of Pot4Engine holds 0..16777215",
    ):
        compile_graph(graph, ROOMY)
    graph.layers["conv0"] = dataclasses.replace(layer, bias=np.full(4, 1 << 47))
    with pytest.raises(CompileError, match=r"'conv0': the bias of row \d takes more than the 48 "):
        compile_graph(graph, ROOMY)


def test_two_lane_engines_refuse_large_sums():
    build = builder(8, 16, 16, bits=8)
    build.conv(INPUT, 4, 16, padding=0)
    layer = build.layers["conv0"]
    graph = build.build()
    most = np.where(layer.scheme == Scheme.FIXED4, 7, 0)[:, None, None, None]
    graph.layers["conv0"] = dataclasses.replace(
        layer, values=np.broadcast_to(most, layer.values.shape)
    )
    compile_graph(graph, ROOMY)
    with pytest.raises(CompileError, match=r"Fixed4DspEngine holds -524288..524287"):
        compile_graph(graph, dataclasses.replace(ROOMY, fixed4_style="dsp"))
