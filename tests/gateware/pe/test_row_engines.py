# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""What every row engine must do, whatever it is made of; in its portable form.

Mirrors no module: one contract for the engines of all schemes.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from gateware.pe.base import RowEngine, Word
from gateware.pe.fixed4_dsp import Fixed4DspEngine
from gateware.pe.fixed4_lut import Fixed4LutEngine
from gateware.pe.fixed4_pair import Fixed4PairEngine
from gateware.pe.fixed8 import Fixed8Engine
from gateware.pe.pot4 import Pot4Engine
from ir.numerics import NIBBLE_MAX, encode_weights, weight_values
from sim.benches.stimulus import product_words, random_values, random_words
from tests.helpers.engines import check_engine

ENGINES = (Pot4Engine, Fixed4PairEngine, Fixed4DspEngine, Fixed4LutEngine, Fixed8Engine)
#: One accumulates in 20-bit lanes, where repeated shifts would overflow at once.
WIDE = {engine: engine is not Fixed4DspEngine for engine in ENGINES}


def exact(values: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """The dot product of all words, (rows, pixels)."""
    acts = np.array([word.act for word in words])
    return np.einsum("rwk,wpk->rp", values, acts)


@pytest.mark.parametrize("kind", ENGINES, ids=lambda engine: engine.__name__)
class TestRowEngine:
    @pytest.mark.slow
    def test_products(self, kind: type[RowEngine], seed: int) -> None:
        # Weights of each row meet activations of each pixel; sim/test_engines.py has them all.
        values, words = product_words(kind)
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(words))[:3000]
        values, words = values[:, chosen], [words[i] for i in chosen]
        expected = check_engine(kind(k=1, pixels=2), values, words)
        for row in range(kind.rows):
            offsets = np.array([kind.offset(value, 1) for value in values[row]])
            acts = np.array([word.act for word in words])
            np.testing.assert_array_equal(
                expected[:, row] - offsets[:, None], (values[row, :, None] * acts).sum(2)
            )

    @pytest.mark.slow
    @pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
    @pytest.mark.parametrize("k, pixels", [(1, 2), (5, 2), (16, 2), (24, 2)])
    def test_random_words(
        self, kind: type[RowEngine], k: int, pixels: int, stall: float, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        words = random_words(rng, k=k, pixels=pixels, count=100, stall=stall, shift=WIDE[kind])
        values = np.stack(
            [random_values(rng, kind.scheme, len(words), k) for _ in range(kind.rows)]
        )
        check_engine(kind(k=k, pixels=pixels), values, words)

    @pytest.mark.parametrize("first", [False, True])
    @pytest.mark.parametrize("shift", [False, True])
    @pytest.mark.parametrize("last", [False, True])
    @pytest.mark.parametrize("valid", [False, True])
    def test_control(
        self, kind: type[RowEngine], valid: bool, first: bool, shift: bool, last: bool
    ) -> None:
        acts, weight = np.full((2, 1), 3), weight_values(kind.scheme)[-1]
        words = [
            Word(act=acts, first=True, last=True),
            Word(act=acts, valid=valid, first=first, shift=shift, last=last),
            Word(act=acts, last=True),
        ]
        values = np.full((kind.rows, 3, 1), weight)
        expected = check_engine(kind(k=1, pixels=2), values, words)
        term = 3 * weight + kind.offset(np.array([weight]), 1)
        before = (0 if first else 16 * term if shift else term) + term if valid else term
        assert expected[:, 0, 0].tolist() == [
            term,
            before if valid and last else term,
            before + term,
        ]

    @pytest.mark.slow
    @pytest.mark.parametrize("weight, neighbour", [(-1, -1), (-1, 0), (0, -1), (0, 0)])
    @pytest.mark.parametrize("act", [0, NIBBLE_MAX])
    def test_longest_sum(
        self, kind: type[RowEngine], weight: int, neighbour: int, act: int
    ) -> None:
        # As many words as the accumulator holds for certain, at the largest products of either
        # sign, next to a pixel and to a row at the same and at the other extreme.
        levels = weight_values(kind.scheme)
        row = [levels[weight], levels[neighbour]][: kind.rows]
        acts = np.full((2, 16), act)
        acts[1] = NIBBLE_MAX if neighbour else 0
        word = np.array([[value] * 16 for value in row])
        reach = max(abs(bound) for value in word for bound in kind.raw_range(value, 1))
        count = min(min(abs(limit) for limit in kind.raw_limits() if limit) // reach, 400)
        words = [Word(act=acts, first=i == 0, last=i >= count - 2) for i in range(count)]
        values = np.repeat(word[:, None], count, axis=1)
        raw = check_engine(kind(k=16, pixels=2), values, words)[-1]
        offsets = np.array([[kind.offset(row, 1)] for row in values])
        np.testing.assert_array_equal(raw - offsets, exact(values, words))

    def test_two_planes(self, kind: type[RowEngine], seed: int) -> None:
        rng = np.random.default_rng(seed)
        values = np.stack([random_values(rng, kind.scheme, 6, 4) for _ in range(kind.rows)])
        wide = rng.integers(0, 256, (6, 2, 4))
        words = [
            Word(
                act=plane[i],
                first=plane is high and i == 0,
                shift=plane is low and i == 0,
                last=plane is low and i == 5,
            )
            for high, low in [(wide >> 4, wide & 15)]
            for plane in (high, low)
            for i in range(6)
        ]
        both = np.concatenate([values, values], axis=1)
        raw = check_engine(kind(k=4, pixels=2), both, words)[-1]
        offsets = np.array([[kind.offset(row, 2)] for row in values])
        np.testing.assert_array_equal(raw - offsets, np.einsum("rwk,wpk->rp", values, wide))

    def test_codes(self, kind: type[RowEngine]) -> None:
        levels = weight_values(kind.scheme)
        values = np.stack([every.reshape(-1) for every in np.meshgrid(*[levels] * kind.rows)])
        codes = kind.encode(values)
        assert codes.dtype == np.uint8 and codes.max() < 1 << kind.scheme.bits
        np.testing.assert_array_equal(kind.decode(codes), values)
        assert len(np.unique(codes, axis=1).T) == values.shape[1]
        with pytest.raises(ValueError, match="weight value"):
            kind.encode(values * 3 + 1)

    @pytest.mark.parametrize("planes", [1, 2])
    def test_raw_range_is_reached(self, kind: type[RowEngine], planes: int, seed: int) -> None:
        values = random_values(np.random.default_rng(seed), kind.scheme, 1, 7)[0]
        most = (1 << 4 * planes) - 1
        reached = [
            int((values * np.where(values * sign > 0, most, 0)).sum()) + kind.offset(values, planes)
            for sign in (-1, 1)
        ]
        assert kind.raw_range(values, planes) == tuple(reached)

    def test_wrong_planes(self, kind: type[RowEngine]) -> None:
        with pytest.raises(ValueError, match=r"planes must be 1 or 2, not 3"):
            kind.offset(np.zeros(1), 3)

    def test_init_wrong_k(self, kind: type[RowEngine]) -> None:
        with pytest.raises(ValueError, match=r"k must be a positive integer, not 0"):
            kind(k=0, pixels=2)

    def test_init_wrong_pixels(self, kind: type[RowEngine]) -> None:
        with pytest.raises(ValueError, match=r"pixels must be a positive integer, not -2"):
            kind(k=4, pixels=-2)

    def test_init_not_an_integer(self, kind: type[RowEngine]) -> None:
        with pytest.raises(TypeError, match="float"):
            kind(k=4.0, pixels=2)


@pytest.mark.parametrize("kind", [Fixed4PairEngine, Fixed4DspEngine, Fixed8Engine])
def test_init_odd_pixels(kind: type[RowEngine]) -> None:
    with pytest.raises(ValueError, match=r"pixels must be even, two share a DSP48E1, not 3"):
        kind(k=4, pixels=3)


def test_pair_init_wrong_k() -> None:
    with pytest.raises(ValueError, match=r"k must be at most 8 or a multiple of it, not 12"):
        Fixed4PairEngine(k=12, pixels=2)


def test_pot4_codes_are_exponents() -> None:
    values = np.array([1, 2, 4, 8, 16, 32, 64, 0, -1, -64])
    assert Pot4Engine.encode(values).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 14]


def test_pair_codes_concatenate_to_the_operand() -> None:
    for low, high in itertools.product(range(-7, 8), repeat=2):
        codes = Fixed4PairEngine.encode(np.array([[low], [high]]))[:, 0].astype(int)
        signed = [(code ^ 8) - 8 for code in codes]
        assert signed[1] * 1024 + (signed[0] & 1023) == high * 1024 + low


@pytest.mark.parametrize(
    "kind, k, latency",
    [
        (Pot4Engine, 1, 4),
        (Pot4Engine, 3, 5),
        (Pot4Engine, 16, 7),
        (Pot4Engine, 28, 8),
        (Fixed4PairEngine, 1, 6),
        (Fixed4PairEngine, 8, 13),
        (Fixed4PairEngine, 16, 14),
        (Fixed4PairEngine, 32, 15),
        (Fixed4DspEngine, 16, 20),
        (Fixed4LutEngine, 16, 7),
        (Fixed8Engine, 16, 20),
    ],
)
def test_latency(kind: type[RowEngine], k: int, latency: int) -> None:
    assert kind(k=k, pixels=2).latency == latency


def test_offsets() -> None:
    # A row of one positive and one negative weight, by hand.
    assert Pot4Engine.offset(np.array([4, -8]), 1) == 15 * 8
    assert Pot4Engine.offset(np.array([4, -8]), 2) == 15 * 8 * 17
    assert Fixed4PairEngine.offset(np.array([4, -7]), 1) == 8 * 3
    assert Fixed4LutEngine.offset(np.array([4, -7]), 1) == 15 * 7
    assert Fixed4DspEngine.offset(np.array([4, -7]), 2) == 0
    assert Fixed8Engine.offset(np.array([4, -7]), 2) == 0


def test_fixed8_bound() -> None:
    Fixed8Engine(k=275, pixels=2)
    with pytest.raises(ValueError, match=r"k must be at most 275, not 276"):
        Fixed8Engine(k=276, pixels=2)


def test_sums_wrap_at_24_bits() -> None:
    words = [Word(act=np.full((1, 1), 15), first=i == 0, shift=True, last=True) for i in range(6)]
    sums = Pot4Engine.model(np.full((6, 1), 64), words)[:, 0].tolist()
    assert sums == [960 * (16 ** (i + 1) - 1) // 15 % (1 << 24) for i in range(6)]


def test_stored_zero_is_not_the_code_of_training() -> None:
    assert encode_weights(Pot4Engine.scheme, np.array([0])) != Pot4Engine.encode(np.array([0]))
