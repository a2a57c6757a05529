# SPDX-License-Identifier: Apache-2.0
"""Row engines against their models, in Amaranth's simulator."""

from collections.abc import Sequence

import numpy as np

from gateware.pe.base import RowEngine, Word
from sim.benches.stimulus import (
    act_bits,
    assert_sums,
    control_bits,
    idle,
    simulate,
    weight_bits,
)


def check_engine(engine: RowEngine, values: np.ndarray, words: Sequence[Word]) -> np.ndarray:
    """Sums of the engine's model, to which those of the engine are equal in every cycle.

    ``values`` is (rows, words, k), the sums are (words, rows, pixels).
    """
    tail = idle(engine.k, engine.pixels, engine.latency)
    padded = [*words, *tail]
    codes = [weight_bits(type(engine), values[:, i]) for i in range(len(words))] + [0] * len(tail)
    stimulus = [
        {"act": act, "weights": code, "control": control_bits(word)}
        for act, code, word in zip(act_bits(padded, engine.skew), codes, padded, strict=True)
    ]
    expected = np.stack([engine.model(row, words) for row in values], axis=1)
    assert_sums(simulate(engine, stimulus, ["sums"])["sums"], expected, engine.latency)
    return expected
