# SPDX-License-Identifier: Apache-2.0
"""Integer graphs, node by node, with random weights."""

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
from ir.ratio import Ratio
from tests.helpers.layers import MAX_REAL, random_layer, share_shift

INPUT = "image"


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
                self.layers[node.output] = share_shift(self.layers[node.output])
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
        self.layers[name] = random_layer(
            self.rng,
            self.ratio.rows(shape[0], self.tile_rows),
            shape,
            bits=self.tensors[source].bits,
            spread=spread,
            centre=centre,
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


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
