# SPDX-License-Identifier: Apache-2.0
"""Memory from OUTPUT_BASE on: the outputs of every image of a run, then spilled tensors."""

import dataclasses
import itertools
import math

import numpy as np

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.compiler.layout import TensorLayout
from gateware.compiler.operations import (
    MEMORY_LIMIT,
    CompileError,
    Gemm,
    Pool,
    Rearrange,
    TensorKey,
)
from gateware.compiler.plan import Plan
from gateware.compiler.program_image import ALIGN
from gateware.compiler.raw import RawParts
from ir.graph import IntGraph


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """Tensor that a run writes, ``offset`` bytes from OUTPUT_BASE.

    scale : real value of a step
    wide_rows : of raw outputs: the rows of pixels that are stored together; 0 for codes
    wide_pitch : of raw outputs: entries of a row of pixels, by default of all columns
    columns : of raw outputs: edges of the ranges of columns that are stored together, by default
        of one range
    tiles : of raw outputs: the channels of each row tile. Tile by tile, range of columns by range,
        ``wide_rows`` rows of pixels after the others, channel by channel: the entries of these
        rows.
    """

    name: str
    offset: int
    wide_rows: int
    place: TensorLayout
    scale: float = 1.0
    wide_pitch: int = 0
    columns: tuple[int, ...] = ()
    tiles: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.wide and not self.columns:
            object.__setattr__(self, "columns", (0, self.place.width))
            object.__setattr__(self, "wide_pitch", self.place.wide_pitch)

    @property
    def wide(self) -> bool:
        """True for raw outputs, False for codes."""
        return self.wide_rows > 0

    @property
    def parts(self) -> int:
        """Number of times that ``wide_rows`` rows are stored."""
        return -(-self.place.height // self.wide_rows)

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""
        if self.wide:
            parts = self.parts * len(self.ranges)
            return self.entries(self.place.channels) * parts * isa.WIDE_BITS // 8
        return self.place.beats * self.place.k // 2

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Ranges of columns, first and last (exclusive), whose raw outputs are stored together."""
        return list(itertools.pairwise(self.columns))

    def entries(self, channels: int) -> int:
        """Raw outputs of ``channels`` channels that are stored together."""
        return channels * self.wide_rows * self.wide_pitch

    def read(self, memory: bytes) -> np.ndarray:
        """Tensor (C, H, W), int64, out of the bytes from OUTPUT_BASE on."""
        stored = memory[self.offset : self.offset + self.size]
        if not self.wide:
            return self.place.unpack(stored)
        entries, result, at = np.frombuffer(stored, "<i8"), np.zeros(self.place.shape, np.int64), 0
        for channels, (first, last) in itertools.product(self.tiles, self.ranges):
            shape = self.parts, len(channels), self.wide_rows, self.wide_pitch
            end = at + math.prod(shape)
            found = entries[at:end].reshape(shape).transpose(1, 0, 2, 3)
            found = found.reshape(len(channels), -1, shape[-1])
            result[list(channels), :, first:last] = found[:, : self.place.height, : last - first]
            at = end
        return result


class OutputMemory:
    """Places of outputs and spilled tensors.

    Parameters
    ----------
    graph : IntGraph
    plan : Plan
    config : AccelConfig
    dump : bool
        Every layer's output is stored, not the graph's alone.
    batch : int
        Images of a run; the outputs of one follow those of the one before.

    Raises CompileError where a run would need more than descriptors address.
    """

    def __init__(
        self, graph: IntGraph, plan: Plan, config: AccelConfig, *, dump: bool, batch: int
    ) -> None:
        self._graph, self._batch = graph, batch
        self._dumped = {
            spec.name
            for spec in graph.header.tensors
            if dump
            and (place := plan.places.get(TensorKey(spec.name)))
            and place.channels == spec.shape[0]  # not in phases
        }
        self._spilled: dict[TensorKey, int] = {}
        self._outputs: dict[str, Output] = {}
        offset = 0
        wanted = [
            o
            for o in plan.operations
            if isinstance(o, Gemm | Pool | Rearrange)
            and o.target.image == 0
            and self.wanted(o.target)
            and not (isinstance(o, Gemm) and o.partial)
        ]
        first = {name: rank for rank, name in enumerate(graph.header.output_tensors)}
        for operation in sorted(wanted, key=lambda o: first.get(o.target.name, len(first))):
            key = operation.target
            spec = graph.tensor(key.name)
            form = dataclasses.replace(plan.places[key], height=spec.shape[1], address=0)
            output = Output(name=key.name, offset=offset, wide_rows=0, place=form, scale=spec.scale)
            if isinstance(operation, Gemm) and operation.wide:
                parts = RawParts.of(operation, form, config)
                output = dataclasses.replace(
                    output,
                    wide_rows=parts.rows,
                    wide_pitch=parts.pitch,
                    columns=parts.columns,
                )
            self._outputs[key.name] = output
            offset += _aligned(output.size)
        self.stride = offset  #: bytes from an output to the same of the next image
        self.size = batch * offset  #: bytes in all
        self._check()

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Outputs of the first image; the graph's are the first."""
        return tuple(self._outputs.values())

    def wanted(self, key: TensorKey) -> bool:
        """True if the tensor is stored as an output."""
        return key.name in self._graph.header.output_tensors or key.name in self._dumped

    def output(self, key: TensorKey) -> Output:
        """Output that the tensor is, of its image."""
        output = self._outputs[key.name]
        return dataclasses.replace(output, offset=output.offset + key.image * self.stride)

    def set_tiles(self, name: str, tiles: tuple[tuple[int, ...], ...]) -> None:
        """Channels of the row tiles that give a raw output, in the order in which they come."""
        self._outputs[name] = dataclasses.replace(self._outputs[name], tiles=tiles)

    def spill(self, key: TensorKey, size: int) -> int:
        """Offset of ``size`` new bytes for a spilled tensor."""
        self._spilled[key] = offset = self.size
        self.size += _aligned(size)
        self._check()
        return offset

    def spilled(self, key: TensorKey) -> int:
        """Offset of a spilled tensor."""
        return self._spilled[key]

    def _check(self) -> None:
        if self.size >= MEMORY_LIMIT:
            raise CompileError(
                f"graph {self._graph.header.name!r} writes {self.size} bytes for {self._batch} "
                f"images in a run, which addresses {MEMORY_LIMIT}"
            )
