# SPDX-License-Identifier: Apache-2.0
"""The compiler: an integer graph to the memory image that the accelerator executes."""

import contextlib
import dataclasses
import itertools
import json
import pathlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from gateware import isa
from gateware.compiler.emit import Tile, cuts, load_rows, reload, spill, store_rows, tiles
from gateware.compiler.image import ALIGN, Image
from gateware.compiler.lower import lower
from gateware.compiler.operations import CompileError, Gemm, Pool, Reload, Spill
from gateware.compiler.order import Region
from gateware.compiler.patches import Patches
from gateware.compiler.place import Placement, Strip
from gateware.compiler.plan import input_rows
from gateware.config import AccelConfig
from gateware.isa import Base, Opcode
from gateware.regs import config_digest
from gateware.transfer import WIDE_BITS
from quant.intgraph import IntGraph

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
    """Descriptors ``first`` to ``last`` (exclusive) belong to ``layer``.

    A layer that is made in strips has several segments.
    """

    layer: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Program:
    """What a host needs to run a network.

    image : descriptors, then weights and slots; to be placed at PROGRAM_BASE
    input : place of the input tensor
    patches : what becomes of an image before it is stored, see :meth:`pack`
    outputs : the graph's output first, then the tensors dumped for comparison
    input_scale : what a step of an input code means to the network
    output_size : bytes that a run may write from OUTPUT_BASE on, outputs and spilled tensors
    """

    name: str
    image: bytes
    input: Placement
    patches: Patches
    outputs: tuple[Output, ...]
    segments: tuple[Segment, ...]
    graph_digest: str
    config: AccelConfig
    class_names: tuple[str, ...] = ()
    input_scale: float = 1.0
    output_size: int = 0

    def pack(self, image: np.ndarray) -> bytes:
        """The bytes at INPUT_BASE of an integer image (C, H, W)."""
        return self.input.pack(self.patches.gather(image))

    def save(self, folder: pathlib.Path) -> None:
        """Write image and manifest."""
        manifest = {
            "name": self.name, "graph_digest": self.graph_digest,
            "config_digest": config_digest(self.config), "config": dataclasses.asdict(self.config),
            "input": dataclasses.asdict(self.input),
            "patches": dataclasses.asdict(self.patches),
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
                Patches.load(manifest["patches"]),
                tuple(Output(**{**output, "place": Placement(**output["place"])})
                      for output in manifest["outputs"]),
                tuple(Segment(**segment) for segment in manifest["segments"]),
                manifest["graph_digest"], AccelConfig(**manifest["config"]),
                tuple(manifest["class_names"]), manifest["input_scale"],
                manifest["output_bytes"])
        except (ValueError, KeyError, TypeError) as error:
            raise CompileError(f"{folder / MANIFEST} is damaged ({error}); build it again") \
                from error
        if len(image) != size:
            raise CompileError(f"{folder / IMAGE} has {len(image)} bytes instead of {size}; build "
                               "it again")
        return program


LOAD_STRIPS = 16    #: parts that a large input is loaded in, so that the first layer begins early
LARGE_INPUT = 2048  #: bus beats


def compile_graph(graph: IntGraph, config: AccelConfig, dump: bool = False) -> Program:
    """Compile ``graph`` for the accelerator ``config``.

    With ``dump`` every layer's output is stored to memory as well, for comparison layer by layer.
    Raises :class:`CompileError` naming the layer and the reason.
    """
    return _Compiler(graph, config, dump).run()


class _Compiler:
    """One compilation: the image as far as it is, and where everything lies."""

    def __init__(self, graph: IntGraph, config: AccelConfig, dump: bool) -> None:
        self.graph, self.config, self.dump = graph, config, dump
        lowered = lower(graph, config)
        self.plan, self.patches = lowered.plan, lowered.patches
        self.image = Image(config)
        self.segments: list[Segment] = []
        self.outputs: list[Output] = []
        self.output_size = 0
        self.input = Strip.whole(self.plan.places[graph.header.input])
        self.input_loaded = 0      # rows
        self.spilled: dict[str, int] = {}   # offset from OUTPUT_BASE

    def run(self) -> Program:
        operations, name = self.plan.operations, self.graph.header.input
        if not self._in_parts(operations[0]):
            with self._segment("input"):
                self._need_input(self.input.height)
        index = 0
        while index < len(operations):
            operation = operations[index]
            if operation.target in self.plan.strips:
                self._pair(operation, operations[index + 1])
                index += 1
            elif isinstance(operation, Spill):
                self._spill(operation)
            elif isinstance(operation, Reload):
                place, offset = self.plan.places[operation.target], self.spilled[operation.spilled]
                with self._segment(operation.target):
                    reload(self.image, operation.target, place, offset)
            else:
                self._whole(operation)
            index += 1
        self.image.end()
        self.outputs.sort(key=lambda output: output.name != self.graph.header.output)
        header = self.graph.header
        whole = dataclasses.replace(self.plan.places[name], height=self.patches.y.size)
        return Program(header.name, self.image.build(), whole, self.patches, tuple(self.outputs),
                       tuple(self.segments), self.graph.digest, self.config, header.class_names,
                       self.graph.tensor(name).scale, self.output_size)

    def _in_parts(self, first: Gemm | Pool) -> bool:
        """Whether the first operation begins before all of the input is there."""
        return self.plan.input_strips or (self.input.place.beats >= LARGE_INPUT and not first.wide
                and first.source == self.graph.header.input
                and first.residual != self.graph.header.input)

    @contextlib.contextmanager
    def _segment(self, layer: str) -> Iterator[None]:
        first = len(self.image.descriptors)
        yield
        self.segments.append(Segment(layer, first, len(self.image.descriptors)))

    def _need_input(self, rows: int) -> None:
        """Load the input as far as row ``rows`` (exclusive), unless it is there."""
        if rows > self.input_loaded:
            load_rows(self.image, self.graph.header.input, self.input, self.input_loaded, rows)
            self.input_loaded = rows

    def _strip(self, name: str) -> Strip:
        return Strip.whole(self.plan.places[name])

    def _execute(self, tile: Tile, source: Strip, target: Strip, first: int, last: int) -> None:
        """Output rows ``first`` to ``last`` of a tile, in as many parts as the input comes."""
        operation = tile.operation
        residual = self._strip(operation.residual) if operation.residual else None
        parts = 1
        partly = (operation.source == self.graph.header.input
                  and not self.plan.input_strips and self.input_loaded < source.height)
        if partly:
            parts = max(1, LOAD_STRIPS * (last - first) // target.height)
        for part, end in cuts(last - first, parts):
            if partly:
                self._need_input(input_rows(operation, source.height, first, first + end)[1])
            tile.execute(self.image, source, target, residual, first + part, first + end)

    def _whole(self, operation: Gemm | Pool) -> None:
        with self._segment(operation.name):
            target = self._strip(operation.target)
            for tile in tiles(self.image, operation, self.plan, target.place):
                self._execute(tile, self._strip(operation.source), target, 0, target.height)
            if self._wanted(operation):
                self._store(operation, target, 0, target.height)

    def _spill(self, operation: Spill) -> None:
        place = self.plan.places[operation.source]
        self.spilled[operation.source] = offset = self.output_size
        self.output_size += -(-place.beats * self.config.bus_bits // 8 // ALIGN) * ALIGN
        with self._segment(f"{operation.source} spilled"):
            spill(self.image, operation.source, place, offset)

    def _input_strip(self, gemm: Gemm, index: int, first: int, last: int) -> Strip:
        """The input's rows for rows ``first`` to ``last`` of the result, loaded for strip
        ``index``."""
        name, height = self.graph.header.input, self.patches.y.size
        begin, end = input_rows(gemm, height, first, last)
        place = self.plan.places[name]
        address = place.address + index % 2 * place.words
        strip = Strip(dataclasses.replace(place, address=address), begin, height)
        load_rows(self.image, name, strip, begin, end)
        return strip

    def _sources(self, gemm: Gemm, edges: list[tuple[int, int]]) -> Iterator[Strip]:
        """What each strip of the result is made from; an input in strips is loaded one ahead."""
        if not (self.plan.input_strips and gemm.source == self.graph.header.input):
            yield from itertools.repeat(self._strip(gemm.source), len(edges))
            return
        ahead = self._input_strip(gemm, 0, *edges[0])
        for index in range(1, len(edges) + 1):
            current = ahead
            if index < len(edges):
                ahead = self._input_strip(gemm, index, *edges[index])
            yield current

    def _pair(self, gemm: Gemm, pool: Pool) -> None:
        """A convolution and the pooling after it, some rows of the result at a time."""
        place, target = self.plan.places[gemm.target], self._strip(pool.target)
        height = self.graph.tensor(gemm.target).shape[1]
        rows = self.plan.strips[gemm.target]
        with self._segment(gemm.name):
            convolutions = list(tiles(self.image, gemm, self.plan, place))
        with self._segment(pool.name):
            pools = list(tiles(self.image, pool, self.plan, target.place))
        loaded = Counter()
        for tile in [*convolutions, *pools[:1]]:
            loaded += Counter({r.buffer: r.words for r in (tile.weights, tile.slots)})
        if loaded["weights"] > self.config.weight_depth or loaded["slots"] > self.config.slot_depth:
            raise CompileError(
                f"layer {gemm.name!r} must be made in strips, and its {loaded['weights']} weight "
                f"words and {loaded['slots']} drain slots do not fit the buffers at once")
        parts = [(first, min(first + rows, target.height))
                 for first in range(0, target.height, rows)]
        edges = [input_rows(pool, height, *part) for part in parts]
        sources = self._sources(gemm, edges)
        for (first, last), (top, bottom) in zip(parts, edges, strict=True):
            strip = Strip(place, top, height)
            with self._segment(gemm.name):
                source = next(sources)
                for tile in convolutions:
                    self._execute(tile, source, strip, top, bottom)
                if self._wanted(gemm):
                    self._store(gemm, strip, top, bottom)
            with self._segment(pool.name):
                for tile in pools:
                    self._execute(tile, strip, target, first, last)
        if self._wanted(pool):
            with self._segment(pool.name):
                self._store(pool, target, 0, target.height)

    def _wanted(self, operation: Gemm | Pool) -> bool:
        return operation.target == self.graph.header.output or self.dump

    def _store(self, operation: Gemm | Pool, strip: Strip, first: int, last: int) -> None:
        """Store rows of a result; its region of the output begins with the first of them."""
        name = operation.target
        if not any(output.name == name for output in self.outputs):
            form = dataclasses.replace(strip.place, height=strip.height, address=0)
            output = Output(name, self.output_size, operation.wide, form)
            self.outputs.append(output)
            self.output_size += -(-output.size // ALIGN) * ALIGN
        output = next(output for output in self.outputs if output.name == name)
        if operation.wide:
            self.image.add("stores", isa.TRANSFER,
                           reads=(Region("wide", 0, output.place.channels),),
                           opcode=Opcode.STORE_WIDE, base=Base.OUTPUT, offset=output.offset,
                           beats=output.size * 8 // self.config.bus_bits, destination=0)
        else:
            store_rows(self.image, name, strip, first, last, output.offset)
