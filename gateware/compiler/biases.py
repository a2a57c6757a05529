# SPDX-License-Identifier: Apache-2.0
"""Biases of rows on the engines that they get."""

from collections.abc import Iterator

import numpy as np

from gateware.compiler.operations import CompileError, Gemm
from gateware.pe.base import RowEngine
from ir.numerics import BIAS_BITS

TERMS_AT_A_TIME = 1 << 20  #: weights of which the sums are bounded together


class Biases:
    """Biases of a layer's rows on engines whose raw sums exceed the true ones by known numbers.

    Parameters
    ----------
    gemm : Gemm
    planes : int
        Nibble planes of its input.
    """

    def __init__(self, gemm: Gemm, planes: int) -> None:
        self._gemm, self._planes = gemm, planes
        self._known: dict[type[RowEngine], dict[int, tuple[int, int, int]]] = {}

    def of(self, row: int, engine: type[RowEngine]) -> int:
        """Bias of a row on ``engine``. Raises CompileError where its sums or the bias are too
        large."""
        gemm = self._gemm
        if engine not in self._known:
            self._known[engine] = dict(self._rows(engine))
        offset, low, high = self._known[engine][row]
        least, most = engine.raw_limits()
        if low < least or high > most:
            raise CompileError(
                f"layer {gemm.name!r}: the sums of row {row} reach {low}..{high}, an "
                f"accumulator of {engine.__name__} holds {least}..{most}"
            )
        bias = int(gemm.bias[row]) - offset * int(gemm.multiplier[row])
        if abs(bias) >= 1 << BIAS_BITS - 1:
            raise CompileError(
                f"layer {gemm.name!r}: the bias of row {row} takes more than the "
                f"{BIAS_BITS} bits of the requantiser"
            )
        return bias

    def _rows(self, engine: type[RowEngine]) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """Rows of the scheme of ``engine``: excess of the raw sum, smallest and largest."""
        (mine,) = np.nonzero(self._gemm.scheme == engine.scheme)
        terms = self._gemm.values[0].size
        for some in np.array_split(mine, -(-len(mine) * terms // TERMS_AT_A_TIME)):
            rows = self._gemm.values[some].reshape(len(some), terms)
            low, high = engine.raw_ranges(rows, self._planes)
            offsets = engine.offsets(rows, self._planes)
            values = zip(offsets.tolist(), low.tolist(), high.tolist(), strict=True)
            yield from zip(some.tolist(), values, strict=True)
