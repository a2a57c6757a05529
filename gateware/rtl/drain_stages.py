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
    last_pixel : unsigned
        The last one that has a turn; where pixels come in pairs an odd one.
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
                "last_pixel": range(config.pixels),
                "last_slot": isa.ADDRESS_BITS,
                "single_slot": 1,
                "gather_address": isa.ADDRESS_BITS,
                "out_address": isa.ADDRESS_BITS,
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """A pixel's turn in a cycle of the walk."""

    valid: Value  # it has one
    ends: Value  # every pixel that takes turns has had one: the walk goes on
    pixel: Value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the walk, in the cycle in which the slot's address is given."""

    done: Value  # a result comes of it
    final: Value  # the last one of an EXECUTE
    gathers: Value  # it has a residual operand
    job: data.View
    pixel: Value
    phase: Signal  # plane of an 8-bit operand or result; lane of raw outputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotInHand:
    """A step, beside the lanes of its slot."""

    done: Value
    final: Value
    execute: data.View
    phase: Value
    next_pixel: Value  # of the step a cycle later
    bank: Value
    out_address: Value  # of the pixel


@dataclasses.dataclass(frozen=True)
class Requantised:
    """The requantisers, and the descriptor of what enters them."""

    execute: data.View
    lanes: list[RequantLane]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """Results of a slot, and where they go.

    early : one cycle before the results
    """

    early_done: Value
    early_columns: data.View
    early_phase: Value
    early_raw: Value  # raw outputs, not codes
    early_address: Value
    early_second: Value  # the low nibbles of the pixel's codes before are written next
    early_second_pitch: Value
    bank: Value
    two_planes: Value  # codes of 8 bits
    codes: data.View
    raw_outputs: data.View
