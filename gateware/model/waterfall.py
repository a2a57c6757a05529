# SPDX-License-Identifier: Apache-2.0
"""Waterfall of a network's cycles: from its multiplications to the whole run, cause by cause."""

from collections.abc import Sequence

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Opcode
from gateware.compiler.hybrid import Compiled
from gateware.compiler.program import Program
from gateware.model.timeline import Timeline
from gateware.model.work import layer_macs
from ir.graph import Conv, IntGraph

#: Causes in the order of the waterfall, and what each is.
CAUSES = {
    "arithmetic": "the multiplications of the network, every multiplier at work",
    "padding": "what fills up words, tiles and pixel groups; second planes of 8 bits",
    "depthwise": "depthwise layers, whose words use one channel of 16, and passes of pooling",
    "drain": "sums that wait for the requantisers",
    "loads": "waits for weights, slots and tensors from memory",
    "stores": "waits for results to be in memory",
    "results": "waits for results of the tile before, and the last ones of all",
    "fetch": "descriptors: their fetch, their dispatch and the array's setup",
}
_WAITS = {"loads": "loads", "stores": "stores", "executes": "results"}


def waterfall(
    graph: IntGraph, compiled: Sequence[Compiled], beats_per_cycle: float | None = None
) -> dict[str, int]:
    """Cycles of a run by cause, estimated; together those of the run.

    Parameters
    ----------
    graph : IntGraph
        What was compiled.
    compiled : sequence of Compiled
        Its programs, which run one after the other.
    beats_per_cycle : float
        What the memory gives to all ports together; by default a beat to each.
    """
    total: dict[str, int] = dict.fromkeys(CAUSES, 0)
    for one in compiled:
        for cause, cycles in _program(graph, one, beats_per_cycle).items():
            total[cause] += cycles
    return total


def _program(graph: IntGraph, one: Compiled, beats_per_cycle: float | None) -> dict[str, int]:
    program, found = one.program, dict.fromkeys(CAUSES, 0)
    timeline = Timeline(program.config, program.image, beats_per_cycle)
    layers, alone = _layers(program), _alone(graph)
    last_word = 0
    for index, descriptor in enumerate(isa.descriptors(program.image)):
        if descriptor.opcode is not Opcode.EXECUTE:
            continue
        span = timeline.spans[index]
        gap = span.begin - last_word
        setup = min(gap, timeline.dispatch)
        found["fetch"] += setup
        found[_WAITS.get(span.reason, "fetch")] += gap - setup
        found["drain"] += span.drain
        pool, depthwise = descriptor.fields["pool"], layers[index] in alone
        found["depthwise" if pool or depthwise else "padding"] += span.words
        last_word = span.begin + span.words + span.drain
    stored = max(span.end for span in timeline.spans)
    drained = min(stored, timeline.last_result)
    found["results"] += drained - last_word
    found["stores"] += stored - drained
    found["fetch"] += timeline.cycles - stored
    _arithmetic(found, graph, set(layers), alone, program.config, program.batch)
    return found


def _arithmetic(
    found: dict[str, int],
    graph: IntGraph,
    layers: set[str],
    alone: set[str],
    config: AccelConfig,
    batch: int,
) -> None:
    """Out of the words of layers, the cycles that their multiplications would take."""
    for name in layers & set(graph.layers):
        ideal = round(batch * layer_macs(graph, name) / config.macs_per_cycle)
        found["arithmetic"] += ideal
        found["depthwise" if name in alone else "padding"] -= ideal


def _layers(program: Program) -> list[str]:
    """Layer of each descriptor."""
    names = [""] * (1 + max(segment.last for segment in program.segments))
    for segment in program.segments:
        names[segment.first : segment.last] = [segment.layer] * (segment.last - segment.first)
    return names


def _alone(graph: IntGraph) -> set[str]:
    """Layers whose channels are computed one by one, or few by few."""
    return {node.name for node in graph.nodes if isinstance(node, Conv) and node.groups > 1}
