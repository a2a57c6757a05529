# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The offset-unsigned form; what the engine must do is in test_row_engines."""

import numpy as np
import pytest

from gateware.compiler.pack import engine_offset
from gateware.pe.base import Word
from gateware.pe.pot4 import Pot4Engine
from quant.numerics import Scheme, weight_values


@pytest.mark.parametrize("k, latency", [(1, 5), (2, 5), (6, 6), (8, 7), (16, 7), (18, 7), (20, 8)])
def test_latency(k: int, latency: int) -> None:
    # 1 + shift + pairs, then ternary levels over ceil(k / 2) terms, accumulator and sums.
    assert Pot4Engine(k=k, pixels=2).latency == latency


@pytest.mark.parametrize("planes, factor", [(1, 1), (2, 17)])
def test_offset(planes: int, factor: int) -> None:
    values = weight_values(Scheme.POT4)
    assert engine_offset(Scheme.POT4, values, planes) == 15 * 127 * factor
    assert engine_offset(Scheme.POT4, values[7:], planes) == 0
    assert engine_offset(Scheme.FIXED8, values, planes) == 0


def test_offset_wrong_planes() -> None:
    with pytest.raises(ValueError, match=r"planes must be 1 or 2, not 3"):
        engine_offset(Scheme.POT4, np.zeros(1), 3)


def test_sums_wrap_at_24_bits() -> None:
    words = [Word(np.full((1, 1), 15), first=i == 0, shift=True, last=True) for i in range(6)]
    sums = Pot4Engine(k=1, pixels=1).model(np.full((6, 1), 64), words)[:, 0].tolist()
    assert sums == [960 * (16 ** (i + 1) - 1) // 15 % (1 << 24) for i in range(6)]
