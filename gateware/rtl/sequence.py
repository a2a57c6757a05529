# SPDX-License-Identifier: Apache-2.0
"""Loop nest of one EXECUTE descriptor: the word that enters the array in each cycle."""

import dataclasses

from amaranth import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.payloads import DRAIN_FIELDS, DrainJob, WordRequest
from ir.numerics import ACT_BITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Loops:
    """Loop counters, innermost first, and the addresses that go with them."""

    group: Signal
    group_offset: Signal
    kernel_x: Signal
    kernel_y: Signal
    kernel_offset: Signal
    plane: Signal
    out_x: Signal
    in_x: Signal
    out_y: Signal
    in_y: Signal
    row_base: Signal
    out_row: Signal
    weight: Signal
    running: Signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bounds:
    """Where in the loops the current word is."""

    last_group: Value
    last_kernel_x: Value
    last_kernel_y: Value
    last_word: Value  # of a pixel group
    last_x: Value
    last_y: Value
    first_of_plane: Value


class TileLoop(Component):
    """Loop over output rows, pixel groups, planes, kernel rows, kernel columns, channel groups.

    The last word of a pixel group waits until the drain of the group before has room: two groups'
    last words lie at least one drain apart, so a sum is read before it is replaced, also from one
    EXECUTE to the next. Every address is kept by increments; there is no multiplier.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    execute : In(isa.EXECUTE)
        Stable from ``start`` to ``done``.
    start : In(1)
    request : Out(WordRequest)
        Combinational; ``request.control.valid`` marks a word.
    job : Out(DrainJob), job_valid : Out(1)
        With the last word of a pixel group.
    stalled : Out(1)
        Waiting for the drain.
    done : Out(1)
        Every word is issued; low from the cycle after ``start``.

    Latency: the first word comes in the cycle after ``start``.

    Throughput: one word per cycle, unless ``stalled``.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "execute": In(isa.EXECUTE),
                "start": In(1),
                "request": Out(WordRequest()),
                "job": Out(DrainJob(config)),
                "job_valid": Out(1),
                "stalled": Out(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        loops = self._loops()
        at = self._bounds(loops)
        drain_cycles, spacing = self._count_drain(m)
        step = Signal()
        m.d.comb += [
            self.stalled.eq(loops.running & at.last_word & (spacing != 0)),
            step.eq(loops.running & ~self.stalled),
            self.done.eq(~loops.running),
        ]
        self._request_word(m, loops, at, step)
        self._offer_job(m, loops, at, step)
        with m.If(self.start):
            self._begin(m, loops)
        with m.Elif(step):
            self._advance_in_group(m, loops, at)
            with m.If(at.last_word):
                # The last low nibble of 8 bits is written a turn late, where the next EXECUTE may
                # have a result to write.
                late = (self.job.final & self.execute.out_planes) << self._config.drain_turn - 1
                m.d.sync += [loops.plane.eq(0), spacing.eq(drain_cycles - 1 + late)]
                self._advance_pixels(m, loops, at)
        return m

    @staticmethod
    def _loops() -> _Loops:
        position = signed(isa.SIZE_BITS + 2)
        group, group_offset = Signal(8), Signal(isa.ADDRESS_BITS)
        kernel_x = Signal(8)
        kernel_y, kernel_offset = Signal(8), Signal(isa.ADDRESS_BITS)
        plane = Signal()
        out_x, in_x = Signal(isa.SIZE_BITS + 1), Signal(position)
        out_y, in_y = Signal(isa.SIZE_BITS), Signal(position)
        row_base, out_row = Signal(isa.ADDRESS_BITS), Signal(isa.ADDRESS_BITS)
        weight = Signal(isa.ADDRESS_BITS)
        running = Signal()
        return _Loops(
            group=group,
            group_offset=group_offset,
            kernel_x=kernel_x,
            kernel_y=kernel_y,
            kernel_offset=kernel_offset,
            plane=plane,
            out_x=out_x,
            in_x=in_x,
            out_y=out_y,
            in_y=in_y,
            row_base=row_base,
            out_row=out_row,
            weight=weight,
            running=running,
        )

    def _bounds(self, loops: _Loops) -> _Bounds:
        d = self.execute
        last_group = loops.group == d.groups - 1
        last_kernel_x = last_group & (loops.kernel_x == d.kernel_x - 1)
        last_kernel_y = last_kernel_x & (loops.kernel_y == d.kernel_y - 1)
        return _Bounds(
            last_group=last_group,
            last_kernel_x=last_kernel_x,
            last_kernel_y=last_kernel_y,
            last_word=last_kernel_y & (loops.plane == d.planes),
            last_x=loops.out_x + self._config.pixels >= d.out_width,
            last_y=loops.out_y == d.out_height - 1,
            first_of_plane=(loops.group == 0) & (loops.kernel_x == 0) & (loops.kernel_y == 0),
        )

    def _count_drain(self, m: Module) -> tuple[Signal, Signal]:
        """Cycles that the drain of the current pixel group takes, and those until the sums of the
        group before have been read."""
        config, d = self._config, self.execute
        two_phases = d.out_planes | (d.residual & d.residual_planes)
        each = Mux(d.wide, d.slots * config.requant_lanes, d.slots << two_phases)
        drain_cycles = Signal(isa.ADDRESS_BITS + 2 + ceil_log2(config.pixels))
        spacing = Signal.like(drain_cycles)
        # With one copy of the activations the drain works every second cycle, but on raw outputs.
        turns = config.drain_turn - 1
        m.d.comb += drain_cycles.eq((each * self.job.count) << Mux(d.wide, 0, turns))
        with m.If(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)
        return drain_cycles, spacing

    def _request_word(self, m: Module, loops: _Loops, at: _Bounds, step: Signal) -> None:
        """Addresses and control of the current word, combinational."""
        d, request, plane = self.execute, self.request, loops.plane
        y = Signal(signed(isa.SIZE_BITS + 2))
        m.d.comb += [
            y.eq(loops.in_y + loops.kernel_y),
            request.control.valid.eq(step),
            request.control.first.eq(at.first_of_plane & (plane == 0)),
            request.control.shift.eq(at.first_of_plane & (plane == 1)),
            request.control.last.eq(at.last_word),
            request.row_address.eq(
                loops.row_base
                + Mux(plane, d.plane_pitch, 0)
                + loops.kernel_offset
                + loops.group_offset
            ),
            request.row_inside.eq((y >= 0) & (y < d.height)),
            request.x.eq(loops.in_x + loops.kernel_x),
            request.pad.eq(
                Mux(d.planes & (plane == 0), d.pad_value[ACT_BITS:], d.pad_value[:ACT_BITS])
            ),
            request.weight_address.eq(loops.weight),
        ]

    def _offer_job(self, m: Module, loops: _Loops, at: _Bounds, step: Signal) -> None:
        """What the drain does with the sums of the current pixel group, combinational."""
        d, job, pixels = self.execute, self.job, self._config.pixels
        m.d.comb += [
            self.job_valid.eq(step & at.last_word),
            job.pixel.eq(loops.out_row + (loops.out_x >> ceil_log2(self._config.banks))),
            job.bank.eq(loops.out_x),
            job.count.eq(Mux(at.last_x, d.out_width - loops.out_x, pixels)),
            job.final.eq(at.last_x & at.last_y),
            *(job.execute[name].eq(d[name]) for name in DRAIN_FIELDS),
        ]

    def _begin(self, m: Module, loops: _Loops) -> None:
        d = self.execute
        m.d.sync += [
            loops.running.eq(1),
            loops.group.eq(0),
            loops.group_offset.eq(0),
            loops.kernel_x.eq(0),
            loops.kernel_y.eq(0),
            loops.kernel_offset.eq(0),
            loops.plane.eq(0),
            loops.weight.eq(d.weight_address),
            loops.out_x.eq(0),
            loops.in_x.eq(-d.pad_left),
            loops.out_y.eq(0),
            loops.in_y.eq(-d.pad_top),
            loops.row_base.eq(d.first_row),
            loops.out_row.eq(0),
        ]

    def _advance_in_group(self, m: Module, loops: _Loops, at: _Bounds) -> None:
        """To the next word of a pixel group: channel group, kernel column, kernel row, plane."""
        d, weight = self.execute, loops.weight
        m.d.sync += [
            loops.group.eq(loops.group + 1),
            loops.group_offset.eq(loops.group_offset + d.group_pitch),
            weight.eq(Mux(weight == self._config.weight_depth - 1, 0, weight + 1)),
        ]
        with m.If(at.last_group):
            m.d.sync += [
                loops.group.eq(0),
                loops.group_offset.eq(0),
                loops.kernel_x.eq(loops.kernel_x + 1),
            ]
        with m.If(at.last_kernel_x):
            m.d.sync += [
                loops.kernel_x.eq(0),
                loops.kernel_y.eq(loops.kernel_y + 1),
                loops.kernel_offset.eq(loops.kernel_offset + d.row_pitch),
            ]
        with m.If(at.last_kernel_y):
            m.d.sync += [
                loops.kernel_y.eq(0),
                loops.kernel_offset.eq(0),
                loops.plane.eq(1),
                weight.eq(d.weight_address),
            ]

    def _advance_pixels(self, m: Module, loops: _Loops, at: _Bounds) -> None:
        """To the next pixel group, the next output row, or the end."""
        d, pixels = self.execute, self._config.pixels
        m.d.sync += [
            loops.out_x.eq(loops.out_x + pixels),
            loops.in_x.eq(loops.in_x + (d.stride_x << ceil_log2(pixels))),
        ]
        with m.If(at.last_x):
            m.d.sync += [
                loops.out_x.eq(0),
                loops.in_x.eq(-d.pad_left),
                loops.out_y.eq(loops.out_y + 1),
                loops.in_y.eq(loops.in_y + d.stride_y),
                loops.row_base.eq(loops.row_base + d.row_step),
                loops.out_row.eq(loops.out_row + d.out_row_pitch),
            ]
            with m.If(at.last_y):
                m.d.sync += loops.running.eq(0)
