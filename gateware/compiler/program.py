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
from gateware.compiler.order import Order, Region, Ring, pieces
from gateware.compiler.pack import Result, engine_offset, pack_slot, pack_weights
from gateware.compiler.schedule import schedule_slots, split_rows
from gateware.config import AccelConfig
from gateware.isa import Base, Opcode
from gateware.regs import config_digest
from gateware.transfer import WIDE_BITS
from quant.intgraph import IntGraph
from quant.numerics import Scheme

ALIGN = 64                     #: bytes; what every block of the image starts at
LEAST_PIECE = 32               #: weight words; a shorter load is not cut in pieces
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
    """

    name: str
    image: bytes
    input: Placement
    outputs: tuple[Output, ...]
    segments: tuple[Segment, ...]
    graph_digest: str
    config: AccelConfig
    class_names: tuple[str, ...] = ()

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
                tuple(manifest["class_names"]))
        except (ValueError, KeyError, TypeError) as error:
            raise CompileError(f"{folder / MANIFEST} is damaged ({error}); build it again") \
                from error
        if len(image) != size:
            raise CompileError(f"{folder / IMAGE} has {len(image)} bytes instead of {size}; build "
                               "it again")
        return program


def split_ports(words: bytes, word_beats: int, config: AccelConfig) -> bytes:
    """Stored words in the order of the ports: all that port 0 brings, then all of port 1..."""
    beats = np.frombuffer(words, np.uint8).reshape(
        -1, word_beats // config.ports, config.ports, config.bus_bits // 8)
    return beats.transpose(2, 0, 1, 3).tobytes()


class _Image:
    """Descriptors and data blocks under construction; data offsets are known when all are."""

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        self.descriptors: list[tuple[data.StructLayout, dict[str, int], int | None]] = []
        self.blocks: list[bytes] = []
        self.order = Order(config)
        self.weights = Ring("weights", config.weight_depth)
        self.slots = Ring("slots", config.slot_depth)

    def add(self, queue: str, layout: data.StructLayout, *, reads: tuple[Region, ...] = (),
            writes: tuple[Region, ...] = (), block: int | None = None, **fields: int) -> None:
        """One descriptor; with ``block``, its offset is that data block's."""
        waits = self.order.add(queue, reads=reads, writes=writes)
        self.descriptors.append((layout, waits | fields, block))

    def end(self) -> None:
        """The last descriptor, and what may be fetched beyond it."""
        blank = {name: 0 for name, _ in isa.TRANSFER}
        self.descriptors += [(isa.TRANSFER, blank | {"opcode": Opcode.END}, None)]

    def load_weights(self, words: bytes) -> Region:
        """Load weight words where the ring is; in pieces, so that the first need not wait."""
        size = self.config.weight_beats * self.config.bus_bits // 8
        region = self.weights.take(len(words) // size)
        at = 0
        for count in pieces(self.order.users(region), LEAST_PIECE):
            self._load(Opcode.LOAD_WEIGHTS, words[at * size:(at + count) * size],
                       Region("weights", (region.first + at) % self.config.weight_depth, count))
            at += count
        return region

    def load_slots(self, records: list[bytes]) -> Region:
        """Load drain slots where the ring is."""
        region = self.slots.take(len(records))
        self._load(Opcode.LOAD_SLOTS, b"".join(records), region)
        return region

    def _load(self, opcode: Opcode, words: bytes, region: Region) -> None:
        config = self.config
        beats = len(words) * 8 // config.bus_bits
        self.add("loads", isa.TRANSFER, writes=(region,), block=len(self.blocks), opcode=opcode,
                 base=Base.PROGRAM, offset=0, beats=beats // config.ports,
                 destination=region.first)
        self.blocks.append(split_ports(words, beats // region.words, config))

    def build(self) -> bytes:
        at = (len(self.descriptors) + isa.FETCH_AHEAD) * isa.DESCRIPTOR_BYTES
        offsets = []
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


def _region(place: Placement) -> Region:
    return Region("act", place.address, place.words)


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
            image.add("stores", isa.TRANSFER, reads=(Region("wide", 0, output.place.channels),),
                      opcode=Opcode.STORE_WIDE, base=Base.OUTPUT, offset=output.offset,
                      beats=output.size * 8 // config.bus_bits, destination=0)
        else:
            image.add("stores", isa.TENSOR, reads=(_region(output.place),),
                      opcode=Opcode.STORE_TENSOR, base=Base.OUTPUT,
                      offset=output.offset, **_tensor_fields(name, output.place))
        outputs.append(output)

    source = lowered.places[graph.header.input]
    image.add("loads", isa.TENSOR, writes=(_region(source),), opcode=Opcode.LOAD_TENSOR,
              base=Base.INPUT, offset=0, **_tensor_fields(graph.header.input, source))
    segments.append(Segment("input", 0, 1))
    for operation in lowered.operations:
        first = len(image.descriptors)
        emit = _emit_gemm if isinstance(operation, Gemm) else _emit_pool
        emit(image, operation, lowered, config)
        if operation.target == graph.header.output or dump:
            store(operation.target, operation.wide)
        segments.append(Segment(operation.name, first, len(image.descriptors)))
    image.end()
    outputs.sort(key=lambda output: output.name != graph.header.output)
    return Program(graph.header.name, image.build(), lowered.places[graph.header.input],
                   tuple(outputs), tuple(segments), graph.digest, config, graph.header.class_names)


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
        "low": operation.low, "high": operation.high,
    }


def _execute(image: _Image, operation: Gemm | Pool, lowered: Lowered, weights: Region,
             slots: Region, fields: dict[str, int]) -> None:
    """One EXECUTE, which reads and writes whole tensors as far as others are concerned."""
    read = [operation.source, *filter(None, [operation.residual])]
    target = (Region("wide", 0, lowered.places[operation.target].channels) if operation.wide
              else _region(lowered.places[operation.target]))
    image.add("executes", isa.EXECUTE,
              reads=(weights, slots, *(_region(lowered.places[name]) for name in read)),
              writes=(target,), weight_address=weights.first, slot_address=slots.first,
              slots=slots.words, **fields)


def _emit_gemm(image: _Image, gemm: Gemm, lowered: Lowered, config: AccelConfig) -> None:
    """Per row tile: weights, slots, EXECUTE."""
    fields = _execute_fields(gemm, lowered)
    planes, group_pitch = fields["planes"] + 1, lowered.places[gemm.target].group_pitch
    try:
        tiles = split_rows(gemm.scheme.tolist(), config)
    except ValueError as error:
        raise CompileError(f"layer {gemm.name!r} {error}") from error

    def result(lane: int, row: int) -> Result:
        offset = engine_offset(Scheme(gemm.scheme[row]), gemm.values[row], planes)
        multiplier = int(gemm.multiplier[row])
        return Result(lane, row % config.k, row if gemm.wide else row // config.k * group_pitch,
                      multiplier, int(gemm.bias[row]) - offset * multiplier, int(gemm.shift[row]))

    for lanes in tiles:
        taken = [(lane, row) for lane, row in enumerate(lanes) if row >= 0]
        if gemm.wide:
            slots = [[pair] for pair in taken]
        else:
            slots = [list(slot.results) for slot in schedule_slots(taken, config)]
        records = [pack_slot([result(*pair) for pair in slot], config, gemm.wide) for slot in slots]
        weights = image.load_weights(pack_weights(gemm.values, lanes, config))
        _execute(image, gemm, lowered, weights, image.load_slots(records), fields)


def _emit_pool(image: _Image, pool: Pool, lowered: Lowered, config: AccelConfig) -> None:
    """Slots once; then EXECUTE per channel group: the pool lanes are the channels of a word."""
    fields = _execute_fields(pool, lowered)
    source, target = lowered.places[pool.source], lowered.places[pool.target]
    lanes = [(config.rows + channel, channel) for channel in range(config.k)]
    records = [pack_slot([Result(lane, channel, 0, pool.multiplier, pool.bias, pool.shift)
                          for lane, channel in slot.results], config)
               for slot in schedule_slots(lanes, config)]
    slots = image.load_slots(records)
    wrap = 1 << isa.ADDRESS_BITS
    for group in range(source.groups):
        tile = {
            "first_row": (fields["first_row"] + group * source.group_pitch) % wrap,
            "out_address": target.address + group * target.group_pitch,
        }
        _execute(image, pool, lowered, Region("weights", 0, 0), slots, fields | tile)
