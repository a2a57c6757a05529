# SPDX-License-Identifier: Apache-2.0
"""The integer graph: the one file between training and hardware.

A graph is a list of nodes over named tensors, in execution order, with every constant an integer of
:mod:`quant.numerics`. It is stored as one ``.safetensors`` file: the arrays as tensors, the
structure as JSON in the header. The digest covers both; a file that was truncated or edited is
refused.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Annotated, Literal

import numpy as np
import pydantic
import safetensors
import safetensors.numpy

from quant import numerics
from quant.arrays import GraphError, LayerArrays
from quant.numerics import Scheme
from quant.ratio import Ratio

FORMAT = "rmsmp-intgraph"
VERSION = 1
BIAS_LIMIT = 1 << numerics.BIAS_BITS - 2    #: B lies in [-BIAS_LIMIT, BIAS_LIMIT)


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TensorSpec(_Model):
    """An activation tensor: unsigned integers ``a`` with ``x = scale * (a - zero_point)``."""

    name: str
    shape: tuple[int, int, int]         #: channels, height, width; a vector is (channels, 1, 1)
    bits: Literal[4, 8]
    scale: float = pydantic.Field(gt=0)
    zero_point: int = 0


class Residual(_Model):
    """Second operand of a layer's requantisation: ``t += r * N``, ``N = n * 2^(S - 14)``."""

    tensor: str
    n: int = pydantic.Field(ge=0, lt=1 << numerics.RESIDUAL_BITS)


class _Node(_Model):
    name: str
    input: str
    output: str                          #: tensor written


class _Gemm(_Node):
    """A layer with weights; its arrays are a :class:`LayerArrays` under the node's name.

    A ``wide`` layer ends the graph: its result is ``t`` itself, in the scale ``logit_scale`` common
    to its rows, which therefore have one S.
    """

    low: int = 0
    high: int = numerics.NIBBLE_MAX
    residual: Residual | None = None
    wide: bool = False


class Conv(_Gemm):
    op: Literal["conv"] = "conv"
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    #: top, bottom, left, right; filled with the input's zero_point
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1


class Linear(_Gemm):
    op: Literal["linear"] = "linear"


class MaxPool(_Node):
    """Largest code of each window; input and output have the same bits, scale and zero point."""

    op: Literal["max_pool"] = "max_pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    #: top, bottom, left, right; filled with 0, the smallest code
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


class AvgPool(_Node):
    """``y = clamp((sum * multiplier + bias) >> shift)`` over each window."""

    op: Literal["avg_pool"] = "avg_pool"
    kernel: tuple[int, int]
    stride: tuple[int, int]
    multiplier: int = pydantic.Field(ge=0, lt=1 << numerics.MULTIPLIER_BITS)
    bias: int = pydantic.Field(ge=-BIAS_LIMIT, lt=BIAS_LIMIT)
    shift: int = pydantic.Field(ge=numerics.SHIFT_MIN, le=numerics.SHIFT_MAX)
    low: int = 0
    high: int = numerics.NIBBLE_MAX


class Flatten(_Node):
    """(C, H, W) to (C*H*W, 1, 1) in C, H, W order, as ``torch.flatten``; codes stay the same."""

    op: Literal["flatten"] = "flatten"


Node = Annotated[Conv | Linear | MaxPool | AvgPool | Flatten, pydantic.Field(discriminator="op")]


class Header(_Model):
    """The JSON part of a graph file."""

    format: Literal["rmsmp-intgraph"] = FORMAT
    version: int = VERSION
    name: str
    tensors: tuple[TensorSpec, ...]
    nodes: tuple[Node, ...]
    input: str
    output: str
    ratio: str                           #: PoT4:Fixed4:Fixed8 that the rows were assigned with
    tile_rows: int = pydantic.Field(gt=0)    #: rows per tile of that assignment
    class_names: tuple[str, ...] = ()
    logit_scale: float = pydantic.Field(default=1.0, gt=0)   #: real logit = logit_scale * t
    provenance: dict[str, str] = {}


def _window(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    return (size + before + after - kernel) // stride + 1


@dataclasses.dataclass(frozen=True)
class IntGraph:
    """A validated graph. Construction raises :class:`GraphError` for anything inconsistent."""

    header: Header
    layers: dict[str, LayerArrays]

    def __post_init__(self) -> None:
        self._validate()

    def tensor(self, name: str) -> TensorSpec:
        """The spec of tensor ``name``."""
        return next(t for t in self.header.tensors if t.name == name)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.header.nodes

    @property
    def digest(self) -> str:
        """Hex digest of the whole content, printed by training and hardware alike."""
        return _digest(self.header, self._stored())

    def _stored(self) -> dict[str, np.ndarray]:
        return {f"{name}.{key}": array for name, layer in self.layers.items()
                for key, array in layer.pack().items()}

    def save(self, path: pathlib.Path | str) -> None:
        """Write the file; the old one stays until the new one is complete."""
        path = pathlib.Path(path)
        stored = self._stored()
        metadata = {"graph": self.header.model_dump_json(), "digest": _digest(self.header, stored)}
        partial = path.with_name(path.name + ".partial")
        try:
            safetensors.numpy.save_file(stored, partial, metadata=metadata)
            partial.chmod(0o644)    # safetensors lets nobody else read it
            partial.replace(path)
        except (OSError, safetensors.SafetensorError) as error:
            partial.unlink(missing_ok=True)
            raise GraphError(f"cannot write {path}: {error}") from error

    @classmethod
    def load(cls, path: pathlib.Path | str) -> "IntGraph":
        """Read and check a file. Raises :class:`GraphError` with one line for anything wrong."""
        path = pathlib.Path(path)
        if not path.is_file():
            raise GraphError(f"no graph file at {path}; python -m quant.train writes one into its "
                             f"run folder")
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
                raise GraphError(f"{path} has graph version {content.get('version')}, this "
                                 f"software reads version {VERSION}; export it again")
            header = Header.model_validate(content)
        except (KeyError, json.JSONDecodeError, AttributeError) as error:
            raise GraphError(f"{path} has no graph in its header; python -m quant.train writes "
                             f"one") from error
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise GraphError(f"{path}: graph field {place}: {first['msg']}") from error
        canonical = metadata["graph"] == header.model_dump_json()
        if not canonical or metadata.get("digest") != _digest(header, stored):
            raise GraphError(f"{path} does not match its digest: the file was damaged or edited; "
                             f"export it again")
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for key, array in stored.items():
            name, _, field = key.rpartition(".")
            arrays.setdefault(name, {})[field] = array
        try:
            layers = {name: LayerArrays.unpack(arrays[name]) for name in sorted(arrays)}
        except (KeyError, ValueError) as error:
            raise GraphError(f"{path}: weights are damaged: {error}") from error
        return cls(header, layers)

    def _validate(self) -> None:
        """Every reference, shape and range; raises :class:`GraphError` naming the node."""
        try:
            Ratio.parse(self.header.ratio)
        except ValueError as error:
            raise GraphError(str(error)) from error
        specs = {t.name: t for t in self.header.tensors}
        if len(specs) != len(self.header.tensors):
            raise GraphError("two tensors have the same name")
        if self.header.input not in specs:
            raise GraphError(f"graph input {self.header.input!r} is not a tensor of the graph")
        for spec in specs.values():
            if min(spec.shape) < 1 or not 0 <= spec.zero_point <= numerics.act_max(spec.bits):
                raise GraphError(f"tensor {spec.name!r} has shape {spec.shape}, zero point "
                                 f"{spec.zero_point}")
        known, names, wide = {self.header.input}, set(), set()
        for node in self.nodes:
            if node.name in names:
                raise GraphError(f"two nodes are named {node.name!r}")
            names.add(node.name)
            residual = getattr(node, "residual", None)
            for name in [node.input] + ([residual.tensor] if residual else []):
                if name not in known:
                    raise GraphError(f"node {node.name!r} reads {name!r}, which nothing before it "
                                     f"writes")
                if name in wide:
                    raise GraphError(f"node {node.name!r} reads {name!r}, which is wide")
            if node.output in known or node.output not in specs:
                raise GraphError(f"node {node.name!r} writes {node.output!r}, which is not a free "
                                 f"tensor")
            self._check_node(node, specs)
            known.add(node.output)
            if getattr(node, "wide", False):
                wide.add(node.output)
        if self.header.output not in known - {self.header.input}:
            raise GraphError(f"graph output {self.header.output!r} is written by no node")
        if wide - {self.header.output}:
            raise GraphError(f"wide tensor {min(wide - {self.header.output})!r} is not the graph's "
                             f"output")
        extra = set(self.layers) - {n.name for n in self.nodes if isinstance(n, _Gemm)}
        if extra:
            raise GraphError(f"weights without a layer: {', '.join(sorted(extra))}")

    def _check_node(self, node: Node, specs: dict[str, TensorSpec]) -> None:
        source, target = specs[node.input], specs[node.output]
        channels, height, width = source.shape
        if isinstance(node, Flatten):
            shape = (channels * height * width, 1, 1)
        elif isinstance(node, Linear):
            shape = (self._check_layer(node, source, (channels * height * width,)), 1, 1)
            if (height, width) != (1, 1):
                raise GraphError(f"linear {node.name!r} needs a flat input, {node.input!r} is "
                                 f"{source.shape}")
        else:
            pads = getattr(node, "padding", (0, 0, 0, 0))
            if min(*node.kernel, *node.stride) < 1 or min(pads) < 0:
                raise GraphError(f"node {node.name!r} has kernel {node.kernel}, stride "
                                 f"{node.stride}, padding {pads}")
            out = [_window(size, node.kernel[i], node.stride[i], pads[2 * i], pads[2 * i + 1])
                   for i, size in enumerate((height, width))]
            if isinstance(node, Conv):
                if node.groups < 1 or channels % node.groups:
                    raise GraphError(f"conv {node.name!r}: {channels} channels in {node.groups} "
                                     f"groups")
                channels = self._check_layer(node, source, (channels // node.groups, *node.kernel))
                if channels % node.groups:
                    raise GraphError(f"conv {node.name!r}: {channels} rows in {node.groups} groups")
            elif isinstance(node, AvgPool):
                most = node.kernel[0] * node.kernel[1] * numerics.act_max(source.bits)
                self._check_acc(node, most)
            shape = (channels, *out)
        if shape != target.shape:
            raise GraphError(f"node {node.name!r} computes {shape}, but {node.output!r} is "
                             f"{target.shape}")
        code = [(spec.bits, spec.scale, spec.zero_point) for spec in (source, target)]
        if isinstance(node, MaxPool | Flatten) and code[0] != code[1]:
            raise GraphError(f"node {node.name!r} keeps its input's codes, but bits, scale or zero "
                             f"point of {node.output!r} differ")
        if hasattr(node, "low") and not 0 <= node.low <= node.high <= numerics.act_max(target.bits):
            raise GraphError(f"node {node.name!r} clamps to {node.low}..{node.high}, outside "
                             f"{target.bits} bits")
        if getattr(node, "residual", None):
            other = specs[node.residual.tensor]
            if other.shape != target.shape or node.wide:
                raise GraphError(f"node {node.name!r} cannot add {other.name!r} of shape "
                                 f"{other.shape}")

    def _check_acc(self, node: Node, most: int) -> None:
        if most >= 1 << numerics.ACC_BITS - 1:
            raise GraphError(f"node {node.name!r} can reach {most}, the accumulator has "
                             f"{numerics.ACC_BITS} bits")

    def _check_layer(self, node: Conv | Linear, source: TensorSpec,
                     row_shape: tuple[int, ...]) -> int:
        """Check arrays and value ranges of a layer; returns its rows."""
        layer = self.layers.get(node.name)
        if layer is None:
            raise GraphError(f"layer {node.name!r} has no weights")
        rows = len(layer.values)
        if not rows or layer.values.shape[1:] != row_shape:
            raise GraphError(f"layer {node.name!r} has {rows} rows of {layer.values.shape[1:]}, "
                             f"its input needs {row_shape}")
        per_row = (layer.scheme, layer.multiplier, layer.bias, layer.shift)
        if any(array.shape != (rows,) for array in per_row):
            raise GraphError(f"layer {node.name!r}: one M, B, S and scheme per row are needed")
        if not np.isin(layer.scheme, list(Scheme)).all():
            raise GraphError(f"layer {node.name!r} has an unknown scheme number")
        for scheme in Scheme:
            of_scheme = layer.rows[layer.scheme == scheme]
            if not np.isin(of_scheme, numerics.weight_values(scheme)).all():
                raise GraphError(f"layer {node.name!r} has a weight value outside {scheme.name}")
        low, high = numerics.acc_bounds(layer.rows, source.bits)
        self._check_acc(node, max(-low.min(), high.max()))
        ranges = (("multiplier", 0, (1 << numerics.MULTIPLIER_BITS) - 1),
                  ("shift", numerics.SHIFT_MIN, numerics.SHIFT_MAX),
                  ("bias", -BIAS_LIMIT, BIAS_LIMIT - 1))
        for field, least, most in ranges:
            array = getattr(layer, field)
            if array.min() < least or array.max() > most:
                raise GraphError(f"layer {node.name!r} has a {field} outside {least}..{most}")
        if node.wide and (layer.shift != layer.shift[0]).any():
            raise GraphError(f"wide layer {node.name!r} needs one shift for all its rows")
        return rows


def _digest(header: Header, stored: dict[str, np.ndarray]) -> str:
    """blake2s over the canonical JSON and every stored array."""
    hasher = hashlib.blake2s(header.model_dump_json().encode())
    for key in sorted(stored):
        array = np.ascontiguousarray(stored[key])
        hasher.update(f"{key}{array.dtype}{array.shape}".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()
