# SPDX-License-Identifier: Apache-2.0
"""Hybrid networks, with float operations on the host: a program for each linear layer between them.

The host quantises what a layer reads, runs its program, and reads its raw outputs. The vectors of
a sequence lie in rows of the image, so that all pixel lanes of the array have work.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import numpy as np

from gateware.arch.config import AccelConfig
from gateware.compiler.operations import CompileError
from gateware.compiler.program import Program, compile_graph
from ir import golden
from ir.graph import Conv, Host, IntGraph, Linear, Node, Output

LAYERS = PurePosixPath("layers")  #: folder of the layers' programs in a build folder
LONGEST_NAME = 200  #: bytes of a layer's name; file systems take 255

#: Runs a program on codes (C, H, W) in the shape of its input; gives the tensor of its output.
Execute = Callable[[Program, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Program, and the graph that it computes: the whole network's, or one of a single layer.

    folder : in the build folder
    tensor : of the network's graph, which the program reads
    """

    folder: PurePosixPath
    tensor: str
    graph: IntGraph
    program: Program

    @property
    def name(self) -> str:
        """Network's name, or the layer's."""
        return self.graph.header.name


def is_hybrid(graph: IntGraph) -> bool:
    """True if the host has a part in ``graph``."""
    return any(isinstance(node, Host) for node in graph.nodes)


def compile_all(graph: IntGraph, config: AccelConfig, batch: int = 1) -> list[Compiled]:
    """Programs of a network: one, or one for each layer where the host has a part in it.

    Raises CompileError naming the layer and the reason.
    """
    if not is_hybrid(graph):
        return [
            Compiled(
                PurePosixPath(),
                graph.input.name,
                graph,
                compile_graph(graph, config, batch=batch),
            )
        ]
    if batch != 1:
        raise CompileError(
            f"graph {graph.header.name!r} calls the accelerator layer by layer; "
            "there is no batch of images"
        )
    found = []
    for node in graph.nodes:
        if not isinstance(node, Host):
            alone = layer_graph(graph, node, config)
            folder = layer_folder(node.name)
            found.append(Compiled(folder, node.input, alone, compile_graph(alone, config)))
    return found


def layer_folder(name: str) -> PurePosixPath:
    """Folder, in a build folder, of the program of layer ``name``.

    Raises CompileError for a name that no folder can have, or that leads elsewhere.
    """
    if (
        name in ("", ".", "..")
        or not name.isprintable()
        or "/" in name
        or len(name.encode()) > LONGEST_NAME
    ):
        raise CompileError(
            f"layer {name[:60]!r} cannot name a folder of its program: give it another name"
        )
    return LAYERS / name


def layer_graph(graph: IntGraph, node: Node, config: AccelConfig) -> IntGraph:
    """Graph of one layer. Raises CompileError for anything but a linear one with raw outputs.

    Raw outputs do not depend on S, so here all rows have the same, as an output must.
    """
    if not (isinstance(node, Conv | Linear) and node.wide and node.residual is None):
        raise CompileError(f"node {node.name!r} is no linear layer between operations of the host")
    source, target = graph.tensor(node.input), graph.tensor(node.output)
    arrays = graph.layers[node.name]
    shift = int(arrays.shift.min())
    scale = float(np.ldexp(1.0, -shift))
    header = graph.header.model_copy(
        update={
            "name": node.name,
            "nodes": (node,),
            "input": source.name,
            "outputs": (Output(tensor=target.name),),
            "host_inputs": (),
            "class_names": (),
            "tensors": (
                source.model_copy(update={"shape": folded(source.shape, config)}),
                target.model_copy(update={"shape": folded(target.shape, config), "scale": scale}),
            ),
        }
    )
    return IntGraph(
        header, {node.name: dataclasses.replace(arrays, shift=np.full_like(arrays.shift, shift))}
    )


def folded(shape: tuple[int, int, int], config: AccelConfig) -> tuple[int, int, int]:
    """Shape of a sequence (C, T, 1) as an image: the longest rows that T divides into and that
    take one word of each bank of the activation buffer."""
    channels, length, width = shape
    if width != 1:
        return shape
    columns = next(c for c in range(min(length, config.banks), 0, -1) if length % c == 0)
    return (channels, length // columns, columns)


def on_accelerator(compiled: Iterable[Compiled], execute: Execute) -> golden.LayerCallback:
    """Callback for :func:`ir.golden.run` that computes the layers of a hybrid graph."""
    programs = {one.name: one for one in compiled}

    def layer(node: Node, codes: np.ndarray) -> np.ndarray:
        one = programs[node.name]
        shape = one.graph.input.shape
        results = np.stack([execute(one.program, c.reshape(shape)) for c in codes])
        return results.reshape(*results.shape[:2], *codes.shape[2:])

    return layer
