# SPDX-License-Identifier: Apache-2.0
"""Edge colouring, row tiles and drain slots: proper, complete and the fewest possible."""

import dataclasses
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateware.arch.config import AccelConfig
from gateware.compiler.schedule import colour_edges, schedule_slots, split_rows
from ir.numerics import Scheme
from tests.helpers.units import TINY

NO_FIXED8 = AccelConfig(pot4_rows=4, fixed4_rows=4, fixed8_rows=0, requant_lanes=4)
LARGE = AccelConfig(pot4_rows=42, fixed4_rows=19, fixed8_rows=3, pixels=4, requant_lanes=8)
UNEVEN = AccelConfig(pot4_rows=5, fixed4_rows=2, fixed8_rows=1, requant_lanes=1, bus_bits=32)

EDGES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=60)


@settings(deadline=None, max_examples=250)
@given(EDGES)
def test_colours_are_proper_and_as_few_as_the_largest_degree(edges):
    colours = colour_edges(edges)
    assert len(colours) == len(edges)
    for end in (0, 1):
        at_end = Counter((edge[end], colour) for edge, colour in zip(edges, colours, strict=True))
        assert set(at_end.values()) <= {1}
    degree = max(
        [
            0,
            *Counter(left for left, _ in edges).values(),
            *Counter(right for _, right in edges).values(),
        ]
    )
    assert sorted(set(colours)) == list(range(degree))


def test_parallel_edges():
    assert sorted(colour_edges([(0, 0)] * 5)) == [0, 1, 2, 3, 4]


def test_left_and_right_vertices_of_one_number_are_two():
    assert colour_edges([(0, 1), (1, 0)]) == [0, 0]


@st.composite
def layers(draw):
    config = draw(st.sampled_from([TINY, NO_FIXED8, LARGE, UNEVEN]))
    possible = [s for s, n in zip(Scheme, config.lanes, strict=True) if n]
    return config, draw(st.lists(st.sampled_from(possible), min_size=1, max_size=150))


@settings(deadline=None, max_examples=150)
@given(layers())
def test_split_rows(layer):
    config, schemes = layer
    tiles = split_rows([int(s) for s in schemes], config)
    # Every row once, in a lane of its scheme.
    taken = [row for lanes in tiles for row in lanes if row >= 0]
    assert sorted(taken) == list(range(len(schemes)))
    assert all(len(lanes) == config.rows for lanes in tiles)
    for lanes in tiles:
        for row, scheme in zip(lanes, config.lane_schemes, strict=True):
            assert row == -1 or schemes[row] == scheme
    # The fewest tiles, and balanced.
    assert len(tiles) == max(
        -(-schemes.count(s) // n) for s, n in zip(Scheme, config.lanes, strict=True) if n
    )
    for scheme in Scheme:
        counts = [sum(schemes[r] == scheme for r in lanes if r >= 0) for lanes in tiles]
        assert max(counts) - min(counts) <= 1
    for column in range(config.k):
        counts = [sum(r % config.k == column for r in lanes if r >= 0) for lanes in tiles]
        assert max(counts) - min(counts) <= 1


def requantiser_bound(counts: dict[Scheme, int], config: AccelConfig) -> int:
    """Results that some requantiser has at least, wherever rows lie in the lanes of their schemes:
    of a subset of the schemes no more of them fit (a minimum cut)."""
    turns = 0
    for chosen in itertools.chain.from_iterable(
        itertools.combinations(Scheme, n) for n in range(1, len(Scheme) + 1)
    ):
        lanes = [lane for lane, s in enumerate(config.lane_schemes) if s in chosen]
        of_requantiser = Counter(lane % config.requant_lanes for lane in lanes).values()
        rows = sum(counts[s] for s in chosen)
        while sum(min(turns, n) for n in of_requantiser) < rows:
            turns += 1
    return turns


@settings(deadline=None, max_examples=150)
@given(layers())
def test_requantisers_of_a_tile_have_as_little_to_do_as_they_can(layer):
    config, schemes = layer
    for lanes in split_rows([int(s) for s in schemes], config):
        used = [lane for lane, row in enumerate(lanes) if row >= 0]
        counts = {s: sum(config.lane_schemes[lane] == s for lane in used) for s in Scheme}
        most = max(Counter(lane % config.requant_lanes for lane in used).values())
        assert most == requantiser_bound(counts, config)


@pytest.mark.parametrize("counts", [(11, 4, 1), (10, 6, 0), (0, 16, 0)])
def test_sixteen_rows_take_sixteen_requantisers(counts):
    schemes = [s for s, count in zip(Scheme, counts, strict=True) for _ in range(count)]
    (lanes,) = split_rows(schemes, dataclasses.replace(LARGE, requant_lanes=16))
    pairs = [(lane, row) for lane, row in enumerate(lanes) if row >= 0]
    assert len(schedule_slots(pairs, dataclasses.replace(LARGE, requant_lanes=16))) == 1


@settings(deadline=None, max_examples=80)
@given(layers())
def test_slots_of_a_layer(layer):
    config, schemes = layer
    for lanes in split_rows([int(s) for s in schemes], config):
        pairs = [(lane, row) for lane, row in enumerate(lanes) if row >= 0]
        assert_scheduled(pairs, config)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from([TINY, NO_FIXED8, LARGE, UNEVEN]), st.data())
def test_slots_of_anything(config, data):
    lanes = config.rows + config.k
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, lanes - 1), st.integers(0, 99)), max_size=80)
    )
    assert_scheduled(pairs, config)


def assert_scheduled(pairs, config):
    slots = schedule_slots(pairs, config)
    assert sorted(pair for slot in slots for pair in slot.results) == sorted(pairs)
    for slot in slots:
        for resource in (
            [lane % config.requant_lanes for lane, _ in slot.results],
            [channel % config.k for _, channel in slot.results],
        ):
            assert len(set(resource)) == len(resource)
    assert len(slots) == max(
        [
            0,
            *Counter(l % config.requant_lanes for l, _ in pairs).values(),
            *Counter(c % config.k for _, c in pairs).values(),
        ]
    )


def test_a_scheme_without_lanes_is_refused():
    with pytest.raises(ValueError, match="has 2 FIXED8 rows, but the array has no FIXED8 lane"):
        split_rows([Scheme.POT4, Scheme.FIXED8, Scheme.FIXED8], NO_FIXED8)
