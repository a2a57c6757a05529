# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""What every row engine must do, whatever it is made of."""

from collections.abc import Sequence

import numpy as np
import pytest

from gateware.compiler.pack import engine_offset
from gateware.pe.base import RowEngine, Word
from gateware.pe.fixed import FixedEngine
from gateware.pe.pot4 import Pot4Engine
from quant.numerics import NIBBLE_MAX, Scheme, weight_values
from sim.words import (
    act_bits,
    assert_sums,
    control_bits,
    idle,
    random_values,
    random_words,
    simulate,
    weight_bits,
)


def row_engine(scheme: Scheme, *, k: int, pixels: int) -> RowEngine:
    if scheme is Scheme.POT4:
        return Pot4Engine(k=k, pixels=pixels)
    return FixedEngine(scheme=scheme, k=k, pixels=pixels)


def run(engine: RowEngine, values: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """Hold the engine against its model in every cycle; returns the model's sums."""
    tail = idle(engine.k, engine.pixels, engine.latency)
    padded = [*words, *tail]
    codes = [weight_bits(engine.scheme, row) for row in values] + [0] * len(tail)
    stimulus = [{"act": act, "weights": code, "control": control_bits(word)} for act, code, word
                in zip(act_bits(padded, skewed=engine.skewed), codes, padded, strict=True)]
    expected = engine.model(values, words)
    assert_sums(simulate(engine, stimulus, ["sums"])["sums"], expected[:, None, :], engine.latency)
    return expected


@pytest.mark.parametrize("scheme", Scheme, ids=lambda scheme: scheme.name)
class TestRowEngine:
    def test_every_product(self, scheme: Scheme) -> None:
        # Each weight meets each activation in each lane and channel, next to extreme neighbours.
        engine = row_engine(scheme, k=2, pixels=2)
        values, words = [], []
        for i, weight in enumerate(weight_values(scheme)):
            for act in range(NIBBLE_MAX + 1):
                for j, other in enumerate((0, NIBBLE_MAX)):
                    channel, lane = (i + j) % 2, (act + j) % 2
                    acts = np.full((2, 2), other)
                    acts[lane] = act
                    values.append(np.roll([weight, 0], channel))
                    words.append(Word(acts, first=True, last=True))
        values = np.array(values)
        expected = run(engine, values, words)
        acts = np.array([word.act for word in words])
        offsets = np.array([engine_offset(scheme, row, 1) for row in values])
        np.testing.assert_array_equal(expected - offsets[:, None], (values[:, None] * acts).sum(2))

    @pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
    @pytest.mark.parametrize("k, pixels", [(1, 2), (5, 2), (16, 4)])
    def test_random_words(
            self, scheme: Scheme, k: int, pixels: int, stall: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        words = random_words(rng, k=k, pixels=pixels, count=150, stall=stall)
        values = random_values(rng, scheme, len(words), k)
        run(row_engine(scheme, k=k, pixels=pixels), values, words)

    @pytest.mark.parametrize("first", [False, True])
    @pytest.mark.parametrize("shift", [False, True])
    @pytest.mark.parametrize("last", [False, True])
    @pytest.mark.parametrize("valid", [False, True])
    def test_control(
            self, scheme: Scheme, valid: bool, first: bool, shift: bool, last: bool) -> None:
        acts, weight = np.full((2, 1), 3), weight_values(scheme)[-1]
        words = [Word(acts, first=True, last=True), Word(acts, valid, first, shift, last),
                 Word(acts, last=True)]
        expected = run(row_engine(scheme, k=1, pixels=2), np.full((3, 1), weight), words)
        term = 3 * weight
        before = (0 if first else 16 * term if shift else term) + term if valid else term
        assert expected[:, 0].tolist() == [term, before if valid and last else term, before + term]

    @pytest.mark.parametrize("weight, neighbour", [(-1, -1), (-1, 0), (0, -1), (0, 0)])
    def test_longest_sum(self, scheme: Scheme, weight: int, neighbour: int) -> None:
        # As many words as the 24-bit magnitude holds, at the largest products of either sign, next
        # to a lane of zeros and to a lane at the same extreme.
        engine = row_engine(scheme, k=16, pixels=2)
        weight = weight_values(scheme)[weight]
        step = 16 * abs(weight) * NIBBLE_MAX
        count = min(((1 << 24) - 1) // step, 1200)
        # Pot4Engine adds 15 - a for negative weights, so zeros are its largest.
        acts = np.full((2, 16), 0 if weight < 0 and scheme is Scheme.POT4 else NIBBLE_MAX)
        acts[1] = NIBBLE_MAX if neighbour else 0
        words = [Word(acts, first=i == 0, last=i >= count - 2) for i in range(count)]
        values = np.full((count, 16), weight)
        raw = run(engine, values, words)[-1]
        offset = count * engine_offset(scheme, values[0], 1)
        assert abs(int(raw[0])) == count * step
        assert (raw - offset).tolist() == (count * (acts * weight).sum(1)).tolist()

    def test_two_planes(self, scheme: Scheme, seed: int) -> None:
        rng = np.random.default_rng(seed)
        values, wide = random_values(rng, scheme, 6, 4), rng.integers(0, 256, (6, 2, 4))
        words = [Word(plane[i], first=plane is high and i == 0, shift=plane is low and i == 0,
                      last=plane is low and i == 5)
                 for high, low in [(wide >> 4, wide & 15)]
                 for plane in (high, low) for i in range(6)]
        raw = run(row_engine(scheme, k=4, pixels=2), np.concatenate([values, values]), words)[-1]
        offset = engine_offset(scheme, values, 2)
        np.testing.assert_array_equal(raw - offset, (values[:, None] * wide).sum((0, 2)))

    def test_init_wrong_k(self, scheme: Scheme) -> None:
        with pytest.raises(ValueError, match=r"k must be a positive integer, not 0"):
            row_engine(scheme, k=0, pixels=2)

    def test_init_wrong_pixels(self, scheme: Scheme) -> None:
        with pytest.raises(ValueError, match=r"pixels must be a positive integer, not -2"):
            row_engine(scheme, k=4, pixels=-2)

    def test_init_not_an_integer(self, scheme: Scheme) -> None:
        with pytest.raises(TypeError, match="float"):
            row_engine(scheme, k=4.0, pixels=2)
