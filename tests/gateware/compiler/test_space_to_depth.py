# SPDX-License-Identifier: Apache-2.0
"""First layers on patches, and layers in strips, give what they give as a whole."""

import dataclasses

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.compiler import space_to_depth
from gateware.compiler.layout import LiveRange, Strip, TensorLayout, allocate
from gateware.compiler.lower import lower
from gateware.compiler.operations import TensorKey
from gateware.compiler.plan import NoPlan
from gateware.compiler.program import compile_graph
from gateware.compiler.space_to_depth import Axis, SpaceToDepth, rewrite
from gateware.model import estimate
from ir.graph import IntGraph
from ir.ratio import Ratio
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.seeds import suite_rng
from tests.helpers.units import assert_golden

CONFIG = AccelConfig.from_ratio(Ratio(65, 30, 5), 16, act_depth=512, weight_depth=256)


def convolve(image: np.ndarray, values: np.ndarray, stride, padding, out, fill: int) -> np.ndarray:
    """Plain loops: (rows, out_height, out_width)."""
    result = np.zeros((len(values), *out), np.int64)
    top, left = padding[0], padding[2]
    for y, x in np.ndindex(*out):
        for ky, kx in np.ndindex(*values.shape[2:]):
            row, column = y * stride[0] + ky - top, x * stride[1] + kx - left
            inside = 0 <= row < image.shape[1] and 0 <= column < image.shape[2]
            pixel = image[:, row, column] if inside else np.full(len(image), fill)
            result[:, y, x] += values[:, :, ky, kx] @ pixel
    return result


@pytest.mark.parametrize("way", range(9))
def test_every_way_to_cut_patches(way, seed, monkeypatch):
    """All pairs of axes that a convolution has, one forced after the other."""
    rng = np.random.default_rng([seed, way])
    forced = 0
    for _ in range(12):
        kernel, stride = rng.integers(1, 6, 2).tolist(), rng.integers(1, 4, 2).tolist()
        padding = tuple(rng.integers(0, 4, 4).tolist())
        shape = (int(rng.integers(1, 4)), *rng.integers(5, 10, 2).tolist())
        out = [
            (shape[1 + i] + sum(padding[2 * i : 2 * i + 2]) - kernel[i]) // stride[i] + 1
            for i in (0, 1)
        ]
        values = rng.integers(-7, 8, (5, shape[0], *kernel))
        source = TensorLayout.of(shape, CONFIG, bits=4, zero_point=6)
        target = TensorLayout.of((5, *out), CONFIG, bits=4)
        order: list = []
        monkeypatch.setattr(
            space_to_depth,
            "_cost",
            lambda *a, order=order: order.append(a) or (0 if len(order) - 1 == way else 1, 0),
        )
        found = rewrite(
            values,
            stride=tuple(stride),
            padding=padding,
            source=source,
            target=target,
            config=CONFIG,
        )
        forced += len(order) > way
        image = rng.integers(0, 16, shape)
        stored = found.space_to_depth.gather(image)
        expected = convolve(image, values, stride, padding, out, 6)
        got = convolve(stored, found.values, found.stride, found.padding, out, 6)
        np.testing.assert_array_equal(got, expected)
    assert forced or way > 3


def test_patches_of_an_image():
    image = np.arange(1, 13).reshape(1, 3, 4)
    cut = SpaceToDepth(image.shape, Axis(2, 2, 0, 2), Axis(1, 1, 0, 4), 99).gather(image)
    assert cut.tolist() == [[[1, 2, 3, 4], [9, 10, 11, 12]], [[5, 6, 7, 8], [99] * 4]]
    around = SpaceToDepth(image.shape, Axis(1, 1, 0, 3), Axis(3, 2, -1, 2), 0).gather(image)
    assert around[:, 0].tolist() == [[0, 2], [1, 3], [2, 4]]


def first(shape, rows, *args, config=CONFIG, **options):
    build = GraphBuilder(suite_rng(), shape, bits=8)
    build.conv(INPUT, rows, *args, **options)
    graph = build.build()
    return lower(graph, config)


def test_what_is_chosen():
    # One channel: nine pixels of a 3x3 kernel are one word.
    lowered = first((1, 8, 8), 16, 3)
    assert lowered.plan.operations[0].values.shape == (16, 9, 1, 1)
    # Three channels and a stride of two on a large array: each pixel once, 2x2 to a word.
    large = AccelConfig.from_ratio(Ratio(65, 30, 5), 64, pixels=8, requant_lanes=16, act_depth=8192)
    lowered = first((3, 224, 224), 64, 7, stride=2, padding=3, config=large)
    assert lowered.plan.operations[0].values.shape == (64, 12, 4, 4)
    assert lowered.plan.operations[0].padding == (2, 0, 2, 0)
    assert lowered.plan.places[TensorKey(INPUT)].shape == (12, 112, 112)
    # What takes more than half of the activation buffer is not chosen, however fast.
    roomy = dataclasses.replace(CONFIG, act_depth=4096)
    assert first((3, 32, 32), 16, 7, config=roomy).plan.places[TensorKey(INPUT)].words > 512
    assert (
        first((3, 32, 32), 16, 7, config=dataclasses.replace(CONFIG, act_depth=1024))
        .plan.places[TensorKey(INPUT)]
        .words
        <= 512
    )
    # Sixteen channels fill a word as they are.
    lowered = first((16, 8, 8), 16, 3)
    assert lowered.space_to_depth == space_to_depth.identity((16, 8, 8), 0)


def pooled(size: int, *, rows: int = 20, bits: int = 4) -> IntGraph:
    """A convolution, a maximum of overlapping windows of it, and a layer behind."""
    build = GraphBuilder(np.random.default_rng(size), (3, size, size), bits=bits)
    conv = build.conv(INPUT, rows, 3)
    pool = build.max_pool(conv, 3, stride=2, padding=(1, 1, 1, 1))
    build.conv(pool, 8, 1)
    return build.build()


@pytest.mark.parametrize("dump", [False, True])
@pytest.mark.parametrize(("size", "depth", "rows"), [(18, 512, []), (18, 256, [5]), (22, 256, [2])])
def test_strips(size, depth, rows, dump, seed):
    """The smaller the buffer the more strips; every tensor stays right."""
    config = dataclasses.replace(CONFIG, act_depth=depth)
    graph = pooled(size)
    assert list(lower(graph, config).plan.strips.values()) == rows
    program = compile_graph(graph, config, dump=dump)
    assert_golden(graph, program, config, seed)
    layers = estimate.cycles(program)
    assert set(layers) - {"input"} == {"conv0", "max_pool1", "conv2"}
    assert min(layers.values()) >= 0


def test_a_strip_is_no_larger_than_it_must_be():
    lowered = lower(pooled(18), dataclasses.replace(CONFIG, act_depth=256))
    (place,) = (lowered.plan.places[name] for name in lowered.plan.strips)
    assert place.height == 4 * 2 + 3


def test_what_does_not_fit_in_strips_runs_in_bands(seed):
    config, graph = dataclasses.replace(CONFIG, act_depth=128), pooled(18)
    with pytest.raises(NoPlan, match=r"layer .conv0. does not fit .*: 180 words beside 90 in use"):
        lower(graph, config)
    assert lower(graph, config, banded=True).plan.bands
    assert_golden(graph, compile_graph(graph, config), config, seed)


def test_a_large_image_comes_in_parts(seed):
    config = dataclasses.replace(CONFIG, act_depth=2048)
    graph = pooled(40, bits=8)
    program = compile_graph(graph, config, dump=True)
    assert "input" not in {segment.layer for segment in program.segments}
    assert_golden(graph, program, config, seed)


def test_rows_of_a_strip():
    place = TensorLayout.of((20, 4, 5), CONFIG, bits=8)
    place = dataclasses.replace(place, address=100)  # 2 groups, 2 planes, pitch 2
    strip = Strip(place, top=6, height=30)
    assert strip.row(7) == 102
    found = strip.regions(7, 9)
    assert [(r.first, r.words) for r in found] == [(102, 4), (110, 4), (118, 4), (126, 4)]
    assert [(r.first, r.words) for r in strip.regions(6, 10)] == [(100, 32)]


def test_allocate_reuses_what_is_free():
    form = TensorLayout.of((16, 4, 4), CONFIG, bits=4)
    keys = [TensorKey(name) for name in "abc"]
    live_ranges = [
        LiveRange(key=key, place=form, born=step, dies=step + 1) for step, key in enumerate(keys)
    ]
    places = allocate(live_ranges, CONFIG)
    assert [places[key].address for key in keys] == [0, 4, 0]
