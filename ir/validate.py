# SPDX-License-Identifier: Apache-2.0
"""Validation of an integer graph: every reference, shape and range."""

import math
from collections.abc import Iterable

import numpy as np

from ir import numerics, tail
from ir.arrays import GraphError, LayerArrays
from ir.nodes import (
    Conv,
    Gather,
    Header,
    Host,
    Linear,
    Mul,
    Node,
    Output,
    TensorSpec,
    WindowPool,
)
from ir.ratio import Ratio
from ir.shapes import KEEPS_CODES, Single, is_maximum, output_shape


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
            if isinstance(node, KEEPS_CODES) or is_maximum(node):
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
    node: Single,
    specs: dict[str, TensorSpec],
    layers: dict[str, LayerArrays],
    most: int,
    table: np.ndarray | None = None,
) -> None:
    """Check a node whose input has codes of up to ``most``."""
    source, target = specs[node.input], specs[node.output]
    shape = output_shape(
        node, source, layers, max(most, source.zero_point)
    )  # padding has the latter
    if shape != target.shape:
        raise GraphError(
            f"node {node.name!r} computes {shape}, but {node.output!r} is {target.shape}"
        )
    code = [(spec.bits, spec.scale, spec.zero_point) for spec in (source, target)]
    passes = isinstance(node, KEEPS_CODES) or is_maximum(node)
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


def _check_wide(spec: TensorSpec, shift: np.ndarray, is_output: bool) -> None:
    if is_output and (shift != shift[0]).any():
        raise GraphError(f"wide output {spec.name!r} needs one shift for all its rows")
    if spec.zero_point or spec.scale != math.ldexp(1, -int(shift.max())):
        raise GraphError(
            f"wide tensor {spec.name!r} has scale {spec.scale:g}, zero point "
            f"{spec.zero_point}; it needs 2^-{shift.max()} and 0"
        )
