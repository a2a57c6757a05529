# SPDX-License-Identifier: Apache-2.0
"""Tables of a graph: checked, looked up, stored, and part of the digest.

Mirrors no module: tables go through all of this package.
"""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from ir import golden, numerics
from ir.graph import GraphError, IntGraph
from quant.lowering import verify
from tests.helpers.builder import GraphBuilder
from tests.helpers.graphs import random_images


def small(seed: int) -> IntGraph:
    build = GraphBuilder(np.random.default_rng(seed), (3, 6, 5))
    x = build.conv("image", 7, bits=8, table=True)
    x = build.conv(x, 7, residual=x, table=True)
    y = build.mul(x, build.avg_pool(x), bits=8, zero_point=100)
    x = build.mul(build.conv(x, 7, bits=8, zero_point=128), y, bits=4)
    build.avg_pool(x, 2, bits=4, table=True)
    return build.build()


def test_golden_and_torch_look_up(seed) -> None:
    graph = small(seed)
    images = random_images(graph, np.random.default_rng(seed), 3)
    found = golden.run(graph, images)
    ours = verify.run(graph, torch.from_numpy(images))
    for name, tensor in found.items():
        np.testing.assert_array_equal(ours[name], tensor, name)
    # The same graph without its tables gives the codes that they are looked up with.
    nodes = [n.model_copy(update={"table": None}) for n in graph.nodes]
    wide = [t.model_copy(update={"bits": 8}) for t in graph.header.tensors]
    header = graph.header.model_copy(update={"nodes": tuple(nodes), "tensors": tuple(wide)})
    before = golden.run(IntGraph(header, graph.layers), images)
    first = graph.nodes[0]
    expected = graph.tables[first.table][before[first.output]]
    np.testing.assert_array_equal(found[first.output], expected)
    assert len(np.unique(before[first.output])) > 20


def test_products_are_those_of_the_real_values(seed) -> None:
    """A code of the product is the nearest to that of the real values, by exact fractions."""
    rng = np.random.default_rng(seed)
    a, f = rng.integers(0, 256, (2, 500))
    for shift in range(numerics.PRODUCT_SHIFT_MIN, numerics.PRODUCT_SHIFT_MAX + 1):
        zeros, middle = tuple(int(z) for z in rng.integers(0, 256, 2)), int(rng.integers(256))
        bias = (middle << shift) + (1 << shift - 1)
        found = numerics.multiply(a, f, zeros, bias, shift, 0, 255)
        for code, x, y in zip(found.tolist(), a.tolist(), f.tolist(), strict=True):
            real = Fraction((x - zeros[0]) * (y - zeros[1]), 1 << shift) + middle
            assert code == min(max(math.floor(real + Fraction(1, 2)), 0), 255)


def test_products_of_wrong_shapes_are_refused(seed) -> None:
    build = GraphBuilder(np.random.default_rng(seed), (3, 6, 6))
    x = build.conv("image", 5)
    build.mul(x, build.avg_pool(x, 2))
    with pytest.raises(GraphError, match=r"'mul2' cannot multiply \(5, 6, 6\) by \(5, 3, 3\)"):
        build.build()


def test_file_and_digest_hold_the_tables(seed, tmp_path) -> None:
    graph = small(seed)
    graph.save(tmp_path / "graph.safetensors")
    loaded = IntGraph.load(tmp_path / "graph.safetensors")
    assert loaded.digest == graph.digest
    assert loaded.tables.keys() == graph.tables.keys()
    for name, table in graph.tables.items():
        np.testing.assert_array_equal(loaded.tables[name], table)
    name = min(graph.tables)
    other = graph.tables[name].copy()
    other[200] ^= 1
    assert dataclasses.replace(graph, tables=graph.tables | {name: other}).digest != graph.digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: {}, "table 'avg_pool6' is missing"),
        (lambda t: t | {"more": t["conv0"]}, "table 'more' is used by no node"),
        (lambda t: t | {"conv0": t["conv0"][:16]}, r"shape \(16,\) of uint8"),
        (lambda t: t | {"conv0": t["conv0"].astype(np.int64)}, "of int64, not 256 of uint8"),
        (lambda t: t | {"conv1": t["conv1"] | 16}, "has a table with .*, outside 4 bits"),
    ],
)
def test_bad_tables_are_refused(seed, change, reason) -> None:
    graph = small(seed)
    with pytest.raises(GraphError, match=reason):
        IntGraph(graph.header, graph.layers, change(graph.tables))


def test_the_largest_entry_bounds_what_a_layer_reads(seed) -> None:
    """An accumulator that 8-bit codes could overflow is safe behind a table of small codes."""
    build = GraphBuilder(np.random.default_rng(seed), (1, 1, 1), ratio="0:0:100")
    x = build.conv("image", 600, 1, bits=8, table=True)
    build.tables[x] = np.full(numerics.TABLE_SIZE, 100, np.uint8)
    build.conv(x, 1, 1)
    build.layers["conv1"] = dataclasses.replace(
        build.layers["conv1"], values=np.full((1, 600, 1, 1), 127)
    )
    build.build()
    build.tables[x][0] = 255
    with pytest.raises(GraphError, match="the accumulator has 24 bits"):
        build.build()
