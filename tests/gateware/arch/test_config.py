# SPDX-License-Identifier: Apache-2.0
"""The configuration: derived sizes, and one message for every size that cannot be built."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateware.arch.config import AccelConfig
from ir.numerics import Scheme
from ir.ratio import Ratio

LARGE = AccelConfig.from_ratio(Ratio(65, 30, 5), 64, pixels=8)
SMALL = AccelConfig.from_ratio(Ratio(60, 35, 5), 32, pixels=4, bus_bits=32)


def test_lanes_are_those_of_training():
    assert LARGE.lanes == Ratio(65, 30, 5).lanes(64) == (42, 19, 3)
    assert SMALL.lanes == Ratio(60, 35, 5).lanes(32) == (19, 11, 2)
    assert LARGE.lane_schemes == (Scheme.POT4,) * 42 + (Scheme.FIXED4,) * 19 + (Scheme.FIXED8,) * 3


def test_derived_sizes():
    assert (LARGE.rows, LARGE.k, LARGE.banks, LARGE.macs_per_cycle) == (64, 16, 16, 8192)
    assert (SMALL.rows, SMALL.k, SMALL.banks, SMALL.macs_per_cycle) == (32, 8, 8, 1024)
    assert LARGE.weight_bits == 16 * (61 * 4 + 3 * 8)
    assert LARGE.weight_beats == 67
    assert SMALL.weight_bits == 8 * (30 * 4 + 2 * 8)
    assert SMALL.weight_beats == 34


@pytest.mark.parametrize("config", [LARGE, SMALL])
def test_a_lane_is_one_beat_of_weights_or_two(config):
    assert config.weight_beats == sum(
        2 if scheme is Scheme.FIXED8 else 1 for scheme in config.lane_schemes
    )
    assert config.weight_beats * config.bus_bits == config.weight_bits


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 40),
    st.integers(0, 20),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([32, 64]),
)
def test_json_round_trip(pot4, fixed4, fixed8, pixels, bus_bits):
    config = AccelConfig(
        pot4_rows=pot4,
        fixed4_rows=fixed4,
        fixed8_rows=fixed8,
        pixels=2**pixels,
        requant_lanes=1,
        bus_bits=bus_bits,
        clock_hz=123,
    )
    assert AccelConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json()) == config.fields()


def test_is_frozen_and_hashable():
    assert len({LARGE, SMALL, dataclasses.replace(LARGE)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        LARGE.pixels = 4


INVALID = [
    ({"pot4_rows": -1}, r"row lanes must not be negative and not all zero, got \(-1, 19, 3\)"),
    ({"pot4_rows": 0, "fixed4_rows": 0, "fixed8_rows": 0}, r"not all zero, got \(0, 0, 0\)"),
    ({"bus_bits": 128}, "bus_bits must be 32 or 64, not 128"),
    ({"pixels": 6}, "pixels must be a power of two and at least 2, not 6"),
    ({"pixels": 1}, "pixels must be a power of two and at least 2, not 1"),
    ({"pixels": 0}, "pixels must be a power of two and at least 2, not 0"),
    ({"requant_lanes": 0}, "requant_lanes must divide the 16 channels .*, not 0"),
    ({"requant_lanes": 32}, "requant_lanes must divide the 16 channels .*, not 32"),
    ({"pot4_rows": 41}, "rows must be a multiple of requant_lanes, which is 8, not 63"),
    ({"act_depth": 1000}, "act_depth must be a power of two, not 1000"),
    ({"weight_depth": 0}, "weight_depth must be in 1..32768, not 0"),
    ({"slot_depth": 96}, "slot_depth must be a power of two, not 96"),
    ({"wide_depth": -8}, "wide_depth must be a power of two, not -8"),
    ({"slot_depth": 32}, "slot_depth must be at least the 64 rows, not 32"),
    ({"fixed4_style": "lut"}, "'lut' is not a valid Fixed4Style"),
    ({"clock_hz": 0}, "clock_hz must be positive, not 0"),
]


@pytest.mark.parametrize(("change", "message"), INVALID)
def test_init_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LARGE, **change)
