# SPDX-License-Identifier: Apache-2.0
"""Loop nest of one EXECUTE descriptor: the word that enters the array in each cycle."""

import dataclasses

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import delay
from gateware.rtl.payloads import DrainJob, WordRequest, drain_fields
from gateware.rtl.spacing import DrainSpacing
from ir.numerics import ACT_BITS


class _Counter:
    """Counter of the turns of one loop; a register says that a turn is the last, compared a turn
    ahead.

    Parameters
    ----------
    m : Module
    name : str
    bound : Value
        Turns, at least one; constant from two cycles before the loop begins.
    """

    def __init__(self, m: Module, name: str, bound: Value) -> None:
        self.turn = Signal(len(bound), name=name, reset_less=True)
        self.last = Signal(name=f"{name}_last", reset_less=True)
        self._penultimate = Signal(len(bound), name=f"{name}_penultimate", reset_less=True)
        self._single = Signal(name=f"{name}_single", reset_less=True)
        m.d.sync += [self._penultimate.eq(bound - 2), self._single.eq(bound == 1)]

    def begin(self, m: Module) -> None:
        """First turn."""
        m.d.sync += [self.turn.eq(0), self.last.eq(self._single)]

    def advance(self, m: Module) -> None:
        """Next turn, or the first again."""
        m.d.sync += [self.turn.eq(self.turn + 1), self.last.eq(self.turn == self._penultimate)]
        with m.If(self.last):
            self.begin(m)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Loops:
    """Loop counters, innermost first, and the addresses that go with them."""

    group: _Counter
    kernel_x: _Counter
    kernel_y: _Counter
    plane: Signal
    plane_last: Signal
    column: _Counter  # of pixel groups
    row: _Counter
    first_of_plane: Signal
    group_offset: Signal
    kernel_offset: Signal
    in_x: Signal
    in_y: Signal
    row_base: Signal
    out_row: Signal
    weight: Signal

    @property
    def last_kernel_x(self) -> Value:
        return self.group.last & self.kernel_x.last

    @property
    def last_kernel_y(self) -> Value:
        return self.last_kernel_x & self.kernel_y.last

    @property
    def last_word(self) -> Value:
        """Of a pixel group."""
        return self.last_kernel_y & self.plane_last

    @property
    def last_of_all(self) -> Value:
        """Last word of the last pixel group."""
        return self.last_word & self.column.last & self.row.last


#: Of the word that is issued next: its pixel group is the last of its row, and of all.
_NextWord = data.StructLayout({"partial": 1, "final": 1})


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
        Stable from ``start`` to the cycle after ``ending``.
    start : In(1)
    issued, stalled : Out(1)
        A word is issued in this cycle; one waits for the drain.
    request : Out(WordRequest)
        ``latency`` cycles after ``issued``; ``request.control.valid`` marks a word.
    job : Out(DrainJob), job_valid : Out(1)
        With the last word of a pixel group, as it is issued.
    ending : Out(1)
        The last word of all is issued in this cycle.

    Attributes
    ----------
    setup : int
        Cycles from ``start`` to the first word, which the constants of an EXECUTE take.

    The counters are a word ahead of the one that is issued: what that waits for does not depend on
    them.

    Throughput: one word per cycle, unless ``stalled``.
    """

    latency = 1

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        self.setup = self.setup_for(config)
        super().__init__(
            {
                "execute": In(isa.execute_layout(config)),
                "start": In(1),
                "issued": Out(1),
                "stalled": Out(1),
                "request": Out(WordRequest()),
                "job": Out(DrainJob(config)),
                "job_valid": Out(1),
                "ending": Out(1),
            }
        )

    @staticmethod
    def setup_for(config: AccelConfig) -> int:
        """Setup of a loop of this configuration, in cycles."""
        return max(3, DrainSpacing.setup_for(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.spacing = spacing = DrainSpacing(self._config)
        loops = self._loops(m)
        running, advance, word = Signal(), Signal(), Signal(_NextWord, reset_less=True)
        word_valid, word_last, stalled = Signal(), Signal(), Signal()
        runs, stalls = Signal(), Signal()  # in the next cycle
        # Two cycles before the first word: its counters, and its registers.
        begin = delay(m, self.start, self.setup - 2, name="begin", reset_less=False)
        group_done = word_last & ~stalled
        # Known a cycle ahead: every enable of the loop depends on them.
        m.d.sync += [running.eq(runs), stalled.eq(stalls), advance.eq(runs & ~stalls)]
        m.d.comb += [
            runs.eq(begin | (running & ~(advance & loops.last_of_all))),
            stalls.eq(spacing.waiting_next & (stalled | (running & loops.last_word))),
            self.stalled.eq(stalled),
            self.issued.eq(word_valid & ~stalled),
            self.ending.eq(group_done & word.final),
            self.job_valid.eq(group_done),
            spacing.execute.eq(self.execute),
            spacing.load.eq(group_done),
            spacing.partial.eq(word.partial),
            spacing.final.eq(word.final),
        ]
        self._request_word(m, loops)
        self._offer_job(m, loops)
        with m.If(~stalled):
            m.d.sync += [
                word_valid.eq(running),
                word_last.eq(running & loops.last_word),
                word.partial.eq(loops.column.last),
                word.final.eq(loops.column.last & loops.row.last),
            ]
        with m.If(begin):
            self._begin(m, loops)
        with m.Elif(advance):
            self._advance_in_group(m, loops)
            with m.If(loops.last_word):
                self._advance_pixels(m, loops)
        return m

    def _loops(self, m: Module) -> _Loops:
        d = self.execute
        position, address = signed(isa.SIZE_BITS + 2), isa.ADDRESS_BITS
        columns = (d.out_width + self._config.pixels - 1) >> ceil_log2(self._config.pixels)
        return _Loops(
            group=_Counter(m, "group", d.groups),
            kernel_x=_Counter(m, "kernel_x", d.kernel_x),
            kernel_y=_Counter(m, "kernel_y", d.kernel_y),
            plane=Signal(name="plane", reset_less=True),
            plane_last=Signal(name="plane_last", reset_less=True),
            column=_Counter(m, "column", columns),
            row=_Counter(m, "row", d.out_height),
            first_of_plane=Signal(name="first_of_plane", reset_less=True),
            group_offset=Signal(address, name="group_offset", reset_less=True),
            kernel_offset=Signal(address, name="kernel_offset", reset_less=True),
            in_x=Signal(position, name="in_x", reset_less=True),
            in_y=Signal(position, name="in_y", reset_less=True),
            row_base=Signal(address, name="row_base", reset_less=True),
            out_row=Signal(address, name="out_row", reset_less=True),
            weight=Signal(address, name="weight", reset_less=True),
        )

    def _request_word(self, m: Module, loops: _Loops) -> None:
        """Addresses and control of the next word, in two stages of one addition each."""
        d, plane, address = self.execute, loops.plane, isa.ADDRESS_BITS
        first, shift = loops.first_of_plane & ~plane, loops.first_of_plane & plane
        if self._config.parts:  # such an EXECUTE has one plane and one pixel group
            first, shift = first & ~d.resume, loops.first_of_plane & (plane | d.lower)
        word = Signal(WordRequest(), reset_less=True)
        row, offset = Signal(address, reset_less=True), Signal(address, reset_less=True)
        y = Signal(loops.in_y.shape(), reset_less=True)
        with m.If(~self.stalled):
            m.d.sync += [
                row.eq(loops.row_base + Mux(plane, d.plane_pitch, 0)),
                offset.eq(loops.kernel_offset + loops.group_offset),
                y.eq(loops.in_y + loops.kernel_y.turn),
                word.x.eq(loops.in_x + loops.kernel_x.turn),
                word.control.first.eq(first),
                word.control.shift.eq(shift),
                word.control.last.eq(loops.last_word),
                word.pad.eq(Mux(d.planes & ~plane, d.pad_value[ACT_BITS:], d.pad_value[:ACT_BITS])),
                word.weight_address.eq(loops.weight),
            ]
        request = Signal(WordRequest(), reset_less=True)
        m.d.sync += [
            request.eq(word),
            request.control.valid.eq(self.issued),
            request.row_address.eq(row + offset),
            request.row_inside.eq((y >= 0) & (y < d.height)),
        ]
        m.d.comb += self.request.eq(request)

    def _offer_job(self, m: Module, loops: _Loops) -> None:
        """What the drain does with the sums of the next word's pixel group."""
        d, config, column = self.execute, self._config, loops.column
        job = Signal(DrainJob(config), reset_less=True)
        fewer = (d.out_width - 1)[: ceil_log2(config.pixels)]
        with m.If(~self.stalled):
            m.d.sync += [
                job.pixel.eq(loops.out_row + (column.turn >> 1)),  # two pixel groups to a word
                job.bank.eq(column.turn << ceil_log2(config.pixels)),
                job.count.eq(Mux(column.last, fewer + 1, config.pixels)),
                job.final.eq(column.last & loops.row.last),
            ]
        m.d.comb += self.job.eq(job)
        m.d.comb += [self.job.execute[name].eq(d[name]) for name in drain_fields(self._config)]

    def _begin(self, m: Module, loops: _Loops) -> None:
        d = self.execute
        for counter in (loops.group, loops.kernel_x, loops.kernel_y, loops.column, loops.row):
            counter.begin(m)
        m.d.sync += [
            loops.group_offset.eq(0),
            loops.kernel_offset.eq(0),
            loops.plane.eq(0),
            loops.plane_last.eq(~d.planes),
            loops.first_of_plane.eq(1),
            loops.weight.eq(d.weight_address),
            loops.in_x.eq(-d.pad_left),
            loops.in_y.eq(-d.pad_top),
            loops.row_base.eq(d.first_row),
            loops.out_row.eq(0),
        ]

    def _advance_in_group(self, m: Module, loops: _Loops) -> None:
        """To the next word of a pixel group: channel group, kernel column, kernel row, plane."""
        d, weight = self.execute, loops.weight
        loops.group.advance(m)
        m.d.sync += [
            loops.group_offset.eq(loops.group_offset + d.group_pitch),
            loops.first_of_plane.eq(loops.last_kernel_y),
            weight.eq(Mux(weight == self._config.weight_depth - 1, 0, weight + 1)),
        ]
        with m.If(loops.group.last):
            loops.kernel_x.advance(m)
            m.d.sync += loops.group_offset.eq(0)
        with m.If(loops.last_kernel_x):
            loops.kernel_y.advance(m)
            m.d.sync += loops.kernel_offset.eq(loops.kernel_offset + d.row_pitch)
        with m.If(loops.last_kernel_y):
            m.d.sync += [
                loops.kernel_offset.eq(0),
                loops.plane.eq(1),
                loops.plane_last.eq(1),
                weight.eq(d.weight_address),
            ]

    def _advance_pixels(self, m: Module, loops: _Loops) -> None:
        """To the next pixel group or the next output row."""
        d = self.execute
        loops.column.advance(m)
        m.d.sync += [
            loops.plane.eq(0),
            loops.plane_last.eq(~d.planes),
            loops.in_x.eq(loops.in_x + (d.stride_x << ceil_log2(self._config.pixels))),
        ]
        with m.If(loops.column.last):
            loops.row.advance(m)
            m.d.sync += [
                loops.in_x.eq(-d.pad_left),
                loops.in_y.eq(loops.in_y + d.stride_y),
                loops.row_base.eq(loops.row_base + d.row_step),
                loops.out_row.eq(loops.out_row + d.out_row_pitch),
            ]
