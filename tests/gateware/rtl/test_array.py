# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The whole array: alignment of the lanes, order of the weights, and the broadcast tree."""

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.rtl.array import GemmArray
from gateware.rtl.pool import PoolMode
from sim.benches.stimulus import (
    act_bits,
    array_weight_bits,
    assert_sums,
    control_bits,
    idle,
    random_values,
    random_words,
    simulate,
)

SMALL = {"bus_bits": 32, "requant_lanes": 2}
CONFIGS = {
    "all": AccelConfig(pot4_rows=2, fixed4_rows=3, fixed8_rows=1, **SMALL),
    "dsp": AccelConfig(pot4_rows=1, fixed4_rows=2, fixed8_rows=1, fixed4_style="dsp", **SMALL),
    "two levels": AccelConfig(pot4_rows=9, fixed4_rows=2, fixed8_rows=1, **SMALL),
    "pot4": AccelConfig(pot4_rows=2, fixed4_rows=0, fixed8_rows=0, **SMALL),
    "fixed8": AccelConfig(pot4_rows=0, fixed4_rows=0, fixed8_rows=2, pixels=4, **SMALL),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", PoolMode)
@pytest.mark.parametrize(
    "name, stall",
    [("all", 0.0), ("all", 0.5), ("dsp", 0.2), ("two levels", 0.2), ("pot4", 0.2), ("fixed8", 0.2)],
)
def test_random_words(name: str, stall: float, mode: PoolMode, seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = CONFIGS[name]
    array = GemmArray(config)
    words = random_words(
        rng, k=config.k, pixels=config.pixels, count=120, stall=stall, shift=name != "dsp"
    )  # its lanes would overflow
    values = [random_values(rng, scheme, len(words), config.k) for scheme in config.lane_schemes]

    padded = [*words, *idle(config.k, config.pixels, array.latency)]
    weights = [array_weight_bits(config, [row[i] for row in values]) for i in range(len(words))]
    weights += [0] * array.latency
    stimulus = [
        {"act": act, "weights": codes, "control": control_bits(word), "pool_mode": mode.value}
        for act, codes, word in zip(act_bits(padded), weights, padded, strict=True)
    ]
    sums = simulate(array, stimulus, ["sums"])["sums"]
    assert_sums(sums, array.model(values, words, mode), array.latency)


@pytest.mark.parametrize(
    "name, latency", [("all", 14), ("two levels", 14), ("pot4", 7), ("fixed8", 13)]
)
def test_latency(name: str, latency: int) -> None:
    assert GemmArray(CONFIGS[name]).latency == latency
