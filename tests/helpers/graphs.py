# SPDX-License-Identifier: Apache-2.0
"""Random valid integer graphs for tests of every layer of the project.

``residual_graph(seed)`` is a small ResNet with every feature the accelerator must run;
``sequence_graph(seed)`` is an attention layer whose float operations :func:`sequence_host` does;
``random_graph(rng)`` is another shape every time; :class:`GraphBuilder` makes a particular one.
Multipliers and biases are chosen so that most outputs lie inside the clamp, not on its edges.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ir import numerics
from ir.graph import (
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Gather,
    Header,
    Host,
    IntGraph,
    LayerArrays,
    Linear,
    MaxPool,
    Mul,
    Output,
    Residual,
    TensorSpec,
    Upsample,
    Window,
    WindowPool,
)
from ir.numerics import Scheme
from ir.ratio import Ratio
from tests.helpers.seeds import suite_rng

INPUT = "image"
MAX_REAL = 3.5  #: largest multiplier used; numerics.encode_multiplier takes less than 4


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


class GraphBuilder:
    """Adds one node per call; each method returns the name of the tensor it made.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple
        Channels, height and width of the input, whose tensor is called ``image``; or the names of
        the host inputs of a graph that begins on the host.
    bits, zero_point : int
        Of the input.
    ratio, tile_rows
        How the rows of every layer are shared among the schemes, in a random order.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int, int] | tuple[str, ...],
        *,
        bits: int = 4,
        zero_point: int = 0,
        ratio: str = "50:25:25",
        tile_rows: int = 16,
    ) -> None:
        self.rng = rng
        self.ratio = Ratio.parse(ratio)
        self.tile_rows = tile_rows
        self.host_inputs = shape if isinstance(shape[0], str) else ()
        self.tensors = {}
        if not self.host_inputs:
            self.tensors[INPUT] = TensorSpec(
                name=INPUT, shape=shape, bits=bits, scale=1 / 16, zero_point=zero_point
            )
        self.nodes: list = []
        self.layers: dict[str, LayerArrays] = {}
        self.tables: dict[str, np.ndarray] = {}

    def conv(
        self,
        source: str,
        rows: int,
        kernel=3,
        *,
        stride=1,
        padding=None,
        groups: int = 1,
        bits: int = 4,
        zero_point: int = 0,
        residual: str | None = None,
        wide: bool = False,
        table: bool = False,
    ) -> str:
        """A convolution; ``kernel`` and ``stride`` are numbers or pairs, ``padding`` a number or
        (top, bottom, left, right), by default what keeps the size at stride 1."""
        kernel, stride = _pair(kernel), _pair(stride)
        if padding is None:
            padding = (kernel[0] // 2, (kernel[0] - 1) // 2, kernel[1] // 2, (kernel[1] - 1) // 2)
        padding = (padding,) * 4 if isinstance(padding, int) else padding
        shape = self._window(source, kernel, stride, padding)
        name, node = self._gemm(
            "conv",
            source,
            (rows, self.tensors[source].shape[0] // groups, *kernel),
            (rows, *shape),
            bits,
            zero_point,
            residual,
            wide,
            table,
        )
        self.nodes.append(
            Conv(**node, kernel=kernel, stride=stride, padding=padding, groups=groups)
        )
        return name

    def linear(
        self, source: str, rows: int, *, wide: bool = False, bits: int = 4, zero_point: int = 0
    ) -> str:
        """A linear layer over a flat tensor; a wide one gives logits of about -1..1."""
        name, node = self._gemm(
            "linear",
            source,
            (rows, self.tensors[source].shape[0]),
            (rows, 1, 1),
            bits,
            zero_point,
            None,
            wide,
        )
        self.nodes.append(Linear(**node))
        return name

    def host(
        self,
        inputs: tuple[str, ...],
        shape: tuple[int, int, int],
        *,
        keeps: tuple[str, ...] = (),
        ops: tuple[str, ...] = (),
        bits: int = 4,
        zero_point: int = 0,
    ) -> str:
        """A host node that gives one tensor, of a scale that suits values in -1..1."""
        name = self._tensor("host", shape, bits, zero_point, 2 / numerics.act_max(bits))
        self.nodes.append(Host(name=name, inputs=inputs, outputs=(name,), keeps=keeps, ops=ops))
        return name

    def max_pool(self, source: str, kernel=2, *, stride=2, padding=(0, 0, 0, 0)) -> str:
        spec, kernel, stride = self.tensors[source], _pair(kernel), _pair(stride)
        shape = (spec.shape[0], *self._window(source, kernel, stride, padding))
        name = self._tensor("max_pool", shape, spec.bits, spec.zero_point, spec.scale)
        self.nodes.append(
            MaxPool(
                name=name, input=source, output=name, kernel=kernel, stride=stride, padding=padding
            )
        )
        return name

    def avg_pool(
        self, source: str, kernel=None, *, stride=None, bits: int = 8, table: bool = False
    ) -> str:
        """Over the whole image unless ``kernel`` says otherwise."""
        channels, height, width = self.tensors[source].shape
        kernel = (height, width) if kernel is None else _pair(kernel)
        stride = kernel if stride is None else _pair(stride)
        shape = (channels, *self._window(source, kernel, stride, (0, 0, 0, 0)))
        name = self._tensor("avg_pool", shape, bits)
        top_in, top_out = (numerics.act_max(self.tensors[t].bits) for t in (source, name))
        top_out = numerics.act_max(numerics.TABLE_BITS) if table else top_out
        real = top_out / (kernel[0] * kernel[1] * top_in)
        multiplier, shift = numerics.encode_multiplier(min(real, MAX_REAL))
        self.nodes.append(
            AvgPool(
                name=name,
                input=source,
                output=name,
                kernel=kernel,
                stride=stride,
                multiplier=multiplier,
                bias=1 << shift - 1,
                shift=shift,
                high=top_out,
                table=self._table(name) if table else None,
            )
        )
        return name

    def window_pool(
        self,
        source: str,
        rows: list[Window],
        columns: list[Window],
        *,
        mean: bool = False,
        steps: int = 1,
    ) -> str:
        """Maxima, or means of 8 bits, over windows of any place."""
        spec, shape = self.tensors[source], (len(rows), len(columns))
        steps = steps if mean else 1
        name = self._tensor(
            "window_pool",
            (spec.shape[0], *shape),
            8 if mean else spec.bits,
            spec.zero_point * steps,
            spec.scale,
        )
        self.nodes.append(
            WindowPool(
                name=name,
                input=source,
                output=name,
                mean=mean,
                rows=tuple(rows),
                columns=tuple(columns),
                steps=steps,
                high=numerics.act_max(8),
            )
        )
        return name

    def mul(
        self, source: str, factor: str, *, bits: int = 4, zero_point: int = 0, table: bool = True
    ) -> str:
        """A product with a tensor of the same shape, or with a value for each channel."""
        name = self._tensor("mul", self.tensors[source].shape, bits, zero_point)
        most = numerics.act_max(numerics.TABLE_BITS if table else bits)
        spans = [numerics.act_max(self.tensors[t].bits) for t in (source, factor)]
        zeros = [self.tensors[t].zero_point for t in (source, factor)]
        ends = [(a - zeros[0]) * (f - zeros[1]) for a in (0, spans[0]) for f in (0, spans[1])]
        shift = max(
            numerics.PRODUCT_SHIFT_MIN, ((max(ends) - min(ends)) // (most + 1)).bit_length() - 1
        )
        self.nodes.append(
            Mul(
                name=name,
                input=source,
                factor=factor,
                output=name,
                bias=int(self.rng.integers(1 << shift)) - min(ends),
                shift=shift,
                high=most,
                table=self._table(name) if table else None,
            )
        )
        return name

    def _table(self, name: str) -> str:
        """A random table for the codes of tensor ``name``."""
        most = numerics.act_max(self.tensors[name].bits)
        size = numerics.TABLE_SIZE
        self.tables[name] = self.rng.integers(0, most, size, np.uint8, endpoint=True)
        return name

    def gather(
        self, sources: tuple[str, ...], picks: Sequence[int], *, stride: tuple[int, int] = (1, 1)
    ) -> str:
        """Channels of tensors of one grid, -1 for zeros."""
        spec = self.tensors[sources[0]]
        height, width = (-(-spec.shape[i + 1] // stride[i]) for i in (0, 1))
        shape = (len(picks), height, width)
        name = self._tensor("gather", shape, spec.bits, spec.zero_point, spec.scale)
        self.nodes.append(
            Gather(name=name, inputs=sources, output=name, picks=tuple(picks), stride=stride)
        )
        return name

    def depth_to_space(
        self, source: str, block: tuple[int, int], crop: tuple[int, int] = (0, 0)
    ) -> str:
        """Phases of ``source`` as pixels."""
        channels, height, width = self.tensors[source].shape
        shape = (
            channels // (block[0] * block[1]),
            height * block[0] - crop[0],
            width * block[1] - crop[1],
        )
        return self._blocks(DepthToSpace, source, shape, block=block, crop=crop)

    def upsample(
        self, source: str, block: tuple[int, int], border: tuple[int, int] = (0, 0)
    ) -> str:
        """Each pixel of ``source`` several times."""
        channels, height, width = self.tensors[source].shape
        shape = channels, height * block[0] + 2 * border[0], width * block[1] + 2 * border[1]
        return self._blocks(Upsample, source, shape, block=block, border=border)

    def _blocks(
        self,
        kind: type[DepthToSpace | Upsample],
        source: str,
        shape: tuple[int, int, int],
        **options: tuple[int, int],
    ) -> str:
        spec = self.tensors[source]
        name = self._tensor("blocks", shape, spec.bits, spec.zero_point, spec.scale)
        self.nodes.append(kind(name=name, input=source, output=name, **options))
        return name

    def on_grid(self, source: str, other: str) -> str:
        """Tensor ``source``, with the grid of ``other`` from now on."""
        grid = {k: getattr(self.tensors[other], k) for k in ("bits", "scale", "zero_point")}
        self.tensors[source] = self.tensors[source].model_copy(update=grid)
        return source

    def flatten(self, source: str) -> str:
        spec = self.tensors[source]
        name = self._tensor(
            "flatten", (int(np.prod(spec.shape)), 1, 1), spec.bits, spec.zero_point, spec.scale
        )
        self.nodes.append(Flatten(name=name, input=source, output=name))
        return name

    def build(
        self,
        name: str = "random",
        outputs: tuple[str, ...] = (),
        border: tuple[int, ...] = (),
    ) -> IntGraph:
        """The graph whose outputs are ``outputs``, by default the last tensor made."""
        last = list(self.tensors)[-1]
        for node in self.nodes:
            if getattr(node, "wide", False) and node.output in (outputs or (last,)):
                self.layers[node.output] = _share_shift(self.layers[node.output])
                self._step(node.output)
        header = Header(
            name=name,
            tensors=tuple(self.tensors.values()),
            nodes=tuple(self.nodes),
            input=None if self.host_inputs else INPUT,
            host_inputs=self.host_inputs,
            border=border,
            outputs=tuple(Output(tensor=name) for name in outputs or (last,)),
            ratio=str(self.ratio),
            tile_rows=self.tile_rows,
            provenance={"made by": "tests/helpers/graphs.py"},
        )
        return IntGraph(header, self.layers, self.tables)

    def _step(self, name: str) -> None:
        """Give a wide tensor its scale."""
        scale = 2.0 ** -int(self.layers[name].shift.max())
        self.tensors[name] = self.tensors[name].model_copy(update={"scale": scale})

    def _window(self, source: str, kernel, stride, padding) -> tuple[int, int]:
        _, height, width = self.tensors[source].shape
        return (
            (height + padding[0] + padding[1] - kernel[0]) // stride[0] + 1,
            (width + padding[2] + padding[3] - kernel[1]) // stride[1] + 1,
        )

    def _tensor(
        self,
        kind: str,
        shape: tuple[int, int, int],
        bits: int,
        zero_point: int = 0,
        scale: float | None = None,
    ) -> str:
        name = f"{kind}{len(self.nodes)}"
        scale = float(self.rng.uniform(0.01, 0.2)) if scale is None else scale
        self.tensors[name] = TensorSpec(
            name=name, shape=shape, bits=bits, scale=scale, zero_point=zero_point
        )
        return name

    def _gemm(
        self,
        kind: str,
        source: str,
        shape: tuple[int, ...],
        out: tuple[int, int, int],
        bits: int,
        zero_point: int,
        residual: str | None,
        wide: bool,
        table: bool = False,
    ) -> tuple[str, dict]:
        """Random arrays of one layer, and the fields that conv and linear nodes share."""
        name = self._tensor(kind, out, bits, zero_point)
        low, high = zero_point, numerics.act_max(bits)
        if table:
            low, high = 0, numerics.act_max(numerics.TABLE_BITS)
        spread, centre = (2, 0.0) if wide else (high - low, (low + high) / 2)
        node = None
        if residual is not None:
            top = numerics.act_max(self.tensors[residual].bits)
            real = min(self.rng.uniform(0.1, 0.9) * high / top, MAX_REAL)
            node = Residual(tensor=residual, n=numerics.encode_residual(real))
            centre -= real * top / 2
        counts = self.ratio.rows(shape[0], self.tile_rows)
        scheme = self.rng.permutation(np.repeat(np.arange(len(Scheme)), counts))
        values = np.stack(
            [self.rng.choice(numerics.weight_values(Scheme(s)), shape[1:]) for s in scheme]
        )
        _fit_accumulator(values.reshape(len(values), -1), self.tensors[source].bits)
        self.layers[name] = _requantisation(
            self.rng,
            values,
            scheme,
            self.tensors[source].bits,
            spread * self.rng.uniform(0.2, 0.5),
            centre,
        )
        if wide:
            self._step(name)
        return name, {
            "name": name,
            "input": source,
            "output": name,
            "low": low,
            "high": high,
            "residual": node,
            "wide": wide,
            "table": self._table(name) if table else None,
        }


def _requantisation(
    rng: np.random.Generator,
    values: np.ndarray,
    scheme: np.ndarray,
    bits: int,
    spread: float,
    centre: float,
) -> LayerArrays:
    """M, B and S that map sums of random activations to about ``centre`` +- ``spread``."""
    rows, top = values.reshape(len(values), -1), numerics.act_max(bits)
    multiplier, bias, shift = [], [], []
    for row in rows:
        deviation = max(float(np.sqrt((row**2).sum() / 12)) * top, 1.0)
        real = min(spread / deviation * rng.uniform(0.5, 1.5), MAX_REAL)
        m, s = numerics.encode_multiplier(real)
        mean = int(row.sum()) * top // 2
        multiplier.append(m)
        shift.append(s)
        bias.append((1 << s - 1) + round(centre * 2**s) - mean * m)
    return LayerArrays(values=values, scheme=scheme, multiplier=multiplier, bias=bias, shift=shift)


def _fit_accumulator(rows: np.ndarray, bits: int) -> None:
    """Zero the second half of rows that could leave the accumulator, until they cannot."""
    terms = rows.shape[1]
    while True:
        low, high = numerics.acc_bounds(rows, numerics.act_max(bits))
        too_large = np.maximum(-low, high) >= 1 << numerics.ACC_BITS - 1
        if not too_large.any():
            return
        terms //= 2
        rows[too_large, terms:] = 0


def _share_shift(layer: LayerArrays) -> LayerArrays:
    """The same layer with the smallest shift for all rows, as logits need it."""
    shift = layer.shift.min()
    down = layer.shift - shift
    return LayerArrays(
        values=layer.values,
        scheme=layer.scheme,
        multiplier=layer.multiplier >> down,
        bias=layer.bias >> down,
        shift=np.full_like(layer.shift, shift),
    )


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


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
