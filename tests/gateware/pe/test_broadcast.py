# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Registered trees, and that no net of an array feeds more pins than they promise."""

import pytest
from amaranth.lib import data

from gateware.pe.broadcast import Broadcast
from sim.benches.stimulus import simulate


@pytest.mark.parametrize(
    "sinks, fanout, leaves, latency",
    [(1, 8, 1, 1), (8, 8, 1, 1), (9, 8, 2, 2), (64, 8, 8, 2), (65, 8, 9, 3), (5, 2, 3, 3)],
)
def test_broadcast(sinks: int, fanout: int, leaves: int, latency: int) -> None:
    tree = Broadcast(data.StructLayout({"value": 8}), sinks=sinks, fanout=fanout)
    assert (len(tree.o), tree.latency) == (leaves, latency)
    values = list(range(1, 20))
    outputs = [f"o.{leaf}" for leaf in range(leaves)]
    seen = simulate(tree, [{"i": value} for value in values], outputs)
    expected = [0] * (latency - 1) + values[: len(values) - latency + 1]
    assert list(seen.values()) == [expected] * leaves


@pytest.mark.parametrize(
    "sinks, fanout, message",
    [(0, 8, "sinks must be a positive integer, not 0"), (4, 1, "fanout must be at least 2, not 1")],
)
def test_broadcast_init_wrong(sinks: int, fanout: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Broadcast(data.StructLayout({"value": 8}), sinks=sinks, fanout=fanout)
