# SPDX-License-Identifier: Apache-2.0
"""The loop nest of one EXECUTE descriptor: which word enters the array in each cycle."""

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import WordControl
from ir.numerics import ACT_BITS


class WordRequest(data.StructLayout):
    """One word of every pixel lane, by address.

    control : WordControl
    row_address : activation buffer address of (plane, group, row), column quotient 0
    row_inside : the row lies in the image; otherwise the pad value is read
    x : signed column of pixel lane 0
    pad : nibble outside the image
    weight_address : word of the weight buffer
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "control": WordControl(),
                "row_address": isa.ADDRESS_BITS,
                "row_inside": 1,
                "x": signed(isa.SIZE_BITS + 2),
                "pad": ACT_BITS,
                "weight_address": isa.ADDRESS_BITS,
            }
        )


#: Fields of EXECUTE that the drain needs.
DRAIN_FIELDS = (
    "wide",
    "out_planes",
    "residual",
    "residual_planes",
    "out_address",
    "out_plane_pitch",
    "residual_address",
    "residual_plane_pitch",
    "residual_n",
    "low",
    "high",
    "slot_address",
    "slots",
)


class DrainJob(data.StructLayout):
    """The pixels whose sums are complete.

    pixel : words from the output tensor's first word to this pixel's, in its bank
    bank : bank of the first pixel
    count : how many of the pixel lanes lie inside the output
    final : the last pixels of an EXECUTE
    execute : what the drain must know of it, named as there
    """

    def __init__(self, config: AccelConfig) -> None:
        fields = dict(isa.EXECUTE)
        super().__init__(
            {
                "pixel": isa.ADDRESS_BITS,
                "bank": ceil_log2(config.banks),
                "count": range(config.pixels + 1),
                "final": 1,
                "execute": data.StructLayout({name: fields[name].shape for name in DRAIN_FIELDS}),
            }
        )


class TileLoop(Component):
    """Walks output rows, pixel groups, planes, kernel rows, kernel columns and channel groups.

    One word per cycle. The last word of a pixel group waits until the drain of the group before has
    room: two groups' last words lie at least one drain apart, so a sum is read before it is
    replaced, also from one EXECUTE to the next. Every address is kept by increments; there is no
    multiplier.

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

    def elaborate(self, platform) -> Module:
        m = Module()
        pixels, banks = self._config.pixels, self._config.banks
        d, request = self.execute, self.request
        position = signed(isa.SIZE_BITS + 2)

        # Loop counters, innermost first, and the addresses that go with them.
        group, group_offset = Signal(8), Signal(isa.ADDRESS_BITS)
        kernel_x = Signal(8)
        kernel_y, kernel_offset = Signal(8), Signal(isa.ADDRESS_BITS)
        plane = Signal()
        out_x, in_x = Signal(isa.SIZE_BITS + 1), Signal(position)
        out_y, in_y = Signal(isa.SIZE_BITS), Signal(position)
        row_base, out_row = Signal(isa.ADDRESS_BITS), Signal(isa.ADDRESS_BITS)
        weight = Signal(isa.ADDRESS_BITS)
        running = Signal()

        last_group = group == d.groups - 1
        last_kernel_x = last_group & (kernel_x == d.kernel_x - 1)
        last_kernel_y = last_kernel_x & (kernel_y == d.kernel_y - 1)
        last_word = last_kernel_y & (plane == d.planes)
        last_x = out_x + pixels >= d.out_width
        last_y = out_y == d.out_height - 1
        first_of_plane = (group == 0) & (kernel_x == 0) & (kernel_y == 0)

        # Cycles until the sums of the last pixel group have been read.
        two_phases = d.out_planes | (d.residual & d.residual_planes)
        each = Mux(d.wide, d.slots * self._config.requant_lanes, d.slots << two_phases)
        drain_cycles = Signal(isa.ADDRESS_BITS + 2 + ceil_log2(pixels))
        spacing = Signal.like(drain_cycles)
        # With one copy of the activations the drain works every second cycle, but on wide results.
        turns = self._config.drain_turn - 1
        m.d.comb += drain_cycles.eq((each * self.job.count) << Mux(d.wide, 0, turns))
        with m.If(spacing != 0):
            m.d.sync += spacing.eq(spacing - 1)

        y = Signal(position)
        step = Signal()
        m.d.comb += [
            self.stalled.eq(running & last_word & (spacing != 0)),
            step.eq(running & ~self.stalled),
            self.done.eq(~running),
            y.eq(in_y + kernel_y),
            request.control.valid.eq(step),
            request.control.first.eq(first_of_plane & (plane == 0)),
            request.control.shift.eq(first_of_plane & (plane == 1)),
            request.control.last.eq(last_word),
            request.row_address.eq(
                row_base + Mux(plane, d.plane_pitch, 0) + kernel_offset + group_offset
            ),
            request.row_inside.eq((y >= 0) & (y < d.height)),
            request.x.eq(in_x + kernel_x),
            request.pad.eq(
                Mux(d.planes & (plane == 0), d.pad_value[ACT_BITS:], d.pad_value[:ACT_BITS])
            ),
            request.weight_address.eq(weight),
            self.job_valid.eq(step & last_word),
            self.job.pixel.eq(out_row + (out_x >> ceil_log2(banks))),
            self.job.bank.eq(out_x),
            self.job.count.eq(Mux(last_x, d.out_width - out_x, pixels)),
            self.job.final.eq(last_x & last_y),
            *(self.job.execute[name].eq(d[name]) for name in DRAIN_FIELDS),
        ]

        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                group.eq(0),
                group_offset.eq(0),
                kernel_x.eq(0),
                kernel_y.eq(0),
                kernel_offset.eq(0),
                plane.eq(0),
                weight.eq(d.weight_address),
                out_x.eq(0),
                in_x.eq(-d.pad_left),
                out_y.eq(0),
                in_y.eq(-d.pad_top),
                row_base.eq(d.first_row),
                out_row.eq(0),
            ]
        with m.Elif(step):
            m.d.sync += [
                group.eq(group + 1),
                group_offset.eq(group_offset + d.group_pitch),
                weight.eq(Mux(weight == self._config.weight_depth - 1, 0, weight + 1)),
            ]
            with m.If(last_group):
                m.d.sync += [group.eq(0), group_offset.eq(0), kernel_x.eq(kernel_x + 1)]
            with m.If(last_kernel_x):
                m.d.sync += [
                    kernel_x.eq(0),
                    kernel_y.eq(kernel_y + 1),
                    kernel_offset.eq(kernel_offset + d.row_pitch),
                ]
            with m.If(last_kernel_y):
                m.d.sync += [
                    kernel_y.eq(0),
                    kernel_offset.eq(0),
                    plane.eq(1),
                    weight.eq(d.weight_address),
                ]
            with m.If(last_word):
                # The last low nibble of 8 bits is written a turn late, where the next EXECUTE may
                # have a result to write.
                m.d.sync += [
                    plane.eq(0),
                    spacing.eq(drain_cycles - 1 + ((self.job.final & d.out_planes) << turns)),
                    out_x.eq(out_x + pixels),
                    in_x.eq(in_x + (d.stride_x << ceil_log2(pixels))),
                ]
                with m.If(last_x):
                    m.d.sync += [
                        out_x.eq(0),
                        in_x.eq(-d.pad_left),
                        out_y.eq(out_y + 1),
                        in_y.eq(in_y + d.stride_y),
                        row_base.eq(row_base + d.row_step),
                        out_row.eq(out_row + d.out_row_pitch),
                    ]
                    with m.If(last_y):
                        m.d.sync += running.eq(0)
        return m
