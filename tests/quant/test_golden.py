# SPDX-License-Identifier: Apache-2.0
"""The golden model against loops over Python integers that share no code with it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant import golden
from quant.intgraph import AvgPool, Conv, Flatten, IntGraph, Linear, MaxPool
from tests.quant.graphs import INPUT, GraphBuilder, random_graph, random_images, residual_graph


def naive(graph: IntGraph, image: np.ndarray) -> dict[str, list]:
    """Every tensor as nested lists of Python integers, for one image."""
    specs = {spec.name: spec for spec in graph.header.tensors}
    tensors = {graph.header.input: image.tolist()}
    for node in graph.header.nodes:
        channels, height, width = specs[node.output].shape
        source, pad = tensors[node.input], specs[node.input].zero_point
        match node:
            case Flatten():
                values = [v for plane in source for line in plane for v in line]
                result = [[[v]] for v in values]
            case Linear():
                flat = [plane[0][0] for plane in source]
                result = [[[finish(graph, node, tensors, o, 0, 0, dot(row, flat))]]
                          for o, row in enumerate(graph.layers[node.name].values.tolist())]
            case Conv():
                result = [[[finish(graph, node, tensors, o, y, x,
                                   convolve(graph, node, source, pad, o, y, x))
                            for x in range(width)] for y in range(height)]
                          for o in range(channels)]
            case MaxPool():
                result = [[[max(window(node, source[c], 0, y, x, node.padding))
                            for x in range(width)] for y in range(height)]
                          for c in range(channels)]
            case AvgPool():
                result = [[[clamp((sum(window(node, source[c], None, y, x, (0, 0, 0, 0)))
                                   * node.multiplier + node.bias) // 2**node.shift, node)
                            for x in range(width)] for y in range(height)]
                          for c in range(channels)]
        tensors[node.output] = result
    return tensors


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
    wide = build.conv(INPUT, 8, (2, 3), stride=(2, 1), padding=(0, 1, 2, 0), groups=2, bits=8,
                      zero_point=9)
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


def test_logits_are_the_output_per_image(seed):
    graph = residual_graph(seed, channels=4, size=4)
    images = random_images(graph, np.random.default_rng(seed), 3)
    logits = golden.logits(graph, images)
    assert logits.shape == (3, 10)
    assert np.array_equal(logits, golden.run(graph, images)[graph.header.output][:, :, 0, 0])


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
