# SPDX-License-Identifier: Apache-2.0
"""Every inconsistency of a graph is refused with one line that names the place."""

import dataclasses

import numpy as np
import pytest

from ir import numerics
from ir.graph import GraphError, HostFunction, IntGraph, Output
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import edited, residual_graph, sequence_graph

#: change to residual_graph(channels=4, size=4): its nodes are conv0, max_pool1, conv2, conv3
#: (adds max_pool1), conv4 (1x1, stride 2, 8 bits), conv5 (stride 2), conv6 (adds conv4), avg_pool7,
#: flatten8, linear9 (wide).
INVALID = {
    "ratio": ({"ratio": "65:30"}, "ratio '65:30' is not of the form"),
    "ratio sum": ({"ratio": "65:30:6"}, "ratio 65:30:6 sums to 101"),
    "input": ({"input": "nothing"}, "graph input 'nothing' is not a tensor of the graph"),
    "output": (
        {"outputs": (Output(tensor="linear9"), Output(tensor="image"))},
        "graph output 'image' is written by no node",
    ),
    "output shape": (
        {"outputs": (Output(tensor="linear9", shape=(3, 3)),)},
        r"graph output 'linear9' of shape \(\d+, 1, 1\) is read as \(3, 3\)",
    ),
    "no such tail": (
        {"outputs": (Output(tensor="linear9", tail=(HostFunction(name="cubed"),)),)},
        "graph output 'linear9': there is no function 'cubed'",
    ),
    "tail that does not fit": (
        {"outputs": (Output(tensor="linear9", tail=(HostFunction(name="softmax"),)),)},
        "graph output 'linear9': .* missing 1 required positional argument: 'axis'",
    ),
    "same tensor": ({"tensors": {"conv2": {"name": "conv0"}}}, "two tensors have the same name"),
    "tensor shape": (
        {"tensors": {"conv2": {"shape": (4, 0, 4)}}},
        r"tensor 'conv2' has shape \(4, 0, 4\), zero point 0",
    ),
    "zero point": ({"tensors": {"conv2": {"zero_point": 16}}}, "tensor 'conv2' has .* point 16"),
    "same node": ({"nodes": {"conv2": {"name": "conv0"}}}, "two nodes are named 'conv0'"),
    "reads late": (
        {"nodes": {"conv0": {"input": "conv3"}}},
        "node 'conv0' reads 'conv3', which nothing before it writes",
    ),
    "residual late": (
        {"nodes": {"conv3": {"residual": {"tensor": "conv6", "n": 1}}}},
        "node 'conv3' reads 'conv6', which nothing before it writes",
    ),
    "writes twice": (
        {"nodes": {"conv2": {"output": "conv0"}}},
        "node 'conv2' writes 'conv0', which is not a free tensor",
    ),
    "writes nowhere": (
        {"nodes": {"conv2": {"output": "nothing"}}},
        "node 'conv2' writes 'nothing', which is not a free tensor",
    ),
    "reads wide": (
        {
            "nodes": {"conv0": {"wide": True}},
            "tensors": {"conv0": {"scale": 2**-20}},
            "layers": {"conv0": {"shift": [20] * 4}},
        },
        "node 'max_pool1' reads 'conv0', which is wide",
    ),
    "kernel": ({"nodes": {"conv0": {"kernel": (0, 3)}}}, r"node 'conv0' has kernel \(0, 3\)"),
    "stride": ({"nodes": {"max_pool1": {"stride": (1, 0)}}}, r"'max_pool1' has .* \(1, 0\)"),
    "padding": ({"nodes": {"conv0": {"padding": (1, -1, 1, 1)}}}, r"padding \(1, -1, 1, 1\)"),
    "computes": (
        {"nodes": {"conv0": {"padding": (1, 1, 1, 2)}}},
        r"node 'conv0' computes \(4, 4, 5\), but 'conv0' is \(4, 4, 4\)",
    ),
    "avg pool": (
        {"nodes": {"avg_pool7": {"kernel": (1, 1), "stride": (1, 1)}}},
        "node 'avg_pool7' computes",
    ),
    "groups": ({"nodes": {"conv0": {"groups": 2}}}, "conv 'conv0': 3 channels in 2 groups"),
    "no groups": ({"nodes": {"conv0": {"groups": 0}}}, "conv 'conv0': 3 channels in 0 groups"),
    "clamp": ({"nodes": {"conv0": {"high": 16}}}, r"node 'conv0' clamps to 0\.\.16, outside 4"),
    "clamp empty": ({"nodes": {"conv4": {"low": 9, "high": 8}}}, r"node 'conv4' clamps to 9\.\.8"),
    "clamp below": ({"nodes": {"avg_pool7": {"low": -1}}}, r"'avg_pool7' clamps to -1\.\.255"),
    "pool bits": (
        {"tensors": {"max_pool1": {"bits": 8}}},
        "'max_pool1' keeps its input's codes, but bits, scale or zero point of",
    ),
    "pool scale": ({"tensors": {"max_pool1": {"scale": 3.0}}}, "keeps its input's codes"),
    "flatten zero": ({"tensors": {"flatten8": {"zero_point": 3}}}, "keeps its input's codes"),
    "residual shape": (
        {"nodes": {"conv6": {"residual": {"tensor": "conv3", "n": 1}}}},
        r"node 'conv6' cannot add 'conv3' of shape \(4, 4, 4\)",
    ),
    "wide residual": (
        {"nodes": {"conv6": {"wide": True}}, "layers": {"conv6": {"shift": [20] * 8}}},
        "node 'conv6' cannot add 'conv4' of shape",
    ),
    "wide shifts": (
        {"layers": {"linear9": {"shift": [20] * 9 + [21]}}},
        "wide output 'linear9' needs one shift for all its rows",
    ),
    "row shape": (
        {"layers": {"conv0": {"values": np.zeros((4, 2, 3, 3))}}},
        r"layer 'conv0' has 4 rows of \(2, 3, 3\), its input needs \(3, 3, 3\)",
    ),
    "no rows": ({"layers": {"conv0": {"values": np.zeros((0, 3, 3, 3))}}}, "'conv0' has 0 rows of"),
    "table length": (
        {"layers": {"conv0": {"bias": [0] * 3}}},
        "layer 'conv0': one M, B, S and scheme per row are needed",
    ),
    "scheme": (
        {"layers": {"conv0": {"scheme": [0, 1, 2, 3]}}},
        "layer 'conv0' has an unknown scheme number",
    ),
    "not of scheme": (
        {"layers": {"conv0": {"scheme": [1] * 4, "values": np.full((4, 3, 3, 3), 8)}}},
        "layer 'conv0' has a weight value outside FIXED4",
    ),
    "multiplier": (
        {"layers": {"conv0": {"multiplier": [1 << 16] * 4}}},
        r"layer 'conv0' has a multiplier outside 0\.\.65535",
    ),
    "small shift": ({"layers": {"conv0": {"shift": [13] * 4}}}, r"a shift outside 14\.\.45"),
    "large shift": ({"layers": {"conv0": {"shift": [46] * 4}}}, r"a shift outside 14\.\.45"),
    "bias": ({"layers": {"conv0": {"bias": [1 << 46] * 4}}}, "layer 'conv0' has a bias outside"),
    "fraction": (
        {"layers": {"conv0": {"bias": [0.5] * 4}}},
        "layer array 'bias' of float64 is not int64",
    ),
    "wraps": (
        {"layers": {"conv0": {"scheme": np.array([0, 1, 2, 256])}}},
        "layer array 'scheme' of int64 is not uint8",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid(case):
    change, message = INVALID[case]
    with pytest.raises(GraphError, match=message) as error:
        edited(residual_graph(1, channels=4, size=4), **change)
    assert "\n" not in str(error.value)


#: change to sequence_graph(1): its nodes are host0 (keeps stream), conv1 and conv2 (wide), host3,
#: conv4 (wide), host5 (reads stream), linear6 (wide).
INVALID_HOST = {
    "no input": ({"host_inputs": ()}, "^a graph needs either an input or host inputs, and not"),
    "two inputs": ({"input": "conv1"}, "^a graph needs either an input or host inputs, and not"),
    "input twice": ({"host_inputs": ("tokens", "tokens")}, "^the graph keeps 'tokens' on the host"),
    "reads late": (
        {"nodes": {"host0": {"inputs": ("conv1",)}}},
        "^node 'host0' reads 'conv1', which nothing before it writes",
    ),
    "reads unkept": (
        {"nodes": {"host0": {"keeps": ()}}},
        "^node 'host5' reads 'stream', which nothing before it writes",
    ),
    "float to layer": (
        {"nodes": {"conv1": {"input": "stream"}}},
        "^node 'conv1' reads 'stream', which nothing before it writes",
    ),
    "writes twice": (
        {"nodes": {"host3": {"outputs": ("host0",)}}},
        "^node 'host3' writes 'host0', which is not a free tensor",
    ),
    "keeps twice": (
        {"nodes": {"host3": {"keeps": ("stream",)}}},
        "^node 'host3' keeps 'stream' on the host, a name that is taken",
    ),
    "keeps a tensor": (
        {"nodes": {"host0": {"keeps": ("stream", "host3")}}},
        "^node 'host0' keeps 'host3' on the host, a name that is taken",
    ),
    "reads wide": ({"nodes": {"conv4": {"input": "conv1"}}}, "'conv4' reads 'conv1', which is wid"),
    "unread wide": (
        {"nodes": {"host3": {"inputs": ("conv1",)}}},
        "^wide tensor 'conv2' is neither the graph's output nor read by the host",
    ),
    "wide zero point": (
        {"tensors": {"conv1": {"zero_point": 1}}},
        r"^wide tensor 'conv1' has scale .*, zero point 1; it needs 2\^-\d+ and 0",
    ),
    "wide scale": (
        {"tensors": {"conv1": {"scale": 0.5}}},
        r"^wide tensor 'conv1' has scale 0.5, zero point 0; it needs 2\^-\d+ and 0",
    ),
}


@pytest.mark.parametrize("case", INVALID_HOST)
def test_invalid_host(case):
    change, message = INVALID_HOST[case]
    with pytest.raises(GraphError, match=message) as error:
        edited(sequence_graph(1), **change)
    assert "\n" not in str(error.value)


def test_host_may_read_and_keep_beside_an_input(seed):
    build = GraphBuilder(np.random.default_rng(seed), (2, 3, 3))
    pooled = build.host((INPUT,), (2, 1, 1), keeps=("more",))
    build.host((pooled, "more"), (2, 1, 1))
    assert build.build().header.input == INPUT


def test_invalid_layers(seed):
    graph = residual_graph(seed, channels=4, size=4)
    with pytest.raises(GraphError, match=r"^layer 'conv0' has no weights$"):
        IntGraph(graph.header, {n: a for n, a in graph.layers.items() if n != "conv0"})
    with pytest.raises(GraphError, match=r"^weights without a layer: more$"):
        IntGraph(graph.header, graph.layers | {"more": graph.layers["conv0"]})


def test_linear_needs_a_flat_input(seed):
    build = GraphBuilder(np.random.default_rng(seed), (4, 1, 1))
    build.linear(INPUT, 2)
    with pytest.raises(GraphError, match=r"linear 'linear0' needs a flat input, 'image' is \(2, 2"):
        edited(build.build(), tensors={INPUT: {"shape": (2, 2, 1)}})


def test_rows_must_divide_into_the_groups(seed):
    build = GraphBuilder(np.random.default_rng(seed), (2, 3, 3))
    build.conv(INPUT, 3, groups=2)
    with pytest.raises(GraphError, match=r"^conv 'conv0': 3 rows in 2 groups"):
        build.build()


def test_wide_tensor_must_be_the_output(seed):
    build = GraphBuilder(np.random.default_rng(seed), (4, 1, 1))
    build.linear(INPUT, 2, wide=True)
    build.linear(INPUT, 2)
    with pytest.raises(GraphError, match=r"^wide tensor 'linear0' is neither the"):
        build.build()


def test_accumulator_must_fit(seed):
    """One term more than 2^23 allows is refused, for a dot product and for a mean."""
    fits = ((1 << numerics.ACC_BITS - 1) - 1) // (127 * 255)
    for terms in (fits, fits + 1):
        build = GraphBuilder(np.random.default_rng(seed), (terms, 1, 1), bits=8, ratio="0:0:100")
        build.linear(INPUT, 1)
        build.layers["linear0"] = dataclasses.replace(
            build.layers["linear0"], values=np.full((1, terms), -127)
        )
        if terms == fits:
            build.build()
        else:
            with pytest.raises(GraphError, match=r"can reach .*, the accumulator has 24 bits"):
                build.build()
    build = GraphBuilder(np.random.default_rng(seed), (1, 1 << 8, 1 << 8), bits=8)
    build.avg_pool(INPUT)
    with pytest.raises(GraphError, match=r"^node 'avg_pool0' can reach 16711680, the accumulator"):
        build.build()
