# SPDX-License-Identifier: Apache-2.0
"""Validation of an integer graph: every reference, shape and range."""

import math
from collections.abc import Iterable

import numpy as np

from ir import numerics, tail
from ir.arrays import GraphError, LayerArrays
from ir.nodes import (
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Gather,
    Header,
    Host,
    Linear,
    MaxPool,
    Mul,
    Node,
    Output,
    TensorSpec,
    Upsample,
    Window,
    WindowPool,
)
from ir.numerics import Scheme
from ir.ratio import Ratio


def validate(
    header: Header, layers: dict[str, LayerArrays], tables: dict[str, np.ndarray] | None = None
) -> None:
    """Check of a graph: raises :class:`GraphError` naming the node for anything inconsistent."""
    try:
        Ratio.parse(header.ratio)
    except ValueError as error:
        raise GraphError(str(error)) from error
    specs = {t.name: t for t in header.tensors}
    if len(specs) != len(header.tensors):
        raise GraphError("two tensors have the same name")
    for spec in specs.values():
        if min(spec.shape) < 1 or not 0 <= spec.zero_point <= numerics.act_max(spec.bits):
            raise GraphError(
                f"tensor {spec.name!r} has shape {spec.shape}, zero point {spec.zero_point}"
            )
    tables = tables or {}
    _check_tables(header, tables)
    _Flow(header, specs, tables).check(layers)
    extra = set(layers) - {n.name for n in header.nodes if isinstance(n, Conv | Linear)}
    if extra:
        raise GraphError(f"weights without a layer: {', '.join(sorted(extra))}")


#: Nodes with one input, and maybe a residual operand or a factor.
_Single = Conv | Linear | MaxPool | AvgPool | WindowPool | Mul | Flatten | DepthToSpace | Upsample
#: Of these, what has the codes of its input.
KEEPS_CODES = MaxPool | Flatten | DepthToSpace | Upsample


class _Flow:
    """Walks the nodes in order with what is known before each: integers, and the host's values."""

    def __init__(
        self, header: Header, specs: dict[str, TensorSpec], tables: dict[str, np.ndarray]
    ) -> None:
        self.header, self.specs, self.tables = header, specs, tables
        self.known: set[str] = set()
        self.wide: set[str] = set()
        self.kept: set[str] = set()
        self.most: dict[str, int] = {}  # largest code of each tensor
        if bool(header.host_inputs) == (header.input is not None):
            raise GraphError("a graph needs either an input or host inputs, and not both")
        if header.input is not None:
            if header.input not in specs:
                raise GraphError(f"graph input {header.input!r} is not a tensor of the graph")
            self.known.add(header.input)
            self.most[header.input] = numerics.act_max(specs[header.input].bits)
            _check_border(header, specs[header.input])
        self._keep("the graph", header.host_inputs)

    def check(self, layers: dict[str, LayerArrays]) -> None:
        names, read = set(), set()
        for node in self.header.nodes:
            if node.name in names:
                raise GraphError(f"two nodes are named {node.name!r}")
            names.add(node.name)
            if isinstance(node, Host):
                read.update(node.inputs)
                self._reads(node, node.inputs, self.known | self.kept)
                self._writes(node, node.outputs)
                self._keep(f"node {node.name!r}", node.keeps)
                self.most |= {n: numerics.act_max(self.specs[n].bits) for n in node.outputs}
                continue
            sources = set(node.inputs if isinstance(node, Gather) else (node.input,))
            if isinstance(node, Conv | Linear) and node.residual is not None:
                sources.add(node.residual.tensor)
            elif isinstance(node, Mul):
                sources.add(node.factor)
            self._reads(node, sorted(sources), self.known)
            if raw := self.wide & sources:
                raise GraphError(f"node {node.name!r} reads {min(raw)!r}, which is wide")
            self._writes(node, [node.output])
            table = self.tables.get(table_of(node) or "")
            if isinstance(node, Gather):
                _check_gather(node, self.specs)
                zero = self.specs[node.output].zero_point
                self.most[node.output] = max(zero, *(self.most[name] for name in node.inputs))
                continue
            _check_node(node, self.specs, layers, self.most[node.input], table)
            if isinstance(node, KEEPS_CODES) or _is_maximum(node):
                self.most[node.output] = self.most[node.input]
            else:
                self.most[node.output] = node.high
            if table is not None:
                self.most[node.output] = int(table.max())
            if isinstance(node, Conv | Linear) and node.wide:
                self.wide.add(node.output)
                _check_wide(
                    self.specs[node.output],
                    layers[node.name].shift,
                    is_output=node.output in self.header.output_tensors,
                )
        self._check_ends(read)

    def _reads(self, node: Node, names: Iterable[str], known: set[str]) -> None:
        for name in names:
            if name not in known:
                raise GraphError(
                    f"node {node.name!r} reads {name!r}, which nothing before it writes"
                )

    def _writes(self, node: Node, names: Iterable[str]) -> None:
        for name in names:
            if name in self.known or name not in self.specs:
                raise GraphError(f"node {node.name!r} writes {name!r}, which is not a free tensor")
            self.known.add(name)

    def _keep(self, keeper: str, names: Iterable[str]) -> None:
        for name in names:
            if name in self.kept or name in self.specs:
                raise GraphError(f"{keeper} keeps {name!r} on the host, a name that is taken")
            self.kept.add(name)

    def _check_ends(self, read: set[str]) -> None:
        header = self.header
        for output in header.outputs:
            if output.tensor not in self.known - {header.input}:
                raise GraphError(f"graph output {output.tensor!r} is written by no node")
            _check_output(output, self.specs[output.tensor])
        if unread := self.wide - read - set(header.output_tensors):
            raise GraphError(
                f"wide tensor {min(unread)!r} is neither the graph's output nor read by the host"
            )


def _check_border(header: Header, spec: TensorSpec) -> None:
    codes, most = header.border, numerics.act_max(spec.bits)
    if codes and (len(codes) != spec.shape[0] or not all(0 <= code <= most for code in codes)):
        raise GraphError(
            f"border {codes} needs a code in 0..{most} for each of {spec.shape[0]} channels"
        )


def _check_output(output: Output, spec: TensorSpec) -> None:
    shape = output.shape or spec.shape
    if math.prod(shape) != math.prod(spec.shape):
        raise GraphError(f"graph output {spec.name!r} of shape {spec.shape} is read as {shape}")
    try:
        tail.apply(output.tail, np.zeros((1, *shape)))
    except (ValueError, TypeError, IndexError) as error:
        raise GraphError(f"graph output {spec.name!r}: {error}") from error


def _window(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    return (size + before + after - kernel) // stride + 1


def table_of(node: Node) -> str | None:
    """Name of the table that ``node`` applies to its codes, if there is one."""
    return getattr(node, "table", None)


def _check_tables(header: Header, tables: dict[str, np.ndarray]) -> None:
    named = {name for node in header.nodes if (name := table_of(node)) is not None}
    if named != set(tables):
        wrong = min(named ^ set(tables))
        raise GraphError(f"table {wrong!r} is {'missing' if wrong in named else 'used by no node'}")
    for name, table in tables.items():
        if table.shape != (numerics.TABLE_SIZE,) or table.dtype != np.uint8:
            raise GraphError(
                f"table {name!r} has shape {table.shape} of {table.dtype}, not "
                f"{numerics.TABLE_SIZE} of uint8"
            )


def _check_node(
    node: _Single,
    specs: dict[str, TensorSpec],
    layers: dict[str, LayerArrays],
    most: int,
    table: np.ndarray | None = None,
) -> None:
    """Check a node whose input has codes of up to ``most``."""
    source, target = specs[node.input], specs[node.output]
    shape = _shape(node, source, layers, max(most, source.zero_point))  # padding has the latter
    if shape != target.shape:
        raise GraphError(
            f"node {node.name!r} computes {shape}, but {node.output!r} is {target.shape}"
        )
    code = [(spec.bits, spec.scale, spec.zero_point) for spec in (source, target)]
    passes = isinstance(node, KEEPS_CODES) or _is_maximum(node)
    if passes and code[0] != code[1]:
        raise GraphError(
            f"node {node.name!r} keeps its input's codes, but bits, scale or zero "
            f"point of {node.output!r} differ"
        )
    if isinstance(node, KEEPS_CODES) or passes:
        return
    bits = target.bits if table is None else numerics.TABLE_BITS
    low = 0 if isinstance(node, WindowPool) else node.low
    if not 0 <= low <= node.high <= numerics.act_max(bits):
        raise GraphError(f"node {node.name!r} clamps to {low}..{node.high}, outside {bits} bits")
    if table is not None and table.max() > numerics.act_max(target.bits):
        raise GraphError(
            f"node {node.name!r} has a table with {table.max()}, outside {target.bits} bits"
        )
    if isinstance(node, Mul):
        factor = specs[node.factor]
        if factor.shape not in (source.shape, (source.shape[0], 1, 1)):
            raise GraphError(f"node {node.name!r} cannot multiply {source.shape} by {factor.shape}")
        if factor.bits != numerics.TABLE_BITS:
            raise GraphError(f"node {node.name!r} has a factor of {factor.bits} bits, not 8")
    if table is not None and isinstance(node, Conv | Linear) and node.wide:
        raise GraphError(f"node {node.name!r} gives raw outputs, which no table can take")
    if isinstance(node, Conv | Linear) and node.residual is not None:
        other = specs[node.residual.tensor]
        if other.shape != target.shape or node.wide:
            raise GraphError(f"node {node.name!r} cannot add {other.name!r} of shape {other.shape}")


def _check_gather(node: Gather, specs: dict[str, TensorSpec]) -> None:
    sources, target = [specs[name] for name in node.inputs], specs[node.output]
    for spec in sources:
        if (spec.bits, spec.scale, spec.zero_point) != (
            target.bits,
            target.scale,
            target.zero_point,
        ):
            raise GraphError(
                f"node {node.name!r} keeps its inputs' codes, but bits, scale or zero "
                f"point of {spec.name!r} and {node.output!r} differ"
            )
        if spec.shape[1:] != sources[0].shape[1:]:
            raise GraphError(
                f"node {node.name!r} reads {spec.name!r} of shape {spec.shape} beside "
                f"{sources[0].shape}"
            )
    channels = sum(spec.shape[0] for spec in sources)
    if min(node.stride) < 1 or not all(-1 <= pick < channels for pick in node.picks):
        raise GraphError(
            f"node {node.name!r} picks from {channels} channels with stride {node.stride}, "
            "and one of them does not exist"
        )
    shape = len(node.picks), *(-(-sources[0].shape[i + 1] // node.stride[i]) for i in (0, 1))
    if shape != target.shape:
        raise GraphError(
            f"node {node.name!r} computes {shape}, but {node.output!r} is {target.shape}"
        )


def _shape(
    node: _Single, source: TensorSpec, layers: dict[str, LayerArrays], most: int
) -> tuple[int, int, int]:
    """Shape of the output; checks windows, groups, arrays and accumulator on the way."""
    channels, height, width = source.shape
    if isinstance(node, Flatten):
        return channels * height * width, 1, 1
    if isinstance(node, Mul):
        return source.shape
    if isinstance(node, DepthToSpace | Upsample):
        down, across = node.block
        phases, more = 1, (0, 0)
        if isinstance(node, DepthToSpace):
            phases, more = down * across, (-node.crop[0], -node.crop[1])
            sides = [(0, down - 1), (0, across - 1)]
            given = node.crop
        else:
            more = 2 * node.border[0], 2 * node.border[1]
            sides, given = [(0, down), (0, across)], node.border
        inside = all(low <= n <= high for n, (low, high) in zip(given, sides, strict=True))
        if min(node.block) < 1 or channels % phases or not inside:
            raise GraphError(
                f"node {node.name!r} makes blocks of {node.block} of {channels} channels, with "
                f"{given} pixels at the border"
            )
        return channels // phases, height * down + more[0], width * across + more[1]
    if isinstance(node, Linear):
        rows = _check_layer(node, source, (channels * height * width,), layers, most)
        if (height, width) != (1, 1):
            raise GraphError(
                f"linear {node.name!r} needs a flat input, {node.input!r} is {source.shape}"
            )
        return rows, 1, 1
    if isinstance(node, WindowPool):
        _check_windows(node, source, most)
        return channels, len(node.rows), len(node.columns)
    pads = (0, 0, 0, 0) if isinstance(node, AvgPool) else node.padding
    if min(*node.kernel, *node.stride) < 1 or min(pads) < 0:
        raise GraphError(
            f"node {node.name!r} has kernel {node.kernel}, stride {node.stride}, padding {pads}"
        )
    rows, columns = (
        _window(size, node.kernel[i], node.stride[i], pads[2 * i], pads[2 * i + 1])
        for i, size in enumerate((height, width))
    )
    if isinstance(node, Conv):
        if node.groups < 1 or channels % node.groups:
            raise GraphError(f"conv {node.name!r}: {channels} channels in {node.groups} groups")
        channels = _check_layer(node, source, (channels // node.groups, *node.kernel), layers, most)
        if channels % node.groups:
            raise GraphError(f"conv {node.name!r}: {channels} rows in {node.groups} groups")
    elif isinstance(node, AvgPool):
        _check_acc(node, node.kernel[0] * node.kernel[1] * most)
    return channels, rows, columns


def _is_maximum(node: _Single) -> bool:
    return isinstance(node, WindowPool) and not node.mean


def _check_windows(node: WindowPool, source: TensorSpec, most: int) -> None:
    def holds(window: Window, size: int) -> bool:
        least = 0 if node.mean else 1
        return least <= window.size <= window.count and window.last <= size

    for windows, size in ((node.rows, source.shape[1]), (node.columns, source.shape[2])):
        if not all(holds(window, size) for window in windows):
            raise GraphError(f"node {node.name!r} has a window that is not in {source.shape}")
    if node.mean:
        areas = [row.count * column.count for row in node.rows for column in node.columns]
        _check_acc(node, max(areas) * most)


def _check_acc(node: Node, most: int) -> None:
    if most >= 1 << numerics.ACC_BITS - 1:
        raise GraphError(
            f"node {node.name!r} can reach {most}, the accumulator has {numerics.ACC_BITS} bits"
        )


def _check_layer(
    node: Conv | Linear,
    source: TensorSpec,
    row_shape: tuple[int, ...],
    layers: dict[str, LayerArrays],
    most: int,
) -> int:
    """Check arrays and value ranges of a layer; returns its rows."""
    layer = layers.get(node.name)
    if layer is None:
        raise GraphError(f"layer {node.name!r} has no weights")
    rows = len(layer.values)
    if not rows or layer.values.shape[1:] != row_shape:
        raise GraphError(
            f"layer {node.name!r} has {rows} rows of {layer.values.shape[1:]}, "
            f"its input needs {row_shape}"
        )
    per_row = (layer.scheme, layer.multiplier, layer.bias, layer.shift)
    if any(array.shape != (rows,) for array in per_row):
        raise GraphError(f"layer {node.name!r}: one M, B, S and scheme per row are needed")
    if not np.isin(layer.scheme, list(Scheme)).all():
        raise GraphError(f"layer {node.name!r} has an unknown scheme number")
    for scheme in Scheme:
        of_scheme = layer.rows[layer.scheme == scheme]
        if not np.isin(of_scheme, numerics.weight_values(scheme)).all():
            raise GraphError(f"layer {node.name!r} has a weight value outside {scheme.name}")
    low, high = numerics.acc_bounds(layer.rows, most)
    _check_acc(node, max(-low.min(), high.max()))
    ranges = (
        ("multiplier", 0, (1 << numerics.MULTIPLIER_BITS) - 1),
        ("shift", numerics.SHIFT_MIN, numerics.SHIFT_MAX),
        ("bias", -numerics.BIAS_LIMIT, numerics.BIAS_LIMIT - 1),
    )
    for field, least, most in ranges:
        array = getattr(layer, field)
        if array.min() < least or array.max() > most:
            raise GraphError(f"layer {node.name!r} has a {field} outside {least}..{most}")
    return rows


def _check_wide(spec: TensorSpec, shift: np.ndarray, is_output: bool) -> None:
    if is_output and (shift != shift[0]).any():
        raise GraphError(f"wide output {spec.name!r} needs one shift for all its rows")
    if spec.zero_point or spec.scale != math.ldexp(1, -int(shift.max())):
        raise GraphError(
            f"wide tensor {spec.name!r} has scale {spec.scale:g}, zero point "
            f"{spec.zero_point}; it needs 2^-{shift.max()} and 0"
        )
