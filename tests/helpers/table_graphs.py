# SPDX-License-Identifier: Apache-2.0
"""Random graphs with tables and products."""

import numpy as np

from ir.graph import IntGraph
from tests.helpers.builder import GraphBuilder


def table_graph(rng: np.random.Generator) -> IntGraph:
    """Tables behind layers, with and without a residual operand, and behind averages; 4 and 8
    bits; two layers in a row, and layers without a table between."""
    build = GraphBuilder(rng, (int(rng.integers(1, 20)), 7, 6))
    channels = int(rng.integers(3, 30))
    x = build.conv("image", channels, 3, table=True)
    y = build.conv(x, channels, 1, bits=8, zero_point=128, table=True)
    y = build.avg_pool(y, 1, bits=8, table=True)
    z = build.conv(x, channels, 3, residual=y, table=True)
    z = build.max_pool(z, 2)
    z = build.conv(z, channels, 1, groups=channels)
    z = build.avg_pool(z, bits=8, table=True)
    build.linear(z, 5, wide=True)
    return build.build()


def product_graph(rng: np.random.Generator) -> IntGraph:
    """Products of maps of 4 and 8 bits and any zero point with maps and with a factor for each
    channel, with a table and without."""
    build = GraphBuilder(rng, (int(rng.integers(1, 20)), 5, 7))
    channels = int(rng.integers(3, 40))
    zero, other = (int(z) for z in rng.integers(0, 256, 2))
    x = build.conv("image", channels, 3)
    y = build.conv(x, channels, 1, bits=8, zero_point=zero, table=True)
    factors = build.conv(build.avg_pool(y), channels, 1, bits=8, zero_point=other, table=True)
    z = build.mul(y, factors)
    w = build.mul(z, y, bits=8, table=False)
    w = build.mul(w, build.avg_pool(x), bits=8, zero_point=7)
    build.linear(build.avg_pool(w), 5, wide=True)
    return build.build()
