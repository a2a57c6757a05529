# SPDX-License-Identifier: Apache-2.0
"""The compiler: an integer graph to the memory image that the accelerator executes."""

import dataclasses
import json
import pathlib

import numpy as np
from amaranth.lib import data

from gateware import isa
from gateware.compiler.lower import (
    MAX_GROUPS,
    CompileError,
    Gemm,
    Lowered,
    Placement,
    Pool,
    lower,
)
from gateware.compiler.pack import Result, pack_slot, pack_weights
from gateware.compiler.schedule import schedule_slots, split_rows
from gateware.config import AccelConfig
from gateware.isa import Base, Opcode
from gateware.pe.base import RowEngine
from gateware.pe.lanes import row_engines
from gateware.regs import config_digest
from gateware.transfer import WIDE_BITS
from quant.intgraph import IntGraph
from quant.numerics import BIAS_BITS

ALIGN = 64                     #: bytes; what every block of the image starts at
MANIFEST = "program.json"
IMAGE = "program.bin"


@dataclasses.dataclass(frozen=True)
class Output:
    """A tensor that a run writes, ``offset`` bytes from OUTPUT_BASE."""

    name: str
    offset: int
    wide: bool
    place: Placement

    @property
    def size(self) -> int:
        """Bytes."""
        if self.wide:
            return self.place.channels * WIDE_BITS // 8
        return self.place.beats * self.place.k // 2

    def read(self, memory: bytes) -> np.ndarray:
        """The tensor (C, H, W), int64, out of the bytes from OUTPUT_BASE on."""
        stored = memory[self.offset:self.offset + self.size]
        if self.wide:
            return np.frombuffer(stored, "<i8").reshape(-1, 1, 1).astype(np.int64)
        return self.place.unpack(stored)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Descriptors ``first`` to ``last`` (exclusive) belong to ``layer``."""

    layer: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Program:
    """What a host needs to run a network.

    image : descriptors, then weights and slots; to be placed at PROGRAM_BASE
    input : place of the input tensor, whose ``pack`` makes the bytes at INPUT_BASE
    outputs : the graph's output first, then the tensors dumped for comparison
    input_scale : what a step of an input code means to the network
    """

    name: str
    image: bytes
    input: Placement
    outputs: tuple[Output, ...]
    segments: tuple[Segment, ...]
    graph_digest: str
    config: AccelConfig
    class_names: tuple[str, ...] = ()
    input_scale: float = 1.0

    @property
    def output_size(self) -> int:
        """Bytes that a run may write from OUTPUT_BASE on."""
        return max(output.offset + output.size for output in self.outputs)

    def save(self, folder: pathlib.Path) -> None:
        """Write image and manifest."""
        manifest = {
            "name": self.name, "graph_digest": self.graph_digest,
            "config_digest": config_digest(self.config), "config": dataclasses.asdict(self.config),
            "input": dataclasses.asdict(self.input),
            "outputs": [dataclasses.asdict(output) for output in self.outputs],
            "segments": [dataclasses.asdict(segment) for segment in self.segments],
            "class_names": self.class_names, "image_bytes": len(self.image),
            "input_scale": self.input_scale, "output_bytes": self.output_size,
            "wide_bytes": WIDE_BITS // 8,
        }
        (folder / IMAGE).write_bytes(self.image)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def load(cls, folder: pathlib.Path) -> "Program":
        """Read what :meth:`save` wrote. Raises CompileError for anything but a whole program."""
        try:
            text, image = (folder / MANIFEST).read_bytes(), (folder / IMAGE).read_bytes()
        except OSError as error:
            raise CompileError(f"no program in {folder}: run python -m gateware.build first") \
                from error
        try:
            manifest = json.loads(text)
            size = manifest["image_bytes"]
            program = cls(
                manifest["name"], image, Placement(**manifest["input"]),
                tuple(Output(**{**output, "place": Placement(**output["place"])})
                      for output in manifest["outputs"]),
                tuple(Segment(**segment) for segment in manifest["segments"]),
                manifest["graph_digest"], AccelConfig(**manifest["config"]),
                tuple(manifest["class_names"]), manifest["input_scale"])
        except (ValueError, KeyError, TypeError) as error:
            raise CompileError(f"{folder / MANIFEST} is damaged ({error}); build it again") \
                from error
        if len(image) != size:
            raise CompileError(f"{folder / IMAGE} has {len(image)} bytes instead of {size}; build "
                               "it again")
        return program


class _Image:
    """Descriptors and data blocks under construction; data offsets are known when all are."""

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        self.descriptors: list[tuple[data.StructLayout, dict[str, int], int | None]] = []
        self.blocks: list[bytes] = []

    def add(self, layout: data.StructLayout, block: int | None = None, **fields: int) -> None:
        """One descriptor; with ``block``, its offset is that data block's."""
        self.descriptors.append((layout, fields, block))

    def load(self, opcode: Opcode, block: bytes, destination: int) -> None:
        """Load ``block``, which becomes a part of the image, into a buffer."""
        self.add(isa.TRANSFER, block=len(self.blocks), opcode=opcode, base=Base.PROGRAM, offset=0,
                 beats=len(block) * 8 // self.config.bus_bits, destination=destination)
        self.blocks.append(block)

    def build(self) -> bytes:
        offsets, at = [], len(self.descriptors) * isa.DESCRIPTOR_BYTES
        for block in self.blocks:
            at = -(-at // ALIGN) * ALIGN
            offsets.append(at)
            at += len(block)
        image = bytearray(at)
        for index, (layout, fields, block) in enumerate(self.descriptors):
            if block is not None:
                fields = {**fields, "offset": offsets[block]}
            start = index * isa.DESCRIPTOR_BYTES
            image[start:start + isa.DESCRIPTOR_BYTES] = isa.pack(layout, **fields).to_bytes(
                isa.DESCRIPTOR_BYTES, "little")
        for offset, block in zip(offsets, self.blocks, strict=True):
            image[offset:offset + len(block)] = block
        return bytes(image)


def compile_graph(graph: IntGraph, config: AccelConfig, dump: bool = False) -> Program:
    """Compile ``graph`` for the accelerator ``config``.

    With ``dump`` every layer's output is stored to memory as well, for comparison layer by layer.
    Raises :class:`CompileError` naming the layer and the reason.
    """
    lowered = lower(graph, config)
    image, segments, outputs, at = _Image(config), [], [], 0

    def store(name: str, wide: bool) -> None:
        nonlocal at
        output = Output(name, at, wide, lowered.places[name])
        at += -(-output.size // ALIGN) * ALIGN
        if wide:
            image.add(isa.TRANSFER, opcode=Opcode.STORE_WIDE, base=Base.OUTPUT,
                      offset=output.offset, beats=output.size * 8 // config.bus_bits, destination=0)
        else:
            image.add(isa.TENSOR, opcode=Opcode.STORE_TENSOR, base=Base.OUTPUT,
                      offset=output.offset, **_tensor_fields(name, output.place))
        outputs.append(output)

    image.add(isa.TENSOR, opcode=Opcode.LOAD_TENSOR, base=Base.INPUT, offset=0,
              **_tensor_fields(graph.header.input, lowered.places[graph.header.input]))
    segments.append(Segment("input", 0, 1))
    for operation in lowered.operations:
        first = len(image.descriptors)
        emit = _emit_gemm if isinstance(operation, Gemm) else _emit_pool
        emit(image, operation, lowered, config)
        if operation.target == graph.header.output or dump:
            store(operation.target, operation.wide)
        segments.append(Segment(operation.name, first, len(image.descriptors)))
    image.add(isa.TRANSFER, opcode=Opcode.END, base=Base.PROGRAM, offset=0, beats=0, destination=0)
    outputs.sort(key=lambda output: output.name != graph.header.output)
    return Program(graph.header.name, image.build(), lowered.places[graph.header.input],
                   tuple(outputs), tuple(segments), graph.digest, config, graph.header.class_names,
                   graph.tensor(graph.header.input).scale)


def _tensor_fields(name: str, place: Placement) -> dict[str, int]:
    if place.groups * place.planes > MAX_GROUPS:
        raise CompileError(f"tensor {name!r} has {place.groups * place.planes} words per pixel, a "
                           f"load or store moves {MAX_GROUPS} at most")
    return {"beats": place.beats, "address": place.address, "height": place.height,
            "width": place.width, "groups": place.groups * place.planes,
            "group_pitch": place.group_pitch, "row_pitch": place.row_pitch}


def _execute_fields(operation: Gemm | Pool, lowered: Lowered) -> dict[str, int]:
    """Fields of an EXECUTE descriptor that all tiles of an operation share."""
    source, target = lowered.places[operation.source], lowered.places[operation.target]
    residual = lowered.places[operation.residual] if operation.residual else target
    wrap = 1 << isa.ADDRESS_BITS
    pool = isinstance(operation, Pool)
    return {
        "opcode": Opcode.EXECUTE, "reserved": 0, "pool": pool, "pool_sum": pool and operation.total,
        "wide": operation.wide, "planes": source.planes - 1,
        "out_planes": 0 if operation.wide else target.planes - 1,
        "residual": operation.residual is not None, "residual_planes": residual.planes - 1,
        "first_row": (source.address - operation.padding[0] * source.row_pitch) % wrap,
        "height": source.height, "width": source.width, "groups": 1 if pool else source.groups,
        "group_pitch": source.group_pitch, "row_pitch": source.row_pitch,
        "row_step": source.row_pitch * operation.stride[0] % wrap,
        "plane_pitch": source.plane_pitch,
        "kernel_y": operation.kernel[0], "kernel_x": operation.kernel[1],
        "stride_y": operation.stride[0], "stride_x": operation.stride[1] if target.width > 1 else 1,
        "pad_top": operation.padding[0], "pad_left": operation.padding[2],
        "pad_value": 0 if pool else source.zero_point,
        "out_height": target.height, "out_width": target.width, "out_address": target.address,
        "out_row_pitch": target.row_pitch, "out_plane_pitch": target.plane_pitch,
        "residual_address": residual.address, "residual_plane_pitch": residual.plane_pitch,
        "residual_n": 0 if pool else operation.residual_n,
        "low": operation.low, "high": operation.high, "weight_address": 0, "slot_address": 0,
    }


def _emit_gemm(image: _Image, gemm: Gemm, lowered: Lowered, config: AccelConfig) -> None:
    """Per row tile: weights, slots, EXECUTE."""
    fields = _execute_fields(gemm, lowered)
    planes, group_pitch = fields["planes"] + 1, lowered.places[gemm.target].group_pitch
    try:
        tiles = split_rows(gemm.scheme.tolist(), config)
    except ValueError as error:
        raise CompileError(f"layer {gemm.name!r} {error}") from error

    engines = [placed.engine for placed in row_engines(config) for _ in placed.lanes]

    def result(lane: int, row: int) -> Result:
        return Result(lane, row % config.k, row if gemm.wide else row // config.k * group_pitch,
                      int(gemm.multiplier[row]), _bias(gemm, row, engines[lane], planes),
                      int(gemm.shift[row]))

    for lanes in tiles:
        taken = [(lane, row) for lane, row in enumerate(lanes) if row >= 0]
        if gemm.wide:
            slots = [[pair] for pair in taken]
        else:
            slots = [list(slot.results) for slot in schedule_slots(taken, config)]
        records = [pack_slot([result(*pair) for pair in slot], config, gemm.wide) for slot in slots]
        image.load(Opcode.LOAD_WEIGHTS, pack_weights(gemm.values, lanes, config), 0)
        image.load(Opcode.LOAD_SLOTS, b"".join(records), 0)
        image.add(isa.EXECUTE, **fields, slots=len(records))


def _bias(gemm: Gemm, row: int, engine: type[RowEngine], planes: int) -> int:
    """The bias of a row on ``engine``, whose raw sums exceed the true ones by a known number."""
    values = gemm.values[row]
    low, high = engine.raw_range(values, planes)
    least, most = engine.raw_limits()
    if low < least or high > most:
        raise CompileError(f"layer {gemm.name!r}: the sums of row {row} reach {low}..{high}, an "
                           f"accumulator of {engine.__name__} holds {least}..{most}")
    bias = int(gemm.bias[row]) - engine.offset(values, planes) * int(gemm.multiplier[row])
    if abs(bias) >= 1 << BIAS_BITS - 1:
        raise CompileError(f"layer {gemm.name!r}: the bias of row {row} takes more than the "
                           f"{BIAS_BITS} bits of the requantiser")
    return bias


def _emit_pool(image: _Image, pool: Pool, lowered: Lowered, config: AccelConfig) -> None:
    """Slots once; then EXECUTE per channel group: the pool lanes are the channels of a word."""
    fields = _execute_fields(pool, lowered)
    source, target = lowered.places[pool.source], lowered.places[pool.target]
    lanes = [(config.rows + channel, channel) for channel in range(config.k)]
    records = [pack_slot([Result(lane, channel, 0, pool.multiplier, pool.bias, pool.shift)
                          for lane, channel in slot.results], config)
               for slot in schedule_slots(lanes, config)]
    image.load(Opcode.LOAD_SLOTS, b"".join(records), 0)
    wrap = 1 << isa.ADDRESS_BITS
    for group in range(source.groups):
        tile = {
            "first_row": (fields["first_row"] + group * source.group_pitch) % wrap,
            "out_address": target.address + group * target.group_pitch,
        }
        image.add(isa.EXECUTE, **{**fields, **tile}, slots=len(records))
