# SPDX-License-Identifier: Apache-2.0
"""The compiler: an integer graph to the memory image that the accelerator executes."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections import Counter
from collections.abc import Iterator

import numpy as np

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.registers import config_digest
from gateware.compiler.batch import together
from gateware.compiler.dependencies import Region
from gateware.compiler.emit import (
    Tile,
    cuts,
    reload,
    spill,
    store_rows,
    store_wide,
    tiles,
    wide_rows,
)
from gateware.compiler.layout import Placement, Strip
from gateware.compiler.lower import MEMORY_LIMIT, lower
from gateware.compiler.operations import CompileError, Gemm, Pool, Reload, Spill, TensorKey
from gateware.compiler.plan import input_rows
from gateware.compiler.program_image import ALIGN, Image
from gateware.compiler.source import Source
from gateware.compiler.space_to_depth import Patches
from ir.graph import IntGraph

MANIFEST = "program.json"
IMAGE = "program.bin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """A tensor that a run writes, ``offset`` bytes from OUTPUT_BASE.

    wide_rows : of wide results: the rows of pixels that are stored together; 0 for codes
    tiles : of wide results: the channels of each row tile. Tile by tile, ``wide_rows`` rows of
        pixels after the others, channel by channel: the entries of these rows.
    """

    name: str
    offset: int
    wide_rows: int
    place: Placement
    tiles: tuple[tuple[int, ...], ...] = ()

    @property
    def wide(self) -> bool:
        return self.wide_rows > 0

    @property
    def parts(self) -> int:
        """How many times ``wide_rows`` rows there are."""
        return -(-self.place.height // self.wide_rows)

    @property
    def size(self) -> int:
        """Bytes."""
        if self.wide:
            return self.entries(self.place.channels) * self.parts * isa.WIDE_BITS // 8
        return self.place.beats * self.place.k // 2

    def entries(self, channels: int) -> int:
        """Wide results that are stored together."""
        return channels * self.wide_rows * self.place.wide_pitch

    def read(self, memory: bytes) -> np.ndarray:
        """The tensor (C, H, W), int64, out of the bytes from OUTPUT_BASE on."""
        stored = memory[self.offset : self.offset + self.size]
        if not self.wide:
            return self.place.unpack(stored)
        entries, result, at = np.frombuffer(stored, "<i8"), np.zeros(self.place.shape, np.int64), 0
        for channels in self.tiles:
            end = at + self.entries(len(channels)) * self.parts
            found = entries[at:end].reshape(
                self.parts, len(channels), self.wide_rows, self.place.wide_pitch
            )
            found = found.transpose(1, 0, 2, 3).reshape(len(channels), -1, self.place.wide_pitch)
            result[list(channels)] = found[:, : self.place.height, : self.place.width]
            at = end
        return result


@dataclasses.dataclass(frozen=True)
class Segment:
    """Descriptors ``first`` to ``last`` (exclusive) belong to ``layer``.

    A layer that is made in strips has several segments.
    """

    layer: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class _PairStrip:
    """Rows ``first`` to ``last`` of a pooling, and the convolution's rows ``top`` to ``bottom``
    that they are made from; all ends exclusive."""

    first: int
    last: int
    top: int
    bottom: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a host needs to run a network.

    image : descriptors, then weights and slots; to be placed at PROGRAM_BASE
    input : place of the input tensor
    patches : what becomes of an image before it is stored, see :meth:`pack`
    outputs : the graph's output first, then the tensors dumped for comparison
    input_scale : what a step of an input code means to the network
    output_size : bytes that a run may write from OUTPUT_BASE on, outputs and spilled tensors
    batch : images of a run; their inputs follow one another
    output_stride : bytes from an output to the same of the next image
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
    batch: int = 1
    output_stride: int = 0

    def pack(self, image: np.ndarray) -> bytes:
        """The bytes of an integer image (C, H, W); those of a run's images follow one another."""
        return self.input.pack(self.patches.gather(image))

    def read(self, memory: bytes) -> list[dict[str, np.ndarray]]:
        """For each image of a run its outputs by name, out of the bytes from OUTPUT_BASE on."""
        return [
            {
                output.name: output.read(memory[image * self.output_stride :])
                for output in self.outputs
            }
            for image in range(self.batch)
        ]

    def save(self, folder: pathlib.Path) -> None:
        """Write image and manifest."""
        manifest = {
            "name": self.name,
            "graph_digest": self.graph_digest,
            "config_digest": config_digest(self.config),
            "config": dataclasses.asdict(self.config),
            "input": dataclasses.asdict(self.input),
            "patches": dataclasses.asdict(self.patches),
            "outputs": [dataclasses.asdict(output) for output in self.outputs],
            "segments": [dataclasses.asdict(segment) for segment in self.segments],
            "class_names": self.class_names,
            "image_bytes": len(self.image),
            "image_digest": hashlib.blake2s(self.image).hexdigest(),
            "input_scale": self.input_scale,
            "output_bytes": self.output_size,
            "batch": self.batch,
            "output_stride": self.output_stride,
            "wide_bytes": isa.WIDE_BITS // 8,
        }
        (folder / IMAGE).write_bytes(self.image)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    @classmethod
    def load(cls, folder: pathlib.Path) -> "Program":
        """Read what :meth:`save` wrote. Raises CompileError for anything but a whole program."""
        try:
            text, image = (folder / MANIFEST).read_bytes(), (folder / IMAGE).read_bytes()
        except OSError as error:
            raise CompileError(
                f"no program in {folder}: run python -m gateware.build first"
            ) from error
        try:
            manifest = json.loads(text)
            size, digest = manifest["image_bytes"], manifest["image_digest"]
            program = cls(
                name=manifest["name"],
                image=image,
                input=Placement(**manifest["input"]),
                patches=Patches.load(manifest["patches"]),
                outputs=tuple(
                    Output(
                        **{
                            **output,
                            "place": Placement(**output["place"]),
                            "tiles": tuple(map(tuple, output["tiles"])),
                        }
                    )
                    for output in manifest["outputs"]
                ),
                segments=tuple(Segment(**segment) for segment in manifest["segments"]),
                graph_digest=manifest["graph_digest"],
                config=AccelConfig(**manifest["config"]),
                class_names=tuple(manifest["class_names"]),
                input_scale=manifest["input_scale"],
                output_size=manifest["output_bytes"],
                batch=manifest["batch"],
                output_stride=manifest["output_stride"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CompileError(
                f"{folder / MANIFEST} is damaged ({error}); build it again"
            ) from error
        if len(image) != size:
            raise CompileError(
                f"{folder / IMAGE} has {len(image)} bytes instead of {size}; build it again"
            )
        if hashlib.blake2s(image).hexdigest() != digest:
            raise CompileError(
                f"{folder / IMAGE} is not the program of {MANIFEST}: it was damaged or belongs to "
                f"another network; build it again"
            )
        return program


def compile_graph(
    graph: IntGraph, config: AccelConfig, dump: bool = False, batch: int = 1
) -> Program:
    """Compile ``graph`` for the accelerator ``config``, ``batch`` images in a run.

    With ``dump`` every layer's output is stored to memory as well, for comparison layer by layer.
    Raises :class:`CompileError` naming the layer and the reason.
    """
    return _Compiler(graph, config, dump, batch).run()


class _Compiler:
    """One compilation: the image as far as it is, and where everything lies."""

    def __init__(self, graph: IntGraph, config: AccelConfig, dump: bool, batch: int) -> None:
        self.graph, self.config, self.dump, self.batch = graph, config, dump, batch
        lowered = lower(graph, config, batch)
        self.plan, self.patches = lowered.plan, lowered.patches
        self.image = Image(config)
        self.segments: list[Segment] = []
        self.outputs = self._layout()
        self.spilled: dict[TensorKey, int] = {}  # offset from OUTPUT_BASE
        self.output_size = batch * self._output_stride
        self._check_memory()
        self.first_input, height = TensorKey(graph.header.input), self.patches.y.size
        self.input = dataclasses.replace(self.plan.places[self.first_input], height=height)
        self.sources = {
            (key := self.first_input.of_image(image)): Source(
                self.image,
                self.first_input,
                self.plan.places[key],
                height=height,
                offset=image * self.input.beats * config.bus_bits // 8,
            )
            for image in range(batch)
        }

    def _check_memory(self) -> None:
        if self.output_size >= MEMORY_LIMIT:
            raise CompileError(
                f"graph {self.graph.header.name!r} writes {self.output_size} bytes for "
                f"{self.batch} images in a run, which addresses {MEMORY_LIMIT}"
            )

    def run(self) -> Program:
        runs = list(together(self.plan.operations))
        self._first(runs[0][0])
        index = 0
        while index < len(runs):
            operation = runs[index][0]
            if isinstance(operation, Spill):
                self._spill(operation)
            elif isinstance(operation, Reload):
                place, offset = self.plan.places[operation.target], self.spilled[operation.spilled]
                with self._segment(str(operation.target)):
                    reload(self.image, operation.target, place, offset)
            elif operation.target in self.plan.strips:
                self._pair(operation, runs[index + 1][0])
                index += 1
            elif operation.wide:
                self._wide(runs[index])
            else:
                self._whole(runs[index])
            index += 1
        self.image.end()
        header = self.graph.header
        return Program(
            name=header.name,
            image=self.image.build(),
            input=self.input,
            patches=self.patches,
            outputs=tuple(self.outputs.values()),
            segments=tuple(self.segments),
            graph_digest=self.graph.digest,
            config=self.config,
            class_names=header.class_names,
            input_scale=self.graph.tensor(header.input).scale,
            output_size=self.output_size,
            batch=self.batch,
            output_stride=self._output_stride,
        )

    def _layout(self) -> dict[str, Output]:
        """Where the outputs of the first image go, by tensor; the graph's output first."""
        offset, outputs = 0, {}
        wanted = [
            o
            for o in self.plan.operations
            if isinstance(o, Gemm | Pool) and o.target.image == 0 and self._wanted(o)
        ]
        for operation in sorted(wanted, key=lambda o: o.target.name != self.graph.header.output):
            name = operation.target.name
            height = self.graph.tensor(name).shape[1]
            form = dataclasses.replace(self.plan.places[operation.target], height=height, address=0)
            rows = wide_rows(form, self.config) if operation.wide else 0
            outputs[name] = Output(name=name, offset=offset, wide_rows=rows, place=form)
            offset += -(-outputs[name].size // ALIGN) * ALIGN
        self._output_stride = offset
        return outputs

    def _first(self, operation: Gemm | Pool) -> None:
        """Load what the first operation reads, unless it begins before all of it is there."""
        key = self.first_input
        early = (
            self.sources[key].large
            and not operation.wide
            and operation.source == key
            and operation.residual != key
        )
        if not (early or self.plan.input_strips):
            with self._segment("input"):
                self.sources[key].need()

    @contextlib.contextmanager
    def _segment(self, layer: str) -> Iterator[None]:
        first = len(self.image.descriptors)
        yield
        self.segments.append(Segment(layer, first, len(self.image.descriptors)))

    def _strip(self, key: TensorKey) -> Strip:
        return Strip.whole(self.plan.places[key])

    def _execute(
        self,
        tile: Tile,
        operation: Gemm | Pool,
        source: Strip,
        target: Strip,
        first: int,
        last: int,
        wide: Region | None = None,
    ) -> None:
        """Output rows ``first`` to ``last`` of a tile, in as many parts as the input comes."""
        residual = self._strip(operation.residual) if operation.residual else None
        read = None if self.plan.input_strips else self.sources.get(operation.source)
        if operation.residual in self.sources:
            self.sources[operation.residual].need()
        parts = read.parts((last - first) / target.height) if read and not wide else 1
        for part, end in cuts(last - first, parts):
            if read:
                read.need(input_rows(operation, source.height, first, first + end)[1])
            tile.execute(
                self.image,
                source=source,
                target=target,
                residual=residual,
                first=first + part,
                last=first + end,
                wide=wide,
            )

    def _whole(self, run: list[Gemm | Pool]) -> None:
        """An operation for one image, or for several with the same weights."""
        with self._segment(run[0].name):
            form = self.plan.places[run[0].target]
            for tile in tiles(self.image, run[0], self.plan, form):
                for operation in run:
                    target = self._strip(operation.target)
                    self._execute(
                        tile, operation, self._strip(operation.source), target, 0, target.height
                    )
            for operation in run:
                if self._wanted(operation):
                    self._store(operation, self._strip(operation.target), 0, form.height)

    def _wide(self, run: list[Gemm]) -> None:
        """An operation whose results leave the chip, as the buffer for them has room."""
        form = self.plan.places[run[0].target]
        ends = [self._output(operation).offset for operation in run]
        made = []
        with self._segment(run[0].name):
            for tile in tiles(self.image, run[0], self.plan, form):
                made.append(tile.rows)
                for index, operation in enumerate(run):
                    target, output = self._strip(operation.target), self._output(operation)
                    for first in range(0, form.height, output.wide_rows):
                        last = min(first + output.wide_rows, form.height)
                        region = self.image.wide.take(output.entries(len(tile.rows)))
                        self._execute(
                            tile,
                            operation,
                            self._strip(operation.source),
                            target,
                            first,
                            last,
                            region,
                        )
                        store_wide(self.image, region, ends[index])
                        ends[index] += region.words * isa.WIDE_BITS // 8
        name = run[0].target.name
        self.outputs[name] = dataclasses.replace(self.outputs[name], tiles=tuple(made))

    def _spill(self, operation: Spill) -> None:
        place = self.plan.places[operation.source]
        self.spilled[operation.source] = offset = self.output_size
        self.output_size += -(-place.beats * self.config.bus_bits // 8 // ALIGN) * ALIGN
        self._check_memory()
        with self._segment(f"{operation.source} spilled"):
            spill(self.image, operation.source, place, offset)

    def _pair(self, gemm: Gemm, pool: Pool) -> None:
        """A convolution and the pooling after it, some rows of the result at a time."""
        place, target = self.plan.places[gemm.target], self._strip(pool.target)
        height = self.graph.tensor(gemm.target.name).shape[1]
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
                f"words and {loaded['slots']} drain slots do not fit the buffers at once"
            )
        parts = self._strips(gemm, pool, height)
        edges = [(part.top, part.bottom) for part in parts]
        whole = itertools.repeat(self._strip(gemm.source))
        in_strips = self.plan.input_strips and gemm.source in self.sources
        sources = self.sources[gemm.source].strips(gemm, edges) if in_strips else whole
        for part in parts:
            strip = Strip(place, part.top, height)
            with self._segment(gemm.name):
                source = next(sources)
                for tile in convolutions:
                    self._execute(tile, gemm, source, strip, part.top, part.bottom)
                if self._wanted(gemm) and part.top < part.bottom:
                    self._store(gemm, strip, part.top, part.bottom)
            if part.first < part.last:
                with self._segment(pool.name):
                    for tile in pools:
                        self._execute(tile, pool, strip, target, part.first, part.last)
        if self._wanted(pool):
            with self._segment(pool.name):
                self._store(pool, target, 0, target.height)

    def _strips(self, gemm: Gemm, pool: Pool, height: int) -> list[_PairStrip]:
        """Strips of a convolution's ``height`` rows and of the pooling after it, from the top.

        Where the convolution's result is stored, too, also those rows that the pooling skips.
        """
        rows, most = self.plan.strips[gemm.target], self.plan.places[gemm.target].height
        strips, made = [], 0

        def make_up_to(row: int) -> None:
            for top in range(made, row, most):
                strips.append(_PairStrip(0, 0, top, min(top + most, row)))

        end = self.plan.places[pool.target].height
        for first in range(0, end, rows):
            last = min(first + rows, end)
            top, bottom = input_rows(pool, height, first, last)
            if self._wanted(gemm):
                make_up_to(top)
            strips.append(_PairStrip(first, last, top, bottom))
            made = max(made, bottom)
        if self._wanted(gemm):
            make_up_to(height)
        return strips

    def _wanted(self, operation: Gemm | Pool) -> bool:
        return operation.target.name == self.graph.header.output or self.dump

    def _output(self, operation: Gemm | Pool) -> Output:
        """Where the result goes, of the image that it is of."""
        output = self.outputs[operation.target.name]
        return dataclasses.replace(
            output, offset=output.offset + operation.target.image * self._output_stride
        )

    def _store(self, operation: Gemm | Pool, strip: Strip, first: int, last: int) -> None:
        """Store rows of a result; its region of the output begins with the first of them."""
        store_rows(self.image, operation.target, strip, first, last, self._output(operation).offset)
