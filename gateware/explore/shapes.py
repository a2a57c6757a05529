# SPDX-License-Identifier: Apache-2.0
"""Shape-only graphs: networks without weights, for figures that depend on shapes alone.

The cycles of a program depend on the shapes of its layers and on how many rows each scheme has, not
on the weights. So a network can be compiled for arrays and ratios that it was not trained for: all
its weights are 0, which every scheme has.
"""

import dataclasses

import numpy as np

from ir.graph import (
    AvgPool,
    Conv,
    Flatten,
    Header,
    IntGraph,
    LayerArrays,
    Linear,
    MaxPool,
    Node,
    Output,
    Residual,
    TensorSpec,
)
from ir.nodes import Bits
from ir.numerics import ACT_BITS, IMAGE_SCALE, SHIFT_MIN, Scheme, act_max, encode_mean
from ir.ratio import Ratio

SEED = 1  #: of the order of a layer's schemes
_SIGNED = 128  #: zero point of a shortcut's 8-bit result, which may be negative


def shape_only(graph: IntGraph, ratio: Ratio, tile_rows: int) -> IntGraph:
    """Shape-only copy of ``graph``: the same nodes, all weights 0, the rows of every layer in
    ``ratio``.

    Rows are assigned at random, by a fixed seed.
    """
    rng = np.random.default_rng(SEED)
    layers = {}
    for name, layer in graph.layers.items():
        rows = len(layer.scheme)
        counts = ratio.rows(rows, tile_rows)
        layers[name] = dataclasses.replace(
            layer,
            values=np.zeros_like(layer.values),
            scheme=rng.permutation(np.repeat(np.arange(len(Scheme)), counts)),
        )
    header = graph.header.model_copy(update={"ratio": str(ratio), "tile_rows": tile_rows})
    return IntGraph(header, layers, graph.tables)


class _Builder:
    """Tensors, nodes and layers of weights 0 while they are added; names are those of PyTorch."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.tensors = {"input": TensorSpec(name="input", shape=shape, bits=8, scale=IMAGE_SCALE)}
        self.nodes: list[Node] = []
        self.layers: dict[str, LayerArrays] = {}

    def tensor(
        self,
        name: str,
        shape: tuple[int, int, int],
        *,
        bits: Bits = ACT_BITS,
        scale: float = 1.0,
        zero_point: int = 0,
    ) -> str:
        self.tensors[name] = TensorSpec(
            name=name, shape=shape, bits=bits, scale=scale, zero_point=zero_point
        )
        return name

    def _weights(self, name: str, shape: tuple[int, ...]) -> None:
        rows = shape[0]
        self.layers[name] = LayerArrays(
            values=np.zeros(shape, np.int64),
            scheme=np.zeros(rows, np.uint8),
            multiplier=np.full(rows, 1 << SHIFT_MIN),
            bias=np.full(rows, 0),
            shift=np.full(rows, SHIFT_MIN),
        )

    def conv(
        self,
        name: str,
        source: str,
        target: str,
        rows: int,
        kernel: int,
        stride: int,
        *,
        residual: str | None = None,
        bits: Bits = ACT_BITS,
        zero_point: int = 0,
    ) -> str:
        """A convolution whose padding keeps the size at stride 1."""
        channels, height, width = self.tensors[source].shape
        self._weights(name, (rows, channels, kernel, kernel))
        self.nodes.append(
            Conv(
                name=name,
                input=source,
                output=target,
                kernel=(kernel, kernel),
                stride=(stride, stride),
                padding=(kernel // 2, kernel // 2, kernel // 2, kernel // 2),
                high=act_max(bits),
                residual=Residual(tensor=residual, n=1) if residual else None,
            )
        )
        return self.tensor(
            target,
            (rows, -(-height // stride), -(-width // stride)),
            bits=bits,
            zero_point=zero_point,
        )

    def max_pool(self, name: str, source: str) -> str:
        """3x3, stride 2, padding 1."""
        spec = self.tensors[source]
        channels, height, width = spec.shape
        self.nodes.append(
            MaxPool(
                name=name,
                input=source,
                output=name,
                kernel=(3, 3),
                stride=(2, 2),
                padding=(1, 1, 1, 1),
            )
        )
        return self.tensor(
            name, (channels, -(-height // 2), -(-width // 2)), bits=spec.bits, scale=spec.scale
        )

    def classifier(self, source: str, classes: int) -> str:
        """Global average, in 8 bits, and a linear layer."""
        spec = self.tensors[source]
        area = spec.shape[1] * spec.shape[2]
        multiplier, bias, shift = encode_mean(8, area)
        self.nodes.append(
            AvgPool(
                name="avgpool",
                input=source,
                output="avgpool",
                kernel=spec.shape[1:],
                stride=spec.shape[1:],
                multiplier=multiplier,
                bias=bias,
                shift=shift,
                high=120,
            )
        )
        average = self.tensors[self.tensor("avgpool", (spec.shape[0], 1, 1), bits=8)]
        self.nodes.append(Flatten(name="flatten", input="avgpool", output="flatten"))
        self.tensor("flatten", average.shape, bits=average.bits, scale=average.scale)
        self._weights("fc", (classes, spec.shape[0]))
        self.nodes.append(Linear(name="fc", input="flatten", output="logits", wide=True))
        return self.tensor("logits", (classes, 1, 1), bits=8, scale=2.0**-SHIFT_MIN)


def resnet18(size: int = 224, classes: int = 1000) -> IntGraph:
    """ResNet-18 as :func:`quant.lowering.export.export` gives it, without weights: 8-bit image,
    shortcuts of 8 bits, a wide classifier.

    ``size`` is in pixels.
    """
    build = _Builder((3, size, size))
    x = build.max_pool("maxpool", build.conv("conv1", "input", "relu", 64, 7, 2))
    for stage in range(4):
        for block in range(2):
            name, rows = f"layer{stage + 1}.{block}", 64 << stage
            stride, shortcut = 2 if stage and not block else 1, x
            if stride == 2:
                shortcut = build.conv(
                    f"{name}.downsample.0",
                    x,
                    f"{name}.downsample.1_quant",
                    rows,
                    1,
                    2,
                    bits=8,
                    zero_point=_SIGNED,
                )
            inner = build.conv(f"{name}.conv1", x, f"{name}.relu1", rows, 3, stride)
            x = build.conv(f"{name}.conv2", inner, f"{name}.relu2", rows, 3, 1, residual=shortcut)
    output = build.classifier(x, classes)
    ratio = Ratio(100, 0, 0)
    return IntGraph(
        Header(
            name="resnet18",
            tensors=tuple(build.tensors.values()),
            nodes=tuple(build.nodes),
            input="input",
            outputs=(Output(tensor=output),),
            ratio=str(ratio),
            tile_rows=1,
        ),
        build.layers,
    )
