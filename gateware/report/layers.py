# SPDX-License-Identifier: Apache-2.0
"""Layers of a network, for reports: shapes, schemes, work, and what limits it."""

from boards.board import Board
from gateware.arch.config import AccelConfig
from gateware.model.work import layer_macs
from ir.graph import AvgPool, Conv, Host, IntegerNode, IntGraph, Linear, MaxPool, Mul
from ir.numerics import Scheme


def layers(graph: IntGraph, config: AccelConfig, cycles: dict[str, int]) -> list[dict]:
    """Layers of a network as JSON-able entries, one per node on the accelerator, in order.

    Each has ``name``, ``op``, ``input``, ``output``, ``residual`` (a tensor or None), ``shape``
    (channels, height, width of the output), ``bits`` of the output, ``schemes`` (the number of each
    row, or None without weights), ``weight_bytes``, ``macs``, ``cycles`` of one image, and
    ``utilisation`` of the array while these pass, 0..1. ``cycles`` are by the name of the layer.
    """
    result = []
    for node in graph.nodes:
        if isinstance(node, Host):
            continue
        spec = graph.tensor(node.output)
        arrays = graph.layers.get(node.name)
        macs = layer_macs(graph, node.name)
        taken = cycles.get(node.name, 0)
        result.append(
            {
                "name": node.name,
                "op": _describe(node),
                "input": node.input,
                "output": node.output,
                "residual": _residual(node),
                "shape": list(spec.shape),
                "bits": spec.bits,
                "schemes": None if arrays is None else arrays.scheme.tolist(),
                "weight_bytes": 0
                if arrays is None
                else sum(arrays.rows.shape[1] * Scheme(scheme).bits for scheme in arrays.scheme)
                // 8,
                "macs": macs,
                "cycles": taken,
                "utilisation": macs / (taken * config.macs_per_cycle) if taken else 0.0,
            }
        )
    return result


def bus_bytes_per_cycle(board: Board, config: AccelConfig) -> float:
    """Bytes per cycle of the accelerator's port, no more than the memory behind it gives."""
    port = config.bus_bits / 8
    if not board.memory.hp_ports:
        return port  # block RAM
    return min(port, board.memory.peak_bytes_per_second / config.clock_hz)


def _describe(node: IntegerNode) -> str:
    if not isinstance(node, Conv | MaxPool | AvgPool):
        return node.op
    stride = f", stride {node.stride[0]}" if max(node.stride) > 1 else ""
    groups = f", {node.groups} groups" if isinstance(node, Conv) and node.groups > 1 else ""
    return f"{node.op.replace('_', ' ')} {node.kernel[0]}x{node.kernel[1]}{stride}{groups}"


def _residual(node: IntegerNode) -> str | None:
    if isinstance(node, Mul):
        return node.factor
    residual = node.residual if isinstance(node, Conv | Linear) else None
    return residual.tensor if residual else None
