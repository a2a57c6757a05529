# SPDX-License-Identifier: Apache-2.0
"""Random valid integer graphs for tests of every layer of the project.

``residual_graph(seed)`` is a small ResNet with every feature the accelerator must run;
``sequence_graph(seed)`` is an attention layer whose float operations :func:`sequence_host` does;
``random_graph(rng)`` is another shape every time; :class:`tests.helpers.builder.GraphBuilder` makes
a particular one.
"""

import dataclasses

import numpy as np

from ir import numerics
from ir.graph import (
    Header,
    Host,
    IntGraph,
    Window,
)
from tests.helpers.builder import INPUT, GraphBuilder
from tests.helpers.seeds import suite_rng


def random_images(graph: IntGraph, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """``count`` integer images for ``graph``, int64 (count, C, H, W), the extremes made likely."""
    spec = graph.tensor(graph.header.input)
    top = numerics.act_max(spec.bits)
    images = rng.integers(0, top, (count, *spec.shape), endpoint=True)
    return np.where(rng.random(images.shape) < 0.1, rng.choice([0, top], images.shape), images)


def random_windows(
    rng: np.random.Generator, size: int, count: int, *, mean: bool = False
) -> list[Window]:
    """Windows of an axis of ``size``: ``count`` of any place, or some at equal distances. Those of
    a mean may be empty, and count more places than there are."""
    if rng.integers(2):
        stride, length = int(rng.integers(1, 6)), int(rng.integers(1, min(size, 5), endpoint=True))
        return [
            Window(first=i, last=i + length, count=length)
            for i in range(0, size - length + 1, stride)
        ]
    found = []
    for _ in range(count):
        first = int(rng.integers(size))
        last = int(rng.integers(first + (not mean), size, endpoint=True))
        more = int(rng.integers(3)) if mean else 0
        found.append(Window(first=first, last=last, count=max(last - first, 1) + more))
    return found


def residual_block(image: tuple[int, int, int] = (3, 56, 56)) -> IntGraph:
    """A stem as large networks have it, and a residual block with a shortcut of 8 bits."""
    network = GraphBuilder(suite_rng(), image, bits=8)
    stem = network.conv(INPUT, 64, 7, stride=2, padding=3)
    pool = network.max_pool(stem, 3, stride=2, padding=(1, 1, 1, 1))
    shortcut = network.conv(pool, 128, 1, stride=2, bits=8)
    inner = network.conv(pool, 128, 3, stride=2, padding=1)
    last = network.conv(inner, 128, 3, padding=1, residual=shortcut)
    network.linear(network.flatten(network.avg_pool(last)), 40, wide=True)
    return network.build()


def residual_graph(
    seed: int,
    channels: int = 16,
    size: int = 8,
    classes: int = 10,
    ratio: str = "50:25:25",
    tile_rows: int = 16,
) -> IntGraph:
    """A ResNet of two blocks, one with a strided shortcut of 8 bits; 8-bit image, wide logits."""
    build = GraphBuilder(
        np.random.default_rng(seed), (3, size, size), bits=8, ratio=ratio, tile_rows=tile_rows
    )
    stem = build.conv(INPUT, channels)
    pooled = build.max_pool(stem, 3, stride=1, padding=(1, 1, 1, 1))
    inner = build.conv(pooled, channels)
    first = build.conv(inner, channels, residual=pooled)
    shortcut = build.conv(first, 2 * channels, 1, stride=2, bits=8)
    inner = build.conv(first, 2 * channels, stride=2, padding=1)
    second = build.conv(inner, 2 * channels, residual=shortcut)
    build.linear(build.flatten(build.avg_pool(second)), classes, wide=True)
    return build.build(f"residual-{seed}")


def edited(graph: IntGraph, tensors=None, nodes=None, layers=None, **header) -> IntGraph:
    """``graph`` built again: ``tensors`` and ``nodes`` map a name to fields that change."""
    content = graph.header.model_dump(mode="json")
    for part, changes in (("tensors", tensors or {}), ("nodes", nodes or {})):
        for entry in content[part]:
            entry.update(changes.get(entry["name"], {}))
    new = dict(graph.layers)
    for name, fields in (layers or {}).items():
        new[name] = dataclasses.replace(new[name], **fields)
    return IntGraph(Header.model_validate(content | header), new)


TOKENS = 20  #: different ones that sequence_graph takes


def sequence_graph(seed: int, channels: int = 8, length: int = 5, classes: int = 3) -> IntGraph:
    """Embedding, attention of one head, a sum and a classifier, as ``sequence_host`` knows them."""
    build = GraphBuilder(np.random.default_rng(seed), ("tokens", "mask"))
    shape = (channels, length, 1)
    x = build.host(("tokens",), shape, keeps=("stream",), ops=("embedding",), zero_point=7)
    query, value = (build.conv(x, channels, 1, bits=8, wide=True) for _ in range(2))
    y = build.host((query, x, value, "mask"), shape, ops=("matmul", "softmax"), zero_point=8)
    z = build.conv(y, channels, 1, bits=8, wide=True)
    pooled = build.host(
        (z, "stream"), (channels, 1, 1), ops=("add", "tanh"), bits=8, zero_point=128
    )
    build.linear(pooled, classes, bits=8, wide=True)
    return build.build(f"sequence-{seed}")


def random_tokens(
    graph: IntGraph, rng: np.random.Generator, count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs for ``graph``, a sequence graph: int64 (count, length) tokens, and their mask."""
    length = next(spec.shape[1] for spec in graph.header.tensors)
    tokens = rng.integers(0, TOKENS, (count, length))
    return tokens, (np.arange(length) < rng.integers(1, length + 1, (count, 1))).astype(np.int64)


def sequence_host(node: Host, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The float operations of :func:`sequence_graph`; vectors are (N, C, length, 1)."""
    parts = list(given.values())
    if "embedding" in node.ops:
        channels = np.arange(1, 9, dtype=np.float32)[:, None]
        stream = np.cos(channels * parts[0][:, None] / 3)[..., None].astype(np.float32)
        return {node.outputs[0]: stream, "stream": stream}
    if "softmax" in node.ops:
        query, key, value = (part[..., 0] for part in parts[:3])
        scores = np.einsum("ncq,nck->nqk", query, key) + np.where(parts[3], 0, -1e4)[:, None]
        weights = np.exp(scores - scores.max(2, keepdims=True))
        mixed = np.einsum("nqk,nck->ncq", weights / weights.sum(2, keepdims=True), value)
        return {node.outputs[0]: mixed[..., None].astype(np.float32)}
    return {node.outputs[0]: np.tanh(parts[0] + parts[1])[:, :, :1]}


def random_gathers(rng: np.random.Generator, ratio: str) -> IntGraph:
    """A network with two random Gathers, of several tensors of one grid."""
    bits, zero = int(rng.choice([4, 8])), 0
    zero = int(rng.integers(1 << bits))
    height, width = (int(n) for n in rng.integers(2, 9, 2))
    builder = GraphBuilder(rng, (3, height, width), ratio=ratio)
    first = builder.conv(INPUT, int(rng.integers(1, 40)), 1, bits=bits, zero_point=zero)
    tensors = [first]
    for _ in range(rng.integers(3)):
        other = builder.conv(INPUT, int(rng.integers(1, 40)), 3, bits=bits, zero_point=zero)
        tensors.append(builder.on_grid(other, first))
    for _ in range(2):
        chosen = tuple(str(t) for t in rng.choice(tensors, int(rng.integers(1, 4))))
        channels = sum(builder.tensors[t].shape[0] for t in chosen)
        picks = rng.integers(-1, channels, int(rng.integers(1, 50)))
        stride = tuple(int(s) for s in rng.integers(1, 3, 2)) if len(tensors) < 3 else (1, 1)
        made = builder.gather(chosen, picks.tolist(), stride=stride)
        tensors = [t for t in tensors if stride == (1, 1)] + [made]
    last = builder.conv(tensors[-1], 5, 1, bits=bits)
    return builder.build(outputs=(last, made))


def random_graph(
    rng: np.random.Generator, layers: int = 4, channels: int = 6, size: int = 8
) -> IntGraph:
    """``layers`` random nodes on up to ``channels`` channels, then perhaps a classifier."""
    shape = (int(rng.integers(1, channels + 1)), *(int(v) for v in rng.integers(3, size + 1, 2)))
    build = GraphBuilder(rng, shape, bits=int(rng.choice([4, 8])), zero_point=int(rng.integers(16)))
    last = INPUT
    for _ in range(layers):
        last = _random_node(build, rng, last, channels)
    if rng.random() < 0.7:
        if rng.random() < 0.7:
            last = build.avg_pool(last, bits=int(rng.choice([4, 8])))
        build.linear(build.flatten(last), int(rng.integers(1, 12)), wide=bool(rng.random() < 0.7))
    return build.build()


def _random_node(build: GraphBuilder, rng: np.random.Generator, source: str, channels: int) -> str:
    depth, height, width = build.tensors[source].shape
    kind = rng.choice(
        ["conv", "grouped", "residual", "max_pool", "avg_pool"], p=[0.4, 0.15, 0.25, 0.1, 0.1]
    )
    if kind == "max_pool" and min(height, width) >= 3:
        kernel = int(rng.integers(2, 4))
        return build.max_pool(
            source,
            kernel,
            stride=int(rng.integers(1, 3)),
            padding=tuple(int(v) for v in rng.integers(0, kernel, 4)),
        )
    if kind == "avg_pool" and min(height, width) >= 3:
        return build.avg_pool(source, 2, stride=1, bits=int(rng.choice([4, 8])))
    out = {"bits": int(rng.choice([4, 8])), "zero_point": int(rng.integers(6))}
    if kind == "residual":
        same = [t.name for t in build.tensors.values() if t.shape == (depth, height, width)]
        return build.conv(
            source, depth, int(rng.choice([1, 3])), residual=str(rng.choice(same)), **out
        )
    kernel = tuple(int(v) for v in rng.integers(1, min(3, height, width) + 1, 2))
    geometry = {
        "stride": tuple(int(v) for v in rng.integers(1, 3, 2)),
        "padding": tuple(int(v) for v in rng.integers(0, 3, 4)),
    }
    if kind == "grouped":
        return build.conv(
            source, depth * int(rng.integers(1, 3)), kernel, groups=depth, **geometry, **out
        )
    return build.conv(source, int(rng.integers(1, channels + 1)), kernel, **geometry, **out)


def several_outputs(rng: np.random.Generator, ratio: str = "50:25:25") -> IntGraph:
    """Outputs of all kinds: raw and codes, read inside and not, of one pixel and of many."""
    build = GraphBuilder(rng, (3, 8, 11), bits=8, ratio=ratio)
    body = build.conv(INPUT, 6)
    head = build.conv(body, 7, 1, wide=True)
    pooled = build.max_pool(body)
    other = build.conv(pooled, 19, 3, stride=(1, 2), wide=True)
    logits = build.linear(build.flatten(build.avg_pool(pooled)), 9, wide=True)
    return build.build(outputs=(logits, body, other, head, pooled))


def bordered(rng: np.random.Generator, ratio: str = "50:25:25") -> IntGraph:
    """Layers that read an image with a border of its own codes, one or several of them."""
    channels, height, width = (
        int(rng.integers(1, 5)),
        int(rng.integers(6, 14)),
        int(rng.integers(6, 20)),
    )
    build = GraphBuilder(rng, (channels, height, width), bits=8, ratio=ratio)
    heads = []
    for _ in range(int(rng.integers(1, 4))):
        kernel, stride = int(rng.integers(1, 6)), int(rng.integers(1, 3))
        padding = tuple(map(int, rng.integers(0, 4, 4)))
        groups = channels if rng.random() < 0.2 else 1
        rows = groups * int(rng.integers(1, 9))
        x = build.conv(INPUT, rows, kernel, stride=stride, padding=padding, groups=groups)
        heads.append(build.conv(x, 3, 1, wide=True))
    border = tuple(map(int, rng.integers(0, 256, channels)))
    return build.build(outputs=tuple(heads), border=border)


def random_blocks(rng: np.random.Generator, ratio: str) -> IntGraph:
    """A network whose pixels become blocks, in two random ways, and a layer of a large stride."""
    bits = int(rng.choice([4, 8]))
    down, across, groups = (int(n) for n in rng.integers(1, 4, 3))
    height, width = (int(n) for n in rng.integers(2, 5, 2))
    channels = int(rng.choice([1, 5, 16, 20]))
    builder = GraphBuilder(rng, (3, height, width), ratio=ratio)
    x = builder.conv(
        INPUT, down * across * channels, 3, bits=bits, zero_point=int(rng.integers(1 << bits))
    )
    if rng.integers(2):
        builder.conv(x, 4, 1)
    crop = int(rng.integers(down)), int(rng.integers(across))
    y = builder.depth_to_space(x, (down, across), crop)
    if rng.integers(2):
        block = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    else:
        y, block = INPUT, (down, across)
    border = tuple(int(rng.integers(side + 1)) for side in block)
    y = builder.upsample(y, block, (border[0], border[1]))
    z = builder.conv(y, 6 * groups, 3, stride=int(rng.integers(3, 7)))
    builder.linear(builder.flatten(z), 4, wide=True)
    return builder.build(outputs=(list(builder.tensors)[-1], y))
