# SPDX-License-Identifier: Apache-2.0
"""Compiler: an integer graph to the memory image that the accelerator executes."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import pydantic

from boards.driver.manifest import check_program
from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.registers import config_digest
from gateware.compiler.codegen import CodeGenerator
from gateware.compiler.layout import TensorLayout
from gateware.compiler.lower import Lowered, lower
from gateware.compiler.operations import CompileError
from gateware.compiler.outputs import Output, OutputMemory
from gateware.compiler.plan import NoPlan
from gateware.compiler.program_image import LayerSegment
from gateware.compiler.space_to_depth import SpaceToDepth
from ir import nodes, numerics
from ir.graph import IntGraph

MANIFEST = "program.json"
IMAGE = "program.bin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Program of a network: all that a host needs to run it.

    image : descriptors, then weights and slots; to be placed at PROGRAM_BASE
    input : place of the input tensor
    space_to_depth : what becomes of an image before it is stored, see :meth:`pack`
    outputs : tensors that the graph gives, the logits first, then those dumped for comparison
    results : what the network returns: which of them, and functions that the host applies
    input_scale : what a step of an input code means to the network
    output_size : bytes that a run may write from OUTPUT_BASE on, outputs and spilled tensors
    batch : images of a run; their inputs follow one another
    output_stride : bytes from an output to the same of the next image
    """

    name: str
    image: bytes
    input: TensorLayout
    space_to_depth: SpaceToDepth
    outputs: tuple[Output, ...]
    results: tuple[nodes.Output, ...] = ()
    segments: tuple[LayerSegment, ...]
    graph_digest: str
    config: AccelConfig
    class_names: tuple[str, ...] = ()
    input_scale: float = 1.0
    output_size: int = 0
    batch: int = 1
    output_stride: int = 0

    def pack(self, image: np.ndarray) -> bytes:
        """Bytes of an integer image (C, H, W); those of a run's images follow one another."""
        image = image.reshape(numerics.map_shape(image.shape))
        return self.input.pack(self.space_to_depth.gather(image))

    def read(self, memory: bytes) -> list[dict[str, np.ndarray]]:
        """Outputs by name, int64 (C, H, W), for each image of a run, out of the bytes from
        OUTPUT_BASE on."""
        return [
            {
                output.name: output.read(memory[image * self.output_stride :])
                for output in self.outputs
            }
            for image in range(self.batch)
        ]

    def save(self, folder: pathlib.Path, network_digest: str | None = None) -> None:
        """Export of image and manifest to ``folder``.

        ``network_digest`` is the digest of the hybrid network that the program is a layer of.
        """
        manifest = {
            "name": self.name,
            "graph_digest": self.graph_digest,
            "network_digest": network_digest or self.graph_digest,
            "config_digest": config_digest(self.config),
            "config": dataclasses.asdict(self.config),
            "input": dataclasses.asdict(self.input),
            "space_to_depth": dataclasses.asdict(self.space_to_depth),
            "outputs": [dataclasses.asdict(output) for output in self.outputs],
            "results": [result.model_dump() for result in self.results],
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
        """Program that :meth:`save` wrote. Raises CompileError for anything but a whole one."""
        try:
            text, image = (folder / MANIFEST).read_bytes(), (folder / IMAGE).read_bytes()
        except OSError as error:
            raise CompileError(
                f"no program in {folder}: run python -m gateware.build first"
            ) from error
        try:
            manifest = json.loads(text)
            check_program(manifest)
            size, digest = manifest["image_bytes"], manifest["image_digest"]
            program = cls(
                name=manifest["name"],
                image=image,
                input=TensorLayout(**manifest["input"]),
                space_to_depth=SpaceToDepth.from_json(manifest["space_to_depth"]),
                outputs=tuple(
                    Output(
                        **{
                            **output,
                            "place": TensorLayout(**output["place"]),
                            "columns": tuple(output["columns"]),
                            "tiles": tuple(map(tuple, output["tiles"])),
                        }
                    )
                    for output in manifest["outputs"]
                ),
                results=tuple(map(nodes.Output.model_validate, manifest["results"])),
                segments=tuple(LayerSegment(**segment) for segment in manifest["segments"]),
                graph_digest=manifest["graph_digest"],
                config=AccelConfig(**manifest["config"]),
                class_names=tuple(manifest["class_names"]),
                input_scale=manifest["input_scale"],
                output_size=manifest["output_bytes"],
                batch=manifest["batch"],
                output_stride=manifest["output_stride"],
            )
        except pydantic.ValidationError as error:
            raise CompileError(
                f"{folder / MANIFEST} is damaged (results: {error.errors()[0]['msg']}); "
                "build it again"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
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
    """Program of ``graph`` for the accelerator ``config``, ``batch`` images in a run.

    With ``dump`` every layer's output is stored to memory as well, for comparison layer by layer.
    Raises :class:`CompileError` naming the layer and the reason.
    """
    lowered, memory, generator = generate(graph, config, dump=dump, batch=batch)
    image = generator.image
    return Program(
        name=graph.header.name,
        image=image.link(),
        input=generator.input,
        space_to_depth=lowered.space_to_depth,
        outputs=memory.outputs,
        results=graph.header.outputs,
        segments=tuple(image.segments),
        graph_digest=graph.digest,
        config=config,
        class_names=graph.header.class_names,
        input_scale=graph.tensor(generator.input_key.name).scale,
        output_size=memory.size,
        batch=batch,
        output_stride=memory.stride,
    )


def generate(
    graph: IntGraph, config: AccelConfig, *, dump: bool = False, batch: int = 1
) -> tuple[Lowered, OutputMemory, CodeGenerator]:
    """Code of a program and what it is made from; in bands only what does not fit otherwise.

    Raises CompileError.
    """
    try:
        return _generated(graph, config, dump=dump, batch=batch, banded=False)
    except NoPlan:
        return _generated(graph, config, dump=dump, batch=batch, banded=True)


def _generated(
    graph: IntGraph, config: AccelConfig, *, dump: bool, batch: int, banded: bool
) -> tuple[Lowered, OutputMemory, CodeGenerator]:
    lowered = lower(graph, config, batch, banded=banded)
    memory = OutputMemory(graph, lowered.plan, config, dump=dump, batch=batch)
    generator = CodeGenerator(graph, lowered, config, memory, batch=batch)
    generator.run()
    return lowered, memory, generator
