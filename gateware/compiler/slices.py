# SPDX-License-Identifier: Apache-2.0
"""Layers in slices: where the weights of a row tile do not fit their buffer, or the words of a
pixel the descriptor, an EXECUTE adds up a slice of the inputs, and the next goes on with its sums.
So does a layer or pooling whose window has more rows than there is room for.

A slice is a range of the kernel's rows and columns and of the words of a pixel, in one nibble
plane. The array keeps the sums of one pixel group, so results are as narrow as that, and every
slice's weights are loaded again for each: made for linear layers.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.compiler.dependencies import Region
from gateware.compiler.layout import MAX_GROUPS, Strip, TensorLayout, WindowStrip
from gateware.compiler.operations import CompileError, Gemm, Part, Pool
from gateware.compiler.pack import pack_slot
from gateware.compiler.program_image import ProgramImage
from gateware.compiler.transfers import WRAP
from ir.graph import AvgPool, Conv, Flatten, IntGraph, Linear, MaxPool, WindowPool
from ir.numerics import ACT_BITS, act_max

MAX_KERNEL = 255  #: rows or columns of a kernel that a descriptor can count
#: Fields of an EXECUTE whose drain writes nothing.
_IDLE = {"wide": 0, "table": 0, "out_planes": 0, "residual": 0, "residual_planes": 0}


@dataclasses.dataclass(frozen=True)
class Slice:
    """Ranges of kernel rows, kernel columns and words of a pixel; ends are exclusive."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    words: tuple[int, int]

    def values(self, part: Part, k: int) -> np.ndarray:
        """Weights of a part of a layer that are in the slice, (rows, channels, kernel_y, kernel_x);
        words have ``k`` channels."""
        first, last = self.words
        return part.values[:, first * k : last * k, slice(*self.rows), slice(*self.columns)]


@dataclasses.dataclass(frozen=True)
class SlicedTile:
    """Weights and drain of a row tile, loaded and executed slice by slice.

    Parameters
    ----------
    slices : of its part of the layer, and the weight words of each; a pooling has none
    records : drain slots
    """

    slices: list[tuple[Slice, bytes]]
    records: list[bytes]

    def execute(
        self,
        image: ProgramImage,
        source: Strip,
        top: int,
        reads: list[Region],
        writes: list[Region],
        fields: dict[str, int],
    ) -> None:
        """EXECUTEs of one output row, whose ``fields`` for all inputs at once are given.

        The first ones leave their sums in the array: their drain slot writes nothing. The row's
        window begins in row ``top`` of the input; weights and slots, and of a
        :class:`~gateware.compiler.layout.WindowStrip` the input, are no part of ``reads``.
        """
        idle = image.load_slots([pack_slot([], image.config)])
        place, strip, rows = source.place, source, None
        last = (place.planes - 1, len(self.slices) - 1)
        for plane, (index, (piece, weights)) in itertools.product(
            range(place.planes), enumerate(self.slices)
        ):
            if isinstance(source, WindowStrip) and piece.rows != rows:
                rows = piece.rows
                strip = source.load(top + rows[0], top + rows[1])
            loaded = image.load_weights(weights) if weights else Region("weights", 0, 0)
            ends = (plane, index) == last
            slots = image.load_slots(self.records) if ends else idle
            own = self._fields(piece, place, plane, fields if ends else fields | _IDLE)
            own["first_row"] = (own["first_row"] + strip.row(0) - source.row(0)) % WRAP
            here = [] if strip is source else strip.regions(*(top + row for row in piece.rows))
            image.add(
                "executes",
                isa.EXECUTE,
                reads=[loaded, slots, *reads, *here],
                writes=writes if ends else [],
                **own
                | {
                    "weight_address": loaded.first,
                    "slot_address": slots.first,
                    "slots": slots.words,
                    "resume": (plane, index) != (0, 0),
                    "lower": plane > 0 and index == 0,
                },
            )

    @staticmethod
    def _fields(
        piece: Slice, place: TensorLayout, plane: int, fields: dict[str, int]
    ) -> dict[str, int]:
        """Fields of an EXECUTE that says where the words of a slice lie."""
        top, left, word = piece.rows[0], piece.columns[0], piece.words[0]
        shift = ACT_BITS * (place.planes - 1 - plane)
        skipped = (
            top * place.row_pitch
            + left // place.banks
            + word * place.group_pitch
            + plane * place.plane_pitch
        )
        return fields | {
            "planes": 0,
            "pad_value": fields["pad_value"] >> shift & act_max(ACT_BITS),
            "first_row": fields["first_row"] + skipped,
            "height": max(0, fields["height"] - top),
            "width": max(0, fields["width"] - left),
            "kernel_y": piece.rows[1] - top,
            "kernel_x": piece.columns[1] - left,
            "groups": piece.words[1] - word,
        }


def needs_slices(gemm: Gemm, source: TensorLayout, config: AccelConfig) -> bool:
    """True if an EXECUTE cannot go over all inputs of a layer."""
    words = gemm.most_words(config.k)
    height, width = gemm.kernel
    return words * height * width > config.weight_depth or source.groups > MAX_GROUPS


def needs_parts(graph: IntGraph, config: AccelConfig) -> bool:
    """True if ``graph`` may have a layer or pooling that needs slices, which only an array with
    parts has."""
    whole = {node.output: node.input for node in graph.nodes if isinstance(node, Flatten)}

    def form(tensor: str) -> TensorLayout:
        spec = graph.tensor(whole.get(tensor, tensor))
        return TensorLayout.of(spec.shape, config, bits=spec.bits)

    for node in graph.nodes:
        if isinstance(node, Conv | Linear):
            _, channels, *kernel = (*graph.layers[node.name].values.shape, 1, 1)[:4]
            if isinstance(node, Linear):  # its kernel is the map that it reads, word by word
                channels, *kernel = form(node.input).shape
            groups = -(-channels // config.k)
            if groups > MAX_GROUPS or groups * kernel[0] * kernel[1] > config.weight_depth:
                return True
        if isinstance(node, Linear | Conv | AvgPool | MaxPool | WindowPool):
            source, target = form(node.input), form(node.output)
            if target.width <= config.pixels and source.words + target.words > config.act_depth:
                return True
    return False


def row_slices(pool: Pool, rows: int) -> list[Slice]:
    """Slices of ``rows`` rows of a pooling's window."""
    height, width = pool.kernel
    return [Slice(part, (0, width), (0, 1)) for part in _ranges(height, rows)]


def slices(
    gemm: Gemm,
    part: Part,
    source: TensorLayout,
    target: TensorLayout,
    config: AccelConfig,
    window: int = MAX_KERNEL,
) -> list[Slice]:
    """Slices of a part of a layer, of half the weight buffer and ``window`` rows at most each.

    Raises CompileError.
    """

    def refuse(reason: str) -> CompileError:
        height, width = gemm.kernel
        return CompileError(
            f"layer {gemm.name!r} has {part.words * height * width} weight words per row tile, "
            f"{part.words} for each pixel, the buffer holds {config.weight_depth}, and {reason}"
        )

    if not config.parts:
        raise refuse(
            "the array goes over all inputs at once: AccelConfig(parts=True), which gateware.build "
            "sets by itself"
        )
    if gemm.wide and target.height > 1:
        raise refuse("it gives raw outputs of more than one row")
    if target.width > config.pixels:
        raise refuse(
            f"it has {target.width} columns: with more than {config.pixels} it needs a buffer of "
            f"{part.words * gemm.kernel[0] * gemm.kernel[1]} words"
        )
    height, width = gemm.kernel
    most = max(1, config.weight_depth // 2)
    words = min(part.words, MAX_GROUPS, max(1, most // (height * width)))
    rows = min(height, window, MAX_KERNEL, max(1, most // (words * width)))
    columns = min(width, MAX_KERNEL, max(1, most // (words * rows)))
    if columns < width:
        columns = columns // config.banks * config.banks
    if not columns:
        raise refuse(f"its slices have {config.banks} columns at least")
    if (rows < height or columns < width) and any(gemm.padding):
        raise refuse("a kernel with padding cannot be cut")
    return [
        Slice(*ranges)
        for ranges in itertools.product(
            _ranges(height, rows), _ranges(width, columns), _ranges(part.words, words)
        )
    ]


def _ranges(size: int, most: int) -> Iterator[tuple[int, int]]:
    for first in range(0, size, most):
        yield first, min(first + most, size)
