# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Pool lanes against their model and against plain numpy."""

from collections.abc import Sequence

import numpy as np
import pytest

from gateware.pe.base import Word
from gateware.rtl.pool import PoolEngine, PoolMode
from sim.benches.stimulus import act_bits, assert_sums, control_bits, idle, random_words, simulate


def run(engine: PoolEngine, mode: PoolMode, words: Sequence[Word]) -> np.ndarray:
    """Hold the engine against its model in every cycle; returns the model's sums."""
    padded = [*words, *idle(engine.k, engine.pixels, engine.latency)]
    acts = act_bits(padded, lambda channel: engine.skew)
    stimulus = [
        {"act": act, "mode": mode.value, "control": control_bits(word)}
        for act, word in zip(acts, padded, strict=True)
    ]
    expected = engine.model(mode, words)
    assert_sums(simulate(engine, stimulus, ["sums"])["sums"], expected, engine.latency)
    return expected


@pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("mode", PoolMode)
def test_random_words(mode: PoolMode, stall: float, seed: int) -> None:
    words = random_words(np.random.default_rng(seed), k=3, pixels=2, count=400, stall=stall)
    run(PoolEngine(k=3, pixels=2), mode, words)


@pytest.mark.parametrize("mode, function", [(PoolMode.MAX, np.max), (PoolMode.SUM, np.sum)])
def test_every_pair(mode: PoolMode, function) -> None:
    pairs = np.array([(a, b) for a in range(16) for b in range(16)])
    words = [
        Word(act=np.full((2, 1), value), first=i == 0, last=i == 1)
        for pair in pairs
        for i, value in enumerate(pair)
    ]
    sums = run(PoolEngine(k=1, pixels=2), mode, words)
    assert sums[1::2, 0, 1].tolist() == function(pairs, axis=1).tolist()


def test_modes_may_change_between_sums() -> None:
    engine = PoolEngine(k=1, pixels=1)
    words = [
        Word(act=np.array([[value]]), first=first, last=not first)
        for value, first in [(9, True), (9, False), (5, True), (7, False), (9, True), (1, False)]
    ]
    words += idle(1, 1, engine.latency)
    modes = [PoolMode.SUM] * 2 + [PoolMode.MAX] * 2 + [PoolMode.SUM] * (2 + engine.latency)
    acts = act_bits(words, lambda channel: engine.skew)
    stimulus = [
        {"act": act, "mode": mode.value, "control": control_bits(word)}
        for act, mode, word in zip(acts, modes, words, strict=True)
    ]
    sums = simulate(engine, stimulus, ["sums"])["sums"]
    assert sums[engine.latency :: 2][:3] == [18, 7, 10]


def test_two_planes(seed: int) -> None:
    wide = np.random.default_rng(seed).integers(0, 256, (9, 2, 3))
    words = [
        Word(
            act=plane[i],
            first=plane is high and i == 0,
            shift=plane is low and i == 0,
            last=plane is low and i == 8,
        )
        for high, low in [(wide >> 4, wide & 15)]
        for plane in (high, low)
        for i in range(9)
    ]
    sums = run(PoolEngine(k=3, pixels=2), PoolMode.SUM, words)
    np.testing.assert_array_equal(sums[-1], wide.sum(0).T)


def test_longest_sum_of_an_image() -> None:
    words = [Word(act=np.full((1, 1), 15), first=i == 0, last=i >= 3134) for i in range(3136)]
    assert run(PoolEngine(k=1, pixels=1), PoolMode.SUM, words)[-1].tolist() == [[15 * 56 * 56]]


def test_init_wrong_k() -> None:
    with pytest.raises(ValueError, match=r"k must be a positive integer, not 0"):
        PoolEngine(k=0, pixels=2)


def test_init_wrong_pixels() -> None:
    with pytest.raises(ValueError, match=r"pixels must be a positive integer, not 0"):
        PoolEngine(k=1, pixels=0)
