# SPDX-License-Identifier: Apache-2.0
"""Stages of the drain: what each hands on to the next."""

import dataclasses

from amaranth import *
from amaranth.lib import data

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.payloads import DrainJob
from gateware.rtl.requant import RequantLane


class JobInHand(data.StructLayout):
    """Layout of a job in hand, with what its steps have in common.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    given : DrainJob
    two_phases : unsigned(1)
        Hi nibbles, then lo nibbles.
    last_turn : unsigned
        Number of the last one; where turns come in pairs an odd one.
    odd_turns : unsigned(1)
        The number of turns is odd.
    last_pixels : unsigned(drain_pixels)
        Pixels that the last turn has.
    last_slot : unsigned
        How many follow the first.
    single_slot : unsigned(1)
    gather_address : unsigned(16)
        Of the residual's hi nibbles.
    out_address : unsigned(16)
        Of the pixel; for raw outputs that of the first bank's pixel.
    """

    def __init__(self, config: AccelConfig) -> None:
        super().__init__(
            {
                "given": DrainJob(config),
                "two_phases": 1,
                "last_turn": range(config.pixels // config.drain_pixels),
                "odd_turns": 1,
                "last_pixels": config.drain_pixels,
                "last_slot": isa.ADDRESS_BITS,
                "single_slot": 1,
                "gather_address": isa.ADDRESS_BITS,
                "out_address": isa.ADDRESS_BITS,
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """Turn of ``drain_pixels`` adjacent pixels in a cycle of the walk."""

    valid: Value  # there is one
    ends: Value  # of turns that alternate each has had a cycle: the walk goes on
    number: Value
    last: Value  # of the job


class Step(data.StructLayout):
    """Layout of a step of the walk, in the cycle in which the slot's address is given.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    pixels : unsigned(drain_pixels)
        Those of which a result comes; the first is one of them if there are any.
    final : unsigned(1)
        The last step of an EXECUTE.
    gathers : unsigned(1)
        It has a residual operand.
    job : JobInHand
    turn : unsigned
        Number of the turn in the job.
    phase : unsigned
        Plane of an 8-bit operand or result; lane of raw outputs.
    """

    def __init__(self, config: AccelConfig) -> None:
        super().__init__(
            {
                "pixels": config.drain_pixels,
                "final": 1,
                "gathers": 1,
                "job": JobInHand(config),
                "turn": range(config.pixels // config.drain_pixels),
                "phase": range(max(2, config.requant_lanes)),
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotInHand:
    """A step, beside the lanes of its slot."""

    pixels: Value
    final: Value
    execute: data.View
    phase: Value
    next_turn: Value  # of the step a cycle later
    bank: Value  # of the turn's first pixel
    out_address: Value  # of the turn's pixels; of raw outputs that of the first


@dataclasses.dataclass(frozen=True)
class Requantised:
    """The requantisers of each pixel, and the descriptor of what enters them."""

    execute: data.View
    lanes: list[list[RequantLane]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Results of a slot, and where they go.

    early : one cycle before the results
    """

    early_pixels: Value
    early_columns: data.View
    early_phase: Value
    early_raw: Value  # raw outputs, not codes
    early_address: Value
    early_second: Value  # pixels whose low nibbles of the codes before are written next
    early_second_pitch: Value
    bank: Value
    early_two_planes: Value  # codes of 8 bits
    codes: data.View  # of each pixel and lane
    raw_outputs: data.View
