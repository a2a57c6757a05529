# SPDX-License-Identifier: Apache-2.0
"""From graph nodes to operations of the tile engine, and from tensors to places in its buffer."""

import dataclasses

import numpy as np

from gateware.config import AccelConfig
from gateware.isa import ADDRESS_BITS, SIZE_BITS
from gateware.window import Window
from quant.intgraph import AvgPool, Conv, Flatten, Host, IntGraph, Linear, MaxPool, Node
from quant.numerics import ACT_BITS, SHIFT_MIN, act_max

MAX_GROUPS = 255    #: words per pixel that a descriptor can count


class CompileError(ValueError):
    """A graph that this accelerator cannot run; the message names the layer and the reason."""


@dataclasses.dataclass(frozen=True)
class Gemm:
    """A convolution; a linear layer is one whose kernel is its whole input.

    values : int64 (rows, channels, kernel_y, kernel_x)
    multiplier, bias, shift, scheme : (rows,)
    """

    name: str
    source: str
    target: str
    values: np.ndarray
    scheme: np.ndarray
    multiplier: np.ndarray
    bias: np.ndarray
    shift: np.ndarray
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    low: int
    high: int
    wide: bool
    residual: str | None
    residual_n: int

    @property
    def kernel(self) -> tuple[int, int]:
        return self.values.shape[2:]


@dataclasses.dataclass(frozen=True)
class Pool:
    """Maximum or sum over a window, requantised by one M, B, S."""

    name: str
    source: str
    target: str
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    total: bool
    multiplier: int
    bias: int
    shift: int
    low: int
    high: int
    wide: bool = False
    residual: str | None = None


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a tensor lies in the activation buffer: planes of groups of rows of columns."""

    channels: int
    height: int
    width: int
    bits: int
    zero_point: int
    k: int
    banks: int
    address: int = 0

    @property
    def planes(self) -> int:
        return self.bits // ACT_BITS

    @property
    def groups(self) -> int:
        """Words per pixel and plane."""
        return -(-self.channels // self.k)

    @property
    def row_pitch(self) -> int:
        return -(-self.width // self.banks)

    @property
    def group_pitch(self) -> int:
        return self.height * self.row_pitch

    @property
    def plane_pitch(self) -> int:
        return self.groups * self.group_pitch

    @property
    def words(self) -> int:
        """Words that it takes in every bank."""
        return self.planes * self.plane_pitch

    @property
    def beats(self) -> int:
        """Bus beats that it takes in memory."""
        return self.height * self.width * self.planes * self.groups

    def pack(self, tensor: np.ndarray) -> bytes:
        """Integers (C, H, W) to memory order y, x, plane (hi first), channel; two to a byte."""
        nibbles = np.zeros((self.height, self.width, self.planes, self.groups * self.k), np.uint8)
        for plane in range(self.planes):
            part = tensor >> ACT_BITS * (self.planes - 1 - plane) & act_max(ACT_BITS)
            nibbles[:, :, plane, :self.channels] = part.transpose(1, 2, 0)
        flat = nibbles.reshape(-1)
        return (flat[0::2] | flat[1::2] << 4).tobytes()

    def unpack(self, stored: bytes) -> np.ndarray:
        """Inverse of :meth:`pack`, int64."""
        packed = np.frombuffer(stored, np.uint8)
        flat = np.stack([packed & 15, packed >> 4], -1)
        flat = flat.reshape(self.height, self.width, self.planes, -1)
        parts = flat[:, :, :, :self.channels].astype(np.int64)
        value = parts[:, :, 0] if self.planes == 1 else parts[:, :, 0] << ACT_BITS | parts[:, :, 1]
        return value.transpose(2, 0, 1)


@dataclasses.dataclass(frozen=True)
class Lowered:
    """Operations in order, and every tensor's place."""

    operations: tuple[Gemm | Pool, ...]
    places: dict[str, Placement]


def lower(graph: IntGraph, config: AccelConfig) -> Lowered:
    """Lower ``graph`` for ``config``. Raises CompileError naming the layer and the reason."""
    for node in graph.nodes:
        if isinstance(node, Host):
            raise CompileError(f"node {node.name!r} runs {', '.join(node.ops) or 'nothing'} on the "
                               "host; only a graph without host nodes becomes a program")
    stored = {graph.header.input: graph.header.input}      # tensor -> tensor whose words it is
    operations = []
    for node in graph.nodes:
        stored[node.output] = node.output
        if isinstance(node, Flatten):
            stored[node.output] = stored[node.input]
            continue
        operation = _operation(graph, node, stored)
        _check(graph, operation, config)
        operations.append(operation)
    if not operations:
        raise CompileError(f"graph {graph.header.name!r} has no layer to run")
    output = graph.header.output
    if stored[output] != output:
        raise CompileError(f"graph {graph.header.name!r} ends with {output!r}, a flattened tensor; "
                           f"let it end with {stored[output]!r}")
    return Lowered(tuple(operations), _place(graph, operations, config))


def _operation(graph: IntGraph, node: Node, stored: dict[str, str]) -> Gemm | Pool:
    source = stored[node.input]
    if source != node.input and not isinstance(node, Linear):
        raise CompileError(f"layer {node.name!r} reads a flattened tensor; only a linear layer can")
    if isinstance(node, MaxPool):
        return Pool(node.name, source, node.output, node.kernel, node.stride, node.padding, False,
                    multiplier=1 << SHIFT_MIN, bias=0, shift=SHIFT_MIN, low=0,
                    high=act_max(ACT_BITS))
    if isinstance(node, AvgPool):
        return Pool(node.name, source, node.output, node.kernel, node.stride, (0, 0, 0, 0), True,
                    node.multiplier, node.bias, node.shift, node.low, node.high)
    layer = graph.layers[node.name]
    values, stride, padding = layer.values, (1, 1), (0, 0, 0, 0)
    if isinstance(node, Conv):
        if node.groups != 1:
            raise CompileError(f"layer {node.name!r} has {node.groups} groups; the array computes "
                               "convolutions with groups=1 only")
        stride, padding = node.stride, node.padding
    else:
        values = values.reshape(len(values), *graph.tensor(source).shape)
    return Gemm(node.name, source, node.output, values, layer.scheme, layer.multiplier, layer.bias,
                layer.shift, stride, padding, node.low, node.high, node.wide,
                stored[node.residual.tensor] if node.residual else None,
                node.residual.n if node.residual else 0)


def _check(graph: IntGraph, operation: Gemm | Pool, config: AccelConfig) -> None:
    """What fits the descriptor fields, the buffers and the accumulators."""
    def refuse(reason: str) -> None:
        raise CompileError(f"layer {operation.name!r} {reason}")

    source, target = graph.tensor(operation.source), graph.tensor(operation.target)
    if max(*source.shape[1:], *target.shape[1:]) >= 1 << SIZE_BITS:
        refuse(f"has a height or width over {(1 << SIZE_BITS) - 1}")
    if max(operation.kernel) > 255 or max(operation.padding) > 31 or operation.stride[0] > 15:
        refuse(f"has kernel {operation.kernel}, stride {operation.stride}, padding "
               f"{operation.padding}; the largest are 255, 15 and 31")
    if operation.stride[1] > Window.max_stride(config) and target.shape[2] > 1:
        refuse(f"has a horizontal stride of {operation.stride[1]}, the largest is "
               f"{Window.max_stride(config)}")
    if operation.wide and target.shape[1:] != (1, 1):
        refuse(f"gives wide results of shape {target.shape}; only vectors are supported")
    if operation.wide and target.shape[0] > config.wide_depth:
        refuse(f"gives {target.shape[0]} wide results, the buffer holds {config.wide_depth}")
    if isinstance(operation, Pool):
        if config.k // config.requant_lanes > config.slot_depth:
            refuse(f"needs {config.k // config.requant_lanes} drain slots, the slot buffer holds "
                   f"{config.slot_depth}")
        if not operation.total and source.bits != ACT_BITS:
            refuse(f"takes the maximum of a {source.bits}-bit tensor; only 4 bits are supported")
        return
    if operation.residual and graph.tensor(operation.residual).shape != target.shape:
        refuse(f"adds {operation.residual!r} flattened; its words are not in that order")
    groups = -(-source.shape[0] // config.k)
    if groups > MAX_GROUPS:
        refuse(f"reads {groups} words per pixel, the most are {MAX_GROUPS}")
    words = groups * operation.kernel[0] * operation.kernel[1]
    if words > config.weight_depth:
        refuse(f"needs {words} weight words per row tile, the weight buffer holds "
               f"{config.weight_depth}")


def _place(graph: IntGraph, operations: list[Gemm | Pool],
           config: AccelConfig) -> dict[str, Placement]:
    """First fit over the operations' order; a tensor's words are free after its last reader."""
    last_use = {}
    for step, operation in enumerate(operations):
        for name in filter(None, (operation.source, operation.target, operation.residual)):
            last_use[name] = step
    places, live = {}, {}

    def place(name: str, step: int, reason: str) -> None:
        for other in [n for n in live if last_use[n] < step]:
            del live[other]
        spec = graph.tensor(name)
        placement = Placement(*spec.shape, spec.bits, spec.zero_point, config.k, config.banks)
        address = 0
        for other in sorted(live.values(), key=lambda p: p.address):
            if address + placement.words <= other.address:
                break
            address = max(address, other.address + other.words)
        if address + placement.words > min(config.act_depth, 1 << ADDRESS_BITS):
            used = sum(p.words for p in live.values())
            raise CompileError(
                f"{reason} does not fit the activation buffer: {placement.words} words beside "
                f"{used} in use, of {config.act_depth} per bank")
        places[name] = live[name] = dataclasses.replace(placement, address=address)

    place(graph.header.input, 0, f"graph input {graph.header.input!r}")
    for step, operation in enumerate(operations):
        if operation.wide:
            spec = graph.tensor(operation.target)
            places[operation.target] = Placement(*spec.shape, spec.bits, 0, config.k, config.banks)
        else:
            place(operation.target, step, f"the output of layer {operation.name!r}")
    return places
