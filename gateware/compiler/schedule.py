# SPDX-License-Identifier: Apache-2.0
"""Edge colouring, and what the compiler uses it for: row tiles and drain slots.

Both are one question: colour the edges of a bipartite multigraph so that no two edges of a colour
meet. Koenig's theorem says that as many colours as the largest degree suffice.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from gateware.arch.config import AccelConfig
from ir.numerics import Scheme


def colour_edges(edges: Sequence[tuple[int, int]]) -> list[int]:
    """Colour of each edge ``(left, right)``; edges that share an end differ in colour.

    Uses exactly as many colours as the largest degree. Parallel edges are allowed.
    """
    at_left: dict[int, dict[int, int]] = {}  # vertex -> colour -> edge
    at_right: dict[int, dict[int, int]] = {}
    colours = [-1] * len(edges)

    def free(used: dict[int, int]) -> int:
        return next(c for c in range(len(used) + 1) if c not in used)

    for index, (left, right) in enumerate(edges):
        mine, theirs = at_left.setdefault(left, {}), at_right.setdefault(right, {})
        a, b = free(mine), free(theirs)
        # Along the path from `right` that alternates a, b, swap the two colours: then a is free.
        if a not in theirs:
            b = a
        path, side, colour = [], theirs, a
        while b != a and colour in side:
            edge = side[colour]
            path.append(edge)
            ends = at_left[edges[edge][0]], at_right[edges[edge][1]]
            side = ends[0] if side is ends[1] else ends[1]
            colour = b if colour == a else a
        for edge in path:
            for table, end in ((at_left, 0), (at_right, 1)):
                vertex = table[edges[edge][end]]
                if vertex.get(colours[edge]) == edge:
                    del vertex[colours[edge]]
        for edge in path:
            colours[edge] = b if colours[edge] == a else a
            at_left[edges[edge][0]][colours[edge]] = edge
            at_right[edges[edge][1]][colours[edge]] = edge
        colours[index] = a
        mine[a] = theirs[a] = index
    return colours


@dataclasses.dataclass(frozen=True)
class Slot:
    """Results that leave in one cycle, as (engine lane, channel) pairs.

    At most one per requantiser and per nibble column.
    """

    results: tuple[tuple[int, int], ...]


def split_rows(schemes: Sequence[int], config: AccelConfig) -> list[list[int]]:
    """Row tiles of a layer: for each tile the row in every lane, -1 for an idle lane.

    The fewest tiles that the lanes allow. Each tile gets its share of every scheme and, as far as
    possible, of every nibble column and requantiser, so that its drain needs no more slots than it
    must.
    Raises ValueError naming a scheme that has rows but no lane.
    """
    tiles, seen, edges = 1, {}, []
    for scheme, lanes in zip(Scheme, config.lanes, strict=True):
        count = sum(s == scheme for s in schemes)
        if count and not lanes:
            raise ValueError(
                f"has {count} {scheme.name} rows, but the array has no {scheme.name} lane"
            )
        tiles = max(tiles, -(-count // max(lanes, 1)))
    # A vertex of more than `tiles` edges is cut into pieces, so that each tile takes at most one
    # edge of each piece and the tiles stay balanced.
    for channel, scheme in enumerate(schemes):
        ends = []
        for vertex in (("scheme", scheme), ("column", channel % config.k)):
            seen[vertex] = seen.get(vertex, 0) + 1
            ends.append((*vertex, (seen[vertex] - 1) // tiles))
        edges.append(tuple(ends))
    vertices = dict.fromkeys(vertex for edge in edges for vertex in edge)
    numbers = {vertex: i for i, vertex in enumerate(vertices)}
    colours = colour_edges([(numbers[left], numbers[right]) for left, right in edges])

    rows: list[dict[Scheme, list[int]]] = [{} for _ in range(tiles)]
    for channel, (scheme, tile) in enumerate(zip(schemes, colours, strict=True)):
        rows[tile].setdefault(Scheme(scheme), []).append(channel)
    return [_place_rows(of_scheme, config) for of_scheme in rows]


def _place_rows(rows: Mapping[Scheme, Sequence[int]], config: AccelConfig) -> list[int]:
    """Row in every lane of a tile, -1 for an idle lane: lanes whose requantisers have least to do.

    Schemes of few lanes choose first, because they have the fewest requantisers.
    """
    tile, load = [-1] * config.rows, [0] * config.requant_lanes
    for scheme in sorted(rows, key=lambda scheme: config.lanes[scheme]):
        first = sum(config.lanes[:scheme])
        free = list(range(first, first + config.lanes[scheme]))
        for channel in rows[scheme]:
            lane = min(free, key=lambda lane: (load[lane % config.requant_lanes], lane))
            free.remove(lane)
            tile[lane] = channel
            load[lane % config.requant_lanes] += 1
    return tile


def schedule_slots(lane_channels: Sequence[tuple[int, int]], config: AccelConfig) -> list[Slot]:
    """Drain slots for ``(engine lane, channel)`` results: the fewest possible.

    In each slot a requantiser (``lane % requant_lanes``) and a nibble column (``channel % k``)
    serve at most one result.
    """
    if not lane_channels:
        return []
    colours = colour_edges(
        [(lane % config.requant_lanes, channel % config.k) for lane, channel in lane_channels]
    )
    coloured = list(zip(lane_channels, colours, strict=True))
    return [
        Slot(tuple(pair for pair, colour in coloured if colour == slot))
        for slot in range(max(colours) + 1)
    ]
