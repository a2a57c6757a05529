# SPDX-License-Identifier: Apache-2.0
"""The integer graph: the one file between training and hardware.

A graph is a list of nodes (:mod:`ir.nodes`) over named tensors, in execution order, with every
constant an integer of :mod:`ir.numerics`. A node says where float operations run on the host;
what they compute is no part of the graph. It is stored as one ``.safetensors`` file: the arrays as
tensors, the structure as JSON in the header. The digest covers both; a file that was truncated or
edited is refused.
"""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import pydantic
import safetensors
import safetensors.numpy

from ir.arrays import GraphError, LayerArrays
from ir.nodes import (
    FORMAT,
    VERSION,
    AvgPool,
    Conv,
    DepthToSpace,
    Flatten,
    Gather,
    Header,
    Host,
    HostFunction,
    IntegerNode,
    Linear,
    MaxPool,
    Mul,
    Node,
    Output,
    Residual,
    TensorSpec,
    Upsample,
    Window,
    WindowPool,
)
from ir.validate import validate

TABLE = "table"  #: last part of the name of a stored table
GRAPH = "graph.safetensors"  #: file of a run, or of a build, with its graph
RUNS = pathlib.Path("runs")  #: folder of the runs that have a name

__all__ = [
    "AvgPool",
    "Conv",
    "DepthToSpace",
    "Flatten",
    "Gather",
    "GraphError",
    "Header",
    "Host",
    "HostFunction",
    "IntGraph",
    "IntegerNode",
    "LayerArrays",
    "Linear",
    "MaxPool",
    "Mul",
    "Node",
    "Output",
    "Residual",
    "TensorSpec",
    "Upsample",
    "Window",
    "WindowPool",
]


@dataclasses.dataclass(frozen=True)
class IntGraph:
    """Integer graph, validated.

    Construction raises :class:`GraphError` for anything inconsistent.

    Parameters
    ----------
    header : all but the arrays
    layers : arrays of each layer, by the name of its node
    tables : uint8 (256,) each, which nodes name: the code of the output for each code before it
    """

    header: Header
    layers: dict[str, LayerArrays]
    tables: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        validate(self.header, self.layers, self.tables)

    def tensor(self, name: str) -> TensorSpec:
        """Spec of tensor ``name``, one of ``header.tensors``."""
        return next(t for t in self.header.tensors if t.name == name)

    @property
    def input(self) -> TensorSpec:
        """Spec of the tensor of images; raises ValueError where the graph begins on the host."""
        if self.header.input is None:
            raise ValueError(f"graph {self.header.name!r} begins on the host, and takes no images")
        return self.tensor(self.header.input)

    @property
    def output(self) -> TensorSpec:
        """Spec of the first output's tensor, the logits: real values are ``scale * (t - zero)``."""
        return self.tensor(self.header.outputs[0].tensor)

    def pad_codes(self, tensor: str) -> tuple[int, ...]:
        """Codes with which a convolution pads ``tensor``: one, or one for each channel."""
        if tensor == self.header.input and self.header.border:
            return self.header.border
        return (self.tensor(tensor).zero_point,)

    def writer(self, tensor: str) -> Node:
        """Node that writes ``tensor``, which is not the graph's input."""
        return next(
            node
            for node in self.nodes
            if tensor in (node.outputs if isinstance(node, Host) else (node.output,))
        )

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Nodes in execution order."""
        return self.header.nodes

    @property
    def digest(self) -> str:
        """Hex digest of the whole content, printed by training and hardware alike."""
        return _digest(self.header, self._stored())

    def _stored(self) -> dict[str, np.ndarray]:
        arrays = {
            f"{name}.{key}": array
            for name, layer in self.layers.items()
            for key, array in layer.pack().items()
        }
        return arrays | {f"{name}.{TABLE}": table for name, table in self.tables.items()}

    def save(self, path: pathlib.Path | str) -> None:
        """Export to ``path``; the old file stays until the new one is complete.

        Raises :class:`GraphError` where it cannot be written.
        """
        path = pathlib.Path(path)
        stored = self._stored()
        metadata = {"graph": self.header.model_dump_json(), "digest": _digest(self.header, stored)}
        partial = path.with_name(path.name + ".partial")
        try:
            safetensors.numpy.save_file(stored, partial, metadata=metadata)
            partial.chmod(0o644)  # safetensors lets nobody else read it
            partial.replace(path)
        except (OSError, safetensors.SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise GraphError(f"cannot write {path}: {error}") from error

    @classmethod
    def load(cls, path: pathlib.Path | str) -> "IntGraph":
        """Graph in a file, checked; raises :class:`GraphError`, one line, for anything wrong."""
        path = pathlib.Path(path)
        if path.is_dir():
            raise GraphError(f"{path} is a folder without {GRAPH}; python -m quant.train makes one")
        try:
            path.open("rb").close()  # safetensors gives no reason
        except FileNotFoundError:
            raise GraphError(
                f"no graph file at {path}; python -m quant.train writes one into its run folder"
            ) from None
        except OSError as error:
            raise GraphError(f"cannot read {path}: {error.strerror}") from error
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                keys = file.keys()
                stored = {key: file.get_tensor(key) for key in keys}
        except (OSError, safetensors.SafetensorError) as error:
            raise GraphError(f"{path} is not a complete graph file: {error}") from error
        try:
            content = json.loads(metadata["graph"])
            if content.get("format") != FORMAT:
                raise GraphError(f"{path} is not an {FORMAT} file")
            if content.get("version") != VERSION:
                raise GraphError(
                    f"{path} has graph version {content.get('version')!r}, this "
                    f"software reads version {VERSION}; export it again"
                )
            header = Header.model_validate(content)
        except (KeyError, json.JSONDecodeError, AttributeError) as error:
            raise GraphError(
                f"{path} has no graph in its header; python -m quant.train writes one"
            ) from error
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise GraphError(f"{path}: graph field {place}: {first['msg']}") from error
        canonical = metadata["graph"] == header.model_dump_json()
        if not canonical or metadata.get("digest") != _digest(header, stored):
            raise GraphError(
                f"{path} does not match its digest: the file was damaged or edited; export it again"
            )
        arrays: dict[str, dict[str, np.ndarray]] = {}
        tables: dict[str, np.ndarray] = {}
        for key, array in sorted(stored.items()):
            name, _, field = key.rpartition(".")
            if field == TABLE:
                tables[name] = array
            else:
                arrays.setdefault(name, {})[field] = array
        try:
            layers = {name: LayerArrays.unpack(arrays[name]) for name in sorted(arrays)}
        except (KeyError, ValueError) as error:
            raise GraphError(f"{path}: weights are damaged: {error}") from error
        return cls(header, layers, tables)


def graph_file(which: pathlib.Path | str) -> pathlib.Path:
    """File of a graph: itself, that in a folder, or that of the run of this name in ``runs``."""
    path = pathlib.Path(which)
    for folder in (path, RUNS / path):
        if folder.is_dir() and (folder / GRAPH).exists():
            return folder / GRAPH
    return path


def _digest(header: Header, stored: dict[str, np.ndarray]) -> str:
    """blake2s over the canonical JSON and every stored array."""
    hasher = hashlib.blake2s(header.model_dump_json().encode())
    for key in sorted(stored):
        array = np.ascontiguousarray(stored[key])
        hasher.update(f"{key}{array.dtype}{array.shape}".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()
