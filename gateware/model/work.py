# SPDX-License-Identifier: Apache-2.0
"""Work of a network: multiply-accumulates, whatever array does them."""

from ir.graph import Host, IntGraph


def layer_macs(graph: IntGraph, name: str) -> int:
    """Multiplications of weights and activations of a node for one image; 0 without weights."""
    if name not in graph.layers:
        return 0
    output = next(n.output for n in graph.nodes if not isinstance(n, Host) and n.name == name)
    _, height, width = graph.tensor(output).shape
    return graph.layers[name].values.size * height * width


def network_macs(graph: IntGraph) -> int:
    """Multiplications of weights and activations for one image."""
    return sum(layer_macs(graph, name) for name in graph.layers)
