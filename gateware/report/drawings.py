# SPDX-License-Identifier: Apache-2.0
"""Geometry of the drawings on the page of a build: array, rows, network and roofline.

Numbers are pixels of SVG; the template gives them colours.
"""

import itertools
import math

SCHEMES = ("pot4", "fixed4", "fixed8")
CELL = 18  #: of a row lane
LANES_PER_LINE = 32
LABEL_WIDTH = 110  #: of a layer's name in the roofline


def array(lanes: dict[str, int]) -> list[dict]:
    """A cell for each row lane, with its scheme."""
    schemes = [name for name, count in lanes.items() for _ in range(count)]
    return [
        {
            "scheme": scheme,
            "x": CELL * (index % LANES_PER_LINE),
            "y": CELL * (index // LANES_PER_LINE),
        }
        for index, scheme in enumerate(schemes)
    ]


def runs(schemes: list[int] | None) -> list[dict]:
    """Neighbouring rows of one scheme as one."""
    runs, start = [], 0
    for scheme, rows in itertools.groupby(schemes or []):
        length = len(list(rows))
        runs.append({"scheme": SCHEMES[scheme], "start": start, "length": length})
        start += length
    return runs


def graph(layers: list[dict]) -> dict:
    """Nodes from top to bottom; edges that skip some of them go round on the right."""
    width, step, left = 300, 44, 10
    place = {layers[0]["input"]: 0}
    nodes = [{"name": "input", "shape": "", "x": left, "y": 6, "w": width, "runs": []}]
    edges = []
    for index, layer in enumerate(layers, 1):
        y, counts = 6 + step * index, [0] * len(SCHEMES)
        for scheme in layer["schemes"] or []:
            counts[scheme] += 1
        x, runs = float(left), []
        for name, count in zip(SCHEMES, counts, strict=True):
            if count:
                share = width * count / sum(counts)
                runs.append({"scheme": name, "x": round(x, 1), "w": round(share, 1)})
                x += share
        nodes.append(
            {
                "name": layer["name"],
                "shape": "x".join(map(str, layer["shape"])),
                "x": left,
                "y": y,
                "w": width,
                "runs": runs,
            }
        )
        for tensor, residual in ((layer["input"], False), (layer["residual"], True)):
            if tensor in place:
                edges.append(
                    {"path": _edge(place[tensor], index, left, width, step), "residual": residual}
                )
        place[layer["output"]] = index
    return {
        "nodes": nodes,
        "edges": edges,
        "width": left + width + 70,
        "height": 6 + step * len(nodes),
    }


def _edge(source: int, target: int, left: int, width: int, step: int) -> str:
    if target == source + 1:
        x = left + width // 2
        return f"M{x} {6 + step * source + 28} V{6 + step * target}"
    right, bulge = left + width, min(60, 14 + 8 * (target - source))
    start, end = 6 + step * source + 14, 6 + step * target + 10
    return f"M{right} {start} C{right + bulge} {start} {right + bulge} {end} {right} {end}"


def roofline(report: dict, layers: list[dict]) -> dict:
    """Layers with weights over MACs per byte and MACs per cycle, both logarithmic."""
    peak, bandwidth = report["macs_per_cycle"], report["bus_bytes_per_cycle"]
    points = [
        (layer["name"], layer["macs"] / layer["weight_bytes"], layer["macs"] / layer["cycles"])
        for layer in layers
        if layer["weight_bytes"] and layer["cycles"]
    ]
    ridge = peak / bandwidth
    xs = [x for _, x, _ in points] + [ridge]
    x0, x1 = math.floor(math.log2(min(xs))) - 1, math.ceil(math.log2(max(xs))) + 1
    ys = [y for _, _, y in points] + [peak]
    y0, y1 = math.floor(math.log2(min(ys))), math.ceil(math.log2(max(ys)))

    def at_x(value: float) -> float:
        return round(50 + 390 * (math.log2(value) - x0) / (x1 - x0), 1)

    def at_y(value: float) -> float:
        return round(280 - 260 * (math.log2(value) - y0) / max(1, y1 - y0), 1)

    corner = max(2.0**x0, 2.0**y0 / bandwidth)
    roof = [(corner, corner * bandwidth), (ridge, peak), (2.0**x1, peak)]
    return {
        "x_ticks": [{"at": at_x(2.0**e), "label": f"{2.0**e:g}"} for e in range(x0, x1 + 1)],
        "y_ticks": [{"at": at_y(2.0**e), "label": f"{2.0**e:g}"} for e in range(y0, y1 + 1)],
        "roof": " ".join(f"{at_x(x)},{at_y(y)}" for x, y in roof),
        "points": _labelled(
            [
                {
                    "name": f"{name}: {x:.1f} MACs per byte, {y:.1f} per cycle",
                    "label": name,
                    "x": at_x(x),
                    "y": at_y(y),
                }
                for name, x, y in points
            ]
        ),
        "bytes": f"{bandwidth:g}",
    }


def _labelled(points: list[dict]) -> list[dict]:
    """``points`` with ``label_y``, where no name lies on that of a neighbour."""
    placed: list[dict] = []
    for point in sorted(points, key=lambda point: point["y"]):
        near = [other["label_y"] for other in placed if abs(other["x"] - point["x"]) < LABEL_WIDTH]
        placed.append(point | {"label_y": max([point["y"] + 3, *(y + 10 for y in near)])})
    return placed
