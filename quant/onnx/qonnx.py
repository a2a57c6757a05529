# SPDX-License-Identifier: Apache-2.0
"""Quantised networks of Brevitas, in files of QONNX, on the grids of this project.

QONNX (Pappalardo et al., arXiv:2206.07527) is ONNX with operators ``Quant`` of float values:
weights ``k * scale`` with whole k, and activations rounded to such. Rows with ``|k|`` up to 7 are
Fixed-4 with ``alpha = 7 * scale``, others up to 127 Fixed-8, whatever their bits in the file.
Activations keep bits and scale where :func:`quant.lowering.prepare.prepare` has a quantiser for the
same value. Halves are rounded up, and not to even, which is seen where a value is exactly one.
"""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx

from ir import numerics
from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.lowering.prepare import calibrate, note_codes, prepare
from quant.nn.activations import ActQuantiser
from quant.nn.layers import quantised_layers
from quant.onnx.read import Reader, load_model, with_sizes

DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
LAYERS = ("Conv", "Gemm", "MatMul")
IMAGE_TOLERANCE = 1e-5  #: of the scale of an image's pixels, which is 1/255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Grid of a Quant operator: ``scale`` (rows or one) times whole numbers ``low`` to ``high``."""

    name: str
    scale: np.ndarray
    bits: int
    low: int
    high: int

    def whole(self, values: np.ndarray) -> np.ndarray:
        """Numbers of ``values``, int64 in their shape."""
        scale = self.scale.astype(np.float64)
        return np.clip(np.round(values / scale), self.low, self.high).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Imported:
    """Quantised network, and what is not as in its file.

    Parameters
    ----------
    model : to train or to export
    calibrated : paths of its quantisers of activations that the file has no grid for
    left_out : nodes of the file's quantisers that it has no place for, where it is more exact
    """

    model: fx.GraphModule
    calibrated: list[str]
    left_out: list[str]

    @property
    def ratio(self) -> Ratio:
        """Shares of the rows of each scheme, in whole percents."""
        schemes = torch.cat([layer.scheme for layer in quantised_layers(self.model).values()])
        wide = round(100 * float(schemes.eq(Scheme.FIXED8).double().mean()))
        return Ratio(0, 100 - wide, wide)


def from_qonnx(path: Path | str, images: Tensor) -> Imported:
    """Quantised network in a file that Brevitas exported, to train or to export.

    Parameters
    ----------
    path : the file
    images : float (N, C, H, W) in 0..1, on which activations are calibrated that the file has no
        grid for, such as global averages

    Raises ValueError, in one line with the node's name, for what is no file of QONNX and for grids
    that ours do not hold: zero points, weights beyond -127..127, activations of other than 4 or 8
    bits, images that are not multiples of 1/255.
    """
    model = load_model(Path(path))
    try:
        return _Import(with_sizes(model, images.shape[1:])).run(images)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _grid(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> Grid:
    what = f"node {node.name!r}, operator {node.op_type}"
    if node.op_type != "Quant" or not all(name in constants for name in node.input[1:4]):
        raise ValueError(f"{what}: only Quant with constant scale, zero point and bits is read")
    scale, zero, bits = (constants[name] for name in node.input[1:4])
    options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    rounding, width = options.get("rounding_mode", b"ROUND").decode(), float(bits)
    if np.any(zero != 0) or width != int(width) or rounding not in ("ROUND", "HALF_EVEN"):
        raise ValueError(
            f"{what}: zero point {np.ravel(zero)[0]:g}, {width:g} bits, {rounding}: only 0, whole "
            "bits and ROUND are read"
        )
    signed, narrow = int(options.get("signed", 1)), int(options.get("narrow", 0))
    high = (1 << int(width) - signed) - 1 - (narrow if not signed else 0)
    return Grid(
        name=node.name,
        scale=scale,
        bits=int(width),
        low=-high - (1 - narrow) if signed else 0,
        high=high,
    )


class _Import:
    """One file: float network of its weights, and the grids by what they are of."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.weights: dict[str, Grid] = {}  # by the name of the constant
        self.values: dict[str, Grid] = {}  # by the name of the value before
        self.results: dict[str, str] = {}  # names of values behind, by the same
        constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        found = [node for node in model.graph.node if node.domain in DOMAINS]
        if not found:
            raise ValueError("it has no operators of QONNX: rmsmp.from_onnx reads float networks")
        for node in found:
            grid, source = _grid(node, constants), node.input[0]
            if source in constants:
                self._round(source, constants[source], grid)
                self.weights[source] = grid
            else:
                self.values.setdefault(source, grid)
                self.results[source] = node.output[0]
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.attribute[:]

    def _round(self, name: str, value: np.ndarray, grid: Grid) -> None:
        """Change of a constant to its values on ``grid``."""
        rounded = (grid.whole(value) * grid.scale.astype(np.float64)).astype(np.float32)
        for constant in self.model.graph.initializer:
            if constant.name == name:
                constant.CopyFrom(numpy_helper.from_array(rounded, name))

    def run(self, images: Tensor) -> Imported:
        """Network with the grids of the file; raises ValueError."""
        reader = Reader(self._direct())
        module = reader.run().eval()
        input_name = next(iter(reader.values))
        if (grid := self.values.pop(input_name, None)) is not None:
            _check_image(grid)
        places: dict[str, Grid] = {}
        for name, grid in self.values.items():
            if name in reader.values:  # of one value, the first
                places.setdefault(str(reader.values[name].target), grid)
        bits = Counter(grid.bits for grid in self.values.values()).most_common(1)
        prepared = prepare(module, images[:2], act_bits=8 if bits and bits[0][0] == 8 else 4)
        calibrate(prepared, images)
        calibrated, used = self._set_activations(prepared, places)
        self._set_weights(prepared, reader.weights)
        note_codes(prepared)
        outputs = {value.name for value in self.model.graph.output}
        left_out = [
            grid.name
            for name, grid in self.values.items()
            if grid.name not in used and self.results[name] not in outputs
        ]
        return Imported(prepared, calibrated, left_out)

    def _direct(self) -> onnx.ModelProto:
        """Model whose layers read their constants themselves, under the names that these have."""
        renamed = {
            node.output[0]: node.input[0]
            for node in self.model.graph.node
            if node.op_type == "Identity" and node.input[0] in self.weights
        }
        for node in self.model.graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
        return self.model

    def _set_activations(
        self, prepared: fx.GraphModule, places: dict[str, Grid]
    ) -> tuple[list[str], set[str]]:
        """Grids of the file, in place; paths of the quantisers that it has none for, and names of
        those that were used."""
        left, used = [], set()
        for node in prepared.graph.nodes:
            module = prepared.get_submodule(str(node.target)) if node.op == "call_module" else None
            if not isinstance(module, ActQuantiser):
                continue
            before = node.args[0]
            grid = places.get(str(node.target)) or places.get(str(getattr(before, "target", "")))
            if grid is None or module.tie is not None:
                left.append(str(node.target))
                continue
            if grid.bits not in (4, 8) or grid.scale.size != 1:
                raise ValueError(
                    f"node {grid.name!r}: activations of {grid.bits} bits and {grid.scale.size} "
                    "scales; the accelerator has 4 or 8 bits and one"
                )
            used.add(grid.name)
            module.bits = grid.bits
            module.zero_point = 1 << grid.bits - 1 if module.signed else 0
            with torch.no_grad():
                module.clip.fill_(float(grid.scale.ravel()[0]) * module.high)
                module.clamp_scales_()
        return left, used

    @torch.no_grad()
    def _set_weights(self, prepared: fx.GraphModule, names: dict[str, str]) -> None:
        """Schemes and scales of all layers, in place; ``names`` of constants by path."""
        transposed = {
            node.output[0]: node.input[0]
            for node in self.model.graph.node
            if node.op_type == "Transpose"
        }
        for path, layer in quantised_layers(prepared).items():
            if path not in names:
                continue  # of our own, such as a copy
            name = transposed.get(names[path], names[path])
            if name not in self.weights:
                raise ValueError(f"layer {path!r} has weights without a quantiser")
            grid, rows = self.weights[name], len(layer.weight)
            scale = np.broadcast_to(grid.scale.ravel(), (rows,))
            rounded = np.round(layer.weight.flatten(1).double().numpy() / scale[:, None])
            peak = np.abs(rounded).max(1)
            if peak.max() > Scheme.FIXED8.denominator:
                raise ValueError(f"layer {path!r} has weights of {grid.bits} bits, beyond Fixed-8")
            schemes = np.where(peak > Scheme.FIXED4.denominator, Scheme.FIXED8, Scheme.FIXED4)
            layer.assign(torch.from_numpy(schemes.astype(np.uint8)))
            steps = np.array([Scheme(s).denominator for s in schemes])
            layer.alpha.copy_(torch.from_numpy((scale * steps).astype(np.float32)))


def _check_image(grid: Grid) -> None:
    """Check that pixels of 8 bits are what the first layer reads. Raises ValueError."""
    scale = float(grid.scale.ravel()[0])
    if (grid.low, grid.high) != (0, numerics.act_max(8)) or abs(scale * 255 - 1) > IMAGE_TOLERANCE:
        raise ValueError(
            f"node {grid.name!r}: images of {grid.low}..{grid.high} times {scale:g}; the "
            "accelerator has 0..255 times 1/255"
        )
