# SPDX-License-Identifier: Apache-2.0
"""The golden model against loops over Python integers that share no code with it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ir import golden, numerics
from ir.graph import AvgPool, Conv, Flatten, Host, IntGraph, Linear, MaxPool
from quant.lowering import verify
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.graphs import (
    random_graph,
    random_images,
    random_tokens,
    residual_graph,
    sequence_graph,
    sequence_host,
)


def naive(
    graph: IntGraph,
    image: np.ndarray | tuple[np.ndarray, ...],
    host: golden.HostCallback | None = None,
) -> dict[str, list]:
    """Every tensor as nested lists of Python integers, for one image."""
    specs = {spec.name: spec for spec in graph.header.tensors}
    tensors = {} if host else {graph.header.input: image.tolist()}
    floats = (
        dict(zip(graph.header.host_inputs, [part[None] for part in image], strict=True))
        if host
        else {}
    )
    for node in graph.header.nodes:
        if isinstance(node, Host):
            given = {
                name: floats[name] if name in floats else real(graph, specs[name], tensors[name])
                for name in node.inputs
            }
            floats |= host(node, given)
            tensors |= {name: codes(specs[name], floats.pop(name)[0]) for name in node.outputs}
            continue
        channels, height, width = specs[node.output].shape
        source, pad = tensors[node.input], specs[node.input].zero_point
        match node:
            case Flatten():
                values = [v for plane in source for line in plane for v in line]
                result = [[[v]] for v in values]
            case Linear():
                flat = [plane[0][0] for plane in source]
                result = [
                    [[finish(graph, node, tensors, o, 0, 0, dot(row, flat))]]
                    for o, row in enumerate(graph.layers[node.name].values.tolist())
                ]
            case Conv():
                result = [
                    [
                        [
                            finish(
                                graph,
                                node,
                                tensors,
                                o,
                                y,
                                x,
                                convolve(graph, node, source, pad, o, y, x),
                            )
                            for x in range(width)
                        ]
                        for y in range(height)
                    ]
                    for o in range(channels)
                ]
            case MaxPool():
                result = [
                    [
                        [max(window(node, source[c], 0, y, x, node.padding)) for x in range(width)]
                        for y in range(height)
                    ]
                    for c in range(channels)
                ]
            case AvgPool():
                result = [
                    [
                        [
                            clamp(
                                (
                                    sum(window(node, source[c], None, y, x, (0, 0, 0, 0)))
                                    * node.multiplier
                                    + node.bias
                                )
                                // 2**node.shift,
                                node,
                            )
                            for x in range(width)
                        ]
                        for y in range(height)
                    ]
                    for c in range(channels)
                ]
        tensors[node.output] = result
    return tensors


def real(graph: IntGraph, spec, tensor: list) -> np.ndarray:
    """One value after the other; the wide tensors of a sequence graph have their layers' names."""
    if spec.name in graph.layers:
        steps = [2.0 ** -int(s) for s in graph.layers[spec.name].shift]
    else:
        steps = [spec.scale] * len(tensor)
    return np.array(
        [
            [
                [[np.float32(step * (v - spec.zero_point)) for v in line] for line in plane]
                for step, plane in zip(steps, tensor, strict=True)
            ]
        ]
    )


def codes(spec, values: np.ndarray) -> list:
    """Rounded by Python from the exact quotient's nearest float32."""
    step, top = np.float32(spec.scale), 2**spec.bits - 1
    return [
        [
            [
                min(max(math.floor(float(v / step + np.float32(0.5))) + spec.zero_point, 0), top)
                for v in line
            ]
            for line in plane
        ]
        for plane in values
    ]


def window(node, plane: list, outside: int | None, y: int, x: int, padding: tuple) -> list[int]:
    values = []
    for i in range(node.kernel[0]):
        for j in range(node.kernel[1]):
            line = y * node.stride[0] + i - padding[0]
            column = x * node.stride[1] + j - padding[2]
            inside = 0 <= line < len(plane) and 0 <= column < len(plane[0])
            values.append(plane[line][column] if inside else outside)
    return values


def convolve(graph: IntGraph, node: Conv, source: list, pad: int, o: int, y: int, x: int) -> int:
    weights = graph.layers[node.name].values[o].tolist()
    first = o // (len(graph.layers[node.name].values) // node.groups) * len(weights)
    total = 0
    for c, filter_plane in enumerate(weights):
        flat = [w for line in filter_plane for w in line]
        total += dot(flat, window(node, source[first + c], pad, y, x, node.padding))
    return total


def dot(weights: list[int], activations: list[int]) -> int:
    return sum(w * a for w, a in zip(weights, activations, strict=True))


def clamp(value: int, node) -> int:
    return min(max(value, node.low), node.high)


def finish(graph: IntGraph, node, tensors: dict, o: int, y: int, x: int, acc: int) -> int:
    layer = graph.layers[node.name]
    m, b, s = int(layer.multiplier[o]), int(layer.bias[o]), int(layer.shift[o])
    t = acc * m + b
    if node.wide:
        return t
    if node.residual is not None:
        t += tensors[node.residual.tensor][o][y][x] * node.residual.n * 2**s // 2**14
    return clamp(t // 2**s, node)


def assert_same(graph: IntGraph, images: np.ndarray) -> None:
    got = golden.run(graph, images)
    for index, image in enumerate(images):
        for name, expected in naive(graph, image).items():
            assert got[name][index].tolist() == expected, f"tensor {name} of image {index}"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_random_graphs(number):
    rng = np.random.default_rng(number)
    graph = random_graph(rng)
    assert_same(graph, random_images(graph, rng))


def test_residual_network(seed):
    graph = residual_graph(seed, channels=4, size=6)
    assert_same(graph, random_images(graph, np.random.default_rng(seed), 2))


def test_a_graph_with_every_feature(seed):
    rng = np.random.default_rng(seed)
    build = GraphBuilder(rng, (4, 7, 5), bits=8, zero_point=200)
    wide = build.conv(
        INPUT, 8, (2, 3), stride=(2, 1), padding=(0, 1, 2, 0), groups=2, bits=8, zero_point=9
    )
    deep = build.conv(wide, 8, 3, groups=8, residual=wide)
    pool = build.max_pool(deep, (2, 3), stride=(1, 2), padding=(1, 0, 0, 2))
    mean = build.avg_pool(pool, (2, 1), stride=(2, 1), bits=4)
    build.linear(build.flatten(mean), 7, bits=8)
    assert_same(build.build(), random_images(build.build(), rng, 2))


def test_builder_gives_lively_outputs(seed):
    """Tensors that only hold the clamp's edges would test nothing."""
    graph = residual_graph(seed)
    tensors = golden.run(graph, random_images(graph, np.random.default_rng(seed), 4))
    for node in graph.nodes:
        if isinstance(node, Conv):
            inside = (tensors[node.output] > node.low) & (tensors[node.output] < node.high)
            assert inside.mean() > 0.3, node.name
    assert {int(s) for layer in graph.layers.values() for s in layer.scheme} == {0, 1, 2}


# The host's part


def test_sequence_with_host_nodes(seed):
    graph = sequence_graph(seed)
    tokens, mask = random_tokens(graph, np.random.default_rng(seed), 3)
    got = golden.run(graph, (tokens, mask), sequence_host)
    assert set(got) == {spec.name for spec in graph.header.tensors}
    for index, image in enumerate(zip(tokens, mask, strict=True)):
        for name, expected in naive(graph, image, sequence_host).items():
            assert got[name][index].tolist() == expected, f"tensor {name} of image {index}"


def test_sequence_tensors_are_lively(seed):
    graph = sequence_graph(seed)
    inputs = random_tokens(graph, np.random.default_rng(seed), 32)
    tensors = golden.run(graph, inputs, sequence_host)
    for node in graph.nodes:
        if isinstance(node, Host):
            values = tensors[node.outputs[0]]
            assert len(np.unique(values)) > 8, node.name


@pytest.mark.parametrize("batch", [5, 32])
def test_torch_and_golden_model_agree_on_a_graph_with_host_nodes(seed, batch):
    graph = sequence_graph(seed)
    inputs = random_tokens(graph, np.random.default_rng(seed), 32)
    logits = verify.verify(graph, inputs, batch=batch, host=sequence_host)
    assert np.array_equal(logits, golden.logits(graph, inputs, sequence_host))
    assert logits.shape == (32, 3) and len(np.unique(logits)) > 3


def test_host_reads_real_values_and_gives_codes(seed):
    """Scale 1/16, zero point 3, on the way there and back; outside the codes it saturates."""
    build = GraphBuilder(np.random.default_rng(seed), (1, 1, 4), bits=4, zero_point=3)
    build.host((INPUT,), (1, 1, 4), zero_point=3)
    build.tensors["host0"] = build.tensors["host0"].model_copy(update={"scale": 1 / 16})
    image = np.array([[[[0, 3, 7, 15]]]])

    def host(node: Host, given: dict) -> dict:
        assert given[INPUT].dtype == np.float32
        assert given[INPUT].tolist() == [[[[-3 / 16, 0, 4 / 16, 12 / 16]]]]
        return {"host0": given[INPUT] * np.float32(1.125)}  # -3.375, 0, 4.5, 13.5 steps

    assert golden.run(build.build(), image, host)["host0"].tolist() == [[[[0, 3, 8, 15]]]]
    ours = verify.run(build.build(), torch.from_numpy(image), host)
    assert ours["host0"].tolist() == [[[[0, 3, 8, 15]]]]


def test_run_refuses_a_host_that_does_not_fit(seed):
    graph = sequence_graph(seed)
    inputs = random_tokens(graph, np.random.default_rng(seed), 2)
    with pytest.raises(ValueError, match="runs embedding on the host, and no host was given"):
        golden.run(graph, inputs)
    with pytest.raises(ValueError, match="takes 2 host inputs, a tuple of arrays: tokens, mask"):
        golden.run(graph, inputs[:1], sequence_host)
    first = graph.nodes[0].outputs[0]
    for change, message in [
        (lambda a: a.astype(np.float64), r"gave 'host0' as float64 of \(8, 5, 1\); finite"),
        (lambda a: a[:, 1:], r"gave 'host0' as float32 of \(7, 5, 1\); .* of \(8, 5, 1\) is"),
        (lambda a: a / np.float32(0), "finite float32"),
    ]:

        def host(node: Host, given: dict, change=change) -> dict:
            with np.errstate(divide="ignore", invalid="ignore"):
                return {n: change(a) for n, a in sequence_host(node, given).items()}

        with pytest.raises(ValueError, match=message):
            golden.run(graph, inputs, host)
    with pytest.raises(ValueError, match=r"gave \['host0'\], not \['host0', 'stream'\]"):
        golden.run(graph, inputs, lambda node, given: {first: sequence_host(node, given)[first]})


def test_mismatch_is_found_behind_a_host_node(seed):
    graph = sequence_graph(seed)
    inputs = random_tokens(graph, np.random.default_rng(seed), 2)
    asked = []

    def host(node: Host, given: dict) -> dict:
        asked.append(node.name)
        answer = sequence_host(node, given)
        if asked.count("host3") == 2 and node.name == "host3":  # the golden model's turn
            answer["host3"] = -answer["host3"]
        return answer

    with pytest.raises(verify.Mismatch, match=r"tensor 'host3' at \(0, "):
        verify.verify(graph, inputs, host=host)


def test_logits_are_the_output_per_image(seed):
    graph = residual_graph(seed, channels=4, size=4)
    images = random_images(graph, np.random.default_rng(seed), 3)
    logits = golden.logits(graph, images)
    assert logits.shape == (3, 10)
    assert np.array_equal(logits, golden.run(graph, images)[graph.output.name][:, :, 0, 0])


def test_images_are_independent(seed):
    graph = residual_graph(seed, channels=4, size=4)
    images = random_images(graph, np.random.default_rng(seed), 3)
    each = np.concatenate([golden.logits(graph, image[None]) for image in images])
    assert np.array_equal(golden.logits(graph, images), each)


def test_run_refuses_what_is_not_an_integer_image(seed):
    graph = residual_graph(seed, channels=4, size=4)
    good = np.zeros((1, 3, 4, 4), np.int64)
    with pytest.raises(ValueError, match=r"images are \(3, 4, 5\), the graph takes \(3, 4, 4\)"):
        golden.run(graph, np.zeros((1, 3, 4, 5), np.int64))
    for value in (-1, 256):
        with pytest.raises(ValueError, match=r"image values must lie in 0\.\.255"):
            golden.run(graph, good + value)
    with pytest.raises(ValueError, match="images must be integers, not float32; quantise_input"):
        golden.run(graph, good.astype(np.float32))
    assert golden.logits(graph, good[:0]).shape[0] == 0


def test_quantise_input_uses_the_input_tensor(seed):
    build = GraphBuilder(np.random.default_rng(seed), (1, 1, 3), bits=4, zero_point=3)
    build.flatten(INPUT)
    real = np.array([[[[-1.0, 1 / 32, 9.0]]]], np.float32)
    assert golden.quantise_input(build.build(), real).tolist() == [[[[0, 4, 15]]]]


@pytest.mark.parametrize("sign", [1, -1])
def test_largest_accumulators_are_exact(sign, seed) -> None:
    """259 products of 127 and 255 are the most that 24 bits hold; float32 has 24, too."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(250, 256, (50, 259))
    rows = sign * rng.integers(120, 128, (7, 259))
    columns[0], rows[0] = 255, sign * 127
    found = golden._matmul(columns, rows)
    assert abs(int(found[0, 0])) == 259 * 255 * 127 < 1 << numerics.ACC_BITS - 1
    np.testing.assert_array_equal(found, columns @ rows.T)
