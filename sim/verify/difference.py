# SPDX-License-Identifier: Apache-2.0
"""Comparison of simulated tensors with those of the reference, integer for integer."""

import dataclasses

import numpy as np

from ir import golden
from ir.graph import Host, IntGraph


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """First value in which simulation and reference differ."""

    image: int
    layer: str
    channel: int
    y: int
    x: int
    expected: int
    got: int

    def __str__(self) -> str:
        return (
            f"image {self.image}, layer {self.layer!r}, pixel y={self.y} x={self.x}, channel "
            f"{self.channel}: expected {self.expected}, got {self.got}"
        )


def compare(
    graph: IntGraph, images: np.ndarray, outputs: list[dict[str, np.ndarray]]
) -> Difference | None:
    """First difference from the golden model in the order of the graph's nodes, or None.

    ``outputs`` are, for each of the integer ``images`` (N, C, H, W), tensors (C, H, W) by name.
    """
    reference = golden.run(graph, images)
    for image, tensors in enumerate(outputs):
        for node in graph.nodes:
            if isinstance(node, Host) or node.output not in tensors:
                continue
            got = tensors[node.output]
            expected = reference[node.output][image].reshape(got.shape)
            if not np.array_equal(got, expected):
                return first_difference(image, node.name, expected, got)
    return None


def first_difference(image: int, layer: str, expected: np.ndarray, got: np.ndarray) -> Difference:
    """First difference of two unequal tensors (C, H, W), in that order of its axes."""
    channel, y, x = (int(i[0]) for i in np.nonzero(got != expected))
    return Difference(
        image=image,
        layer=layer,
        channel=channel,
        y=y,
        x=x,
        expected=int(expected[channel, y, x]),
        got=int(got[channel, y, x]),
    )
