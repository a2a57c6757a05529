# SPDX-License-Identifier: Apache-2.0
"""Random valid integer graphs for tests of every layer of the project.

``residual_graph(seed)`` is a small ResNet with every feature the accelerator must run;
``random_graph(rng)`` is another shape every time; :class:`GraphBuilder` makes a particular one.
Multipliers and biases are chosen so that most outputs lie inside the clamp, not on its edges.
"""

import numpy as np

from quant import numerics
from quant.intgraph import (
    AvgPool,
    Conv,
    Flatten,
    Header,
    IntGraph,
    LayerArrays,
    Linear,
    MaxPool,
    Residual,
    TensorSpec,
)
from quant.numerics import Scheme
from quant.ratio import Ratio

INPUT = "image"
MOST_REAL = 3.5     #: largest multiplier used; numerics.encode_multiplier takes less than 4


def random_images(graph: IntGraph, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """``count`` integer images for ``graph``, int64 (count, C, H, W), the extremes made likely."""
    spec = graph.tensor(graph.header.input)
    top = numerics.act_max(spec.bits)
    images = rng.integers(0, top, (count, *spec.shape), endpoint=True)
    return np.where(rng.random(images.shape) < 0.1, rng.choice([0, top], images.shape), images)


class GraphBuilder:
    """Adds one node per call; each method returns the name of the tensor it made.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple
        Channels, height and width of the input, whose tensor is called ``image``.
    bits, zero_point : int
        Of the input.
    ratio, tile_rows
        How the rows of every layer are shared among the schemes, in a random order.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int, int], *, bits: int = 4,
                 zero_point: int = 0, ratio: str = "50:25:25", tile_rows: int = 16) -> None:
        self.rng = rng
        self.ratio = Ratio.parse(ratio)
        self.tile_rows = tile_rows
        self.tensors = {INPUT: TensorSpec(name=INPUT, shape=shape, bits=bits, scale=1 / 16,
                                          zero_point=zero_point)}
        self.nodes: list = []
        self.layers: dict[str, LayerArrays] = {}

    def conv(self, source: str, rows: int, kernel=3, *, stride=1, padding=None, groups: int = 1,
             bits: int = 4, zero_point: int = 0, residual: str | None = None) -> str:
        """A convolution; ``kernel`` and ``stride`` are numbers or pairs, ``padding`` a number or
        (top, bottom, left, right), by default what keeps the size at stride 1."""
        kernel, stride = _pair(kernel), _pair(stride)
        if padding is None:
            padding = (kernel[0] // 2, (kernel[0] - 1) // 2, kernel[1] // 2, (kernel[1] - 1) // 2)
        padding = (padding,) * 4 if isinstance(padding, int) else padding
        shape = self._window(source, kernel, stride, padding)
        name, node = self._gemm(
            "conv", source, (rows, self.tensors[source].shape[0] // groups, *kernel),
            (rows, *shape), bits, zero_point, residual)
        self.nodes.append(Conv(**node, kernel=kernel, stride=stride, padding=padding,
                               groups=groups))
        return name

    def linear(self, source: str, rows: int, *, wide: bool = False, bits: int = 4,
               zero_point: int = 0) -> str:
        """A linear layer over a flat tensor; a wide one gives logits."""
        name, node = self._gemm("linear", source, (rows, self.tensors[source].shape[0]),
                                (rows, 1, 1), bits, zero_point, None)
        if wide:
            self.layers[name] = _share_shift(self.layers[name])
        self.nodes.append(Linear(**node, wide=wide))
        return name

    def max_pool(self, source: str, kernel=2, *, stride=2, padding=(0, 0, 0, 0)) -> str:
        spec, kernel, stride = self.tensors[source], _pair(kernel), _pair(stride)
        shape = (spec.shape[0], *self._window(source, kernel, stride, padding))
        name = self._tensor("max_pool", shape, spec.bits, spec.zero_point, spec.scale)
        self.nodes.append(MaxPool(name=name, input=source, output=name, kernel=kernel,
                                  stride=stride, padding=padding))
        return name

    def avg_pool(self, source: str, kernel=None, *, stride=None, bits: int = 8) -> str:
        """Over the whole image unless ``kernel`` says otherwise."""
        channels, height, width = self.tensors[source].shape
        kernel = (height, width) if kernel is None else _pair(kernel)
        stride = kernel if stride is None else _pair(stride)
        shape = (channels, *self._window(source, kernel, stride, (0, 0, 0, 0)))
        name = self._tensor("avg_pool", shape, bits)
        top_in, top_out = (numerics.act_max(self.tensors[t].bits) for t in (source, name))
        real = top_out / (kernel[0] * kernel[1] * top_in)
        multiplier, shift = numerics.encode_multiplier(min(real, MOST_REAL))
        self.nodes.append(AvgPool(name=name, input=source, output=name, kernel=kernel,
                                  stride=stride, multiplier=multiplier, bias=1 << shift - 1,
                                  shift=shift, high=top_out))
        return name

    def flatten(self, source: str) -> str:
        spec = self.tensors[source]
        name = self._tensor("flatten", (int(np.prod(spec.shape)), 1, 1), spec.bits,
                            spec.zero_point, spec.scale)
        self.nodes.append(Flatten(name=name, input=source, output=name))
        return name

    def build(self, name: str = "random") -> IntGraph:
        """The graph whose output is the last tensor made."""
        header = Header(name=name, tensors=tuple(self.tensors.values()), nodes=tuple(self.nodes),
                        input=INPUT, output=self.nodes[-1].output, ratio=str(self.ratio),
                        tile_rows=self.tile_rows, logit_scale=2.0**-20,
                        provenance={"made by": "tests/quant/graphs.py"})
        return IntGraph(header, self.layers)

    def _window(self, source: str, kernel, stride, padding) -> tuple[int, int]:
        _, height, width = self.tensors[source].shape
        return ((height + padding[0] + padding[1] - kernel[0]) // stride[0] + 1,
                (width + padding[2] + padding[3] - kernel[1]) // stride[1] + 1)

    def _tensor(self, kind: str, shape: tuple[int, int, int], bits: int, zero_point: int = 0,
                scale: float | None = None) -> str:
        name = f"{kind}{len(self.nodes)}"
        scale = float(self.rng.uniform(0.01, 0.2)) if scale is None else scale
        self.tensors[name] = TensorSpec(name=name, shape=shape, bits=bits, scale=scale,
                                        zero_point=zero_point)
        return name

    def _gemm(self, kind: str, source: str, shape: tuple[int, ...], out: tuple[int, int, int],
              bits: int, zero_point: int, residual: str | None) -> tuple[str, dict]:
        """Random arrays of one layer, and the fields that conv and linear nodes share."""
        name = self._tensor(kind, out, bits, zero_point)
        low, high = zero_point, numerics.act_max(bits)
        centre, node = (low + high) / 2, None
        if residual is not None:
            top = numerics.act_max(self.tensors[residual].bits)
            real = min(self.rng.uniform(0.1, 0.9) * high / top, MOST_REAL)
            node = Residual(tensor=residual, n=numerics.encode_residual(real))
            centre -= real * top / 2
        counts = self.ratio.rows(shape[0], self.tile_rows)
        scheme = self.rng.permutation(np.repeat(np.arange(len(Scheme)), counts))
        values = np.stack([self.rng.choice(numerics.weight_values(Scheme(s)), shape[1:])
                           for s in scheme])
        self.layers[name] = _requantisation(self.rng, values, scheme, self.tensors[source].bits,
                                            (high - low) * self.rng.uniform(0.2, 0.5), centre)
        return name, {"name": name, "input": source, "output": name, "low": low, "high": high,
                      "residual": node}


def _requantisation(rng: np.random.Generator, values: np.ndarray, scheme: np.ndarray, bits: int,
                    spread: float, centre: float) -> LayerArrays:
    """M, B and S that map sums of random activations to about ``centre`` +- ``spread``."""
    rows, top = values.reshape(len(values), -1), numerics.act_max(bits)
    multiplier, bias, shift = [], [], []
    for row in rows:
        deviation = max(float(np.sqrt((row**2).sum() / 12)) * top, 1.0)
        real = min(spread / deviation * rng.uniform(0.5, 1.5), MOST_REAL)
        m, s = numerics.encode_multiplier(real)
        mean = int(row.sum()) * top // 2
        multiplier.append(m)
        shift.append(s)
        bias.append((1 << s - 1) + round(centre * 2**s) - mean * m)
    return LayerArrays(values, scheme, multiplier, bias, shift)


def _share_shift(layer: LayerArrays) -> LayerArrays:
    """The same layer with the smallest shift for all rows, as logits need it."""
    shift = layer.shift.min()
    down = layer.shift - shift
    return LayerArrays(layer.values, layer.scheme, layer.multiplier >> down, layer.bias >> down,
                       np.full_like(layer.shift, shift))


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def residual_graph(seed: int, channels: int = 16, size: int = 8, classes: int = 10,
                   ratio: str = "50:25:25", tile_rows: int = 16) -> IntGraph:
    """A ResNet of two blocks, one with a strided shortcut of 8 bits; 8-bit image, wide logits."""
    build = GraphBuilder(np.random.default_rng(seed), (3, size, size), bits=8, ratio=ratio,
                         tile_rows=tile_rows)
    stem = build.conv(INPUT, channels)
    pooled = build.max_pool(stem, 3, stride=1, padding=(1, 1, 1, 1))
    inner = build.conv(pooled, channels)
    first = build.conv(inner, channels, residual=pooled)
    shortcut = build.conv(first, 2 * channels, 1, stride=2, bits=8)
    inner = build.conv(first, 2 * channels, stride=2, padding=1)
    second = build.conv(inner, 2 * channels, residual=shortcut)
    build.linear(build.flatten(build.avg_pool(second)), classes, wide=True)
    return build.build(f"residual-{seed}")


def random_graph(rng: np.random.Generator, layers: int = 4, channels: int = 6,
                 size: int = 8) -> IntGraph:
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
    kind = rng.choice(["conv", "grouped", "residual", "max_pool", "avg_pool"],
                      p=[0.4, 0.15, 0.25, 0.1, 0.1])
    if kind == "max_pool" and min(height, width) >= 3:
        kernel = int(rng.integers(2, 4))
        return build.max_pool(source, kernel, stride=int(rng.integers(1, 3)),
                              padding=tuple(int(v) for v in rng.integers(0, kernel, 4)))
    if kind == "avg_pool" and min(height, width) >= 3:
        return build.avg_pool(source, 2, stride=1, bits=int(rng.choice([4, 8])))
    out = {"bits": int(rng.choice([4, 8])), "zero_point": int(rng.integers(6))}
    if kind == "residual":
        same = [t.name for t in build.tensors.values() if t.shape == (depth, height, width)]
        return build.conv(source, depth, int(rng.choice([1, 3])), residual=str(rng.choice(same)),
                          **out)
    kernel = tuple(int(v) for v in rng.integers(1, min(3, height, width) + 1, 2))
    geometry = {"stride": tuple(int(v) for v in rng.integers(1, 3, 2)),
                "padding": tuple(int(v) for v in rng.integers(0, 3, 4))}
    if kind == "grouped":
        return build.conv(source, depth * int(rng.integers(1, 3)), kernel, groups=depth,
                          **geometry, **out)
    return build.conv(source, int(rng.integers(1, channels + 1)), kernel, **geometry, **out)
