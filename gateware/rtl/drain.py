# SPDX-License-Identifier: Apache-2.0
"""Drains finished sums through the requantisers into the activation buffer.

The compiler has scheduled each tile into *slots*. In one slot every requantiser takes one engine
lane and no two results fall into the same nibble column, so a slot is written in one cycle and
tensors keep their channel order in memory. Eight-bit operands take two cycles, the hi nibbles
first.
"""

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import SUM_BITS, delay
from gateware.rtl.requant import RequantLane
from gateware.rtl.sequence import DrainJob
from ir.numerics import ACT_BITS, BIAS_BITS


class Drain(Component):
    """Requantises ``requant_lanes`` sums per slot and writes the results.

    A job must arrive two cycles before its sums are valid at ``sums``, and the next one at least a
    drain later, see :class:`~gateware.rtl.sequence.TileLoop`: a slot takes one turn for each pixel,
    two for 8-bit operands, and ``requant_lanes`` where results are wide, which leave one by one. A
    turn is a cycle; with one copy of the activations it is two, but for wide results, which go
    elsewhere: operands are read in those cycles that have no results, because an odd number of
    cycles lies between.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(DrainJob), job_valid : In(1)
    sums : In(ArrayLayout(ArrayLayout(signed(25), pixels), rows + k))
    slot_address : Out(16), slot : In(isa.slot_layout)
        To the slot buffer; the slot arrives one cycle later.
    gather_bank, gather_address, gather_data
        Residual operands, as :class:`~gateware.rtl.buffers.ActBuffer` has them.
    gathering : Out(1)
        There is an operand to read in this cycle.
    write_enable, write_bank, write_address, write_data
        Results, as :class:`~gateware.rtl.buffers.ActBuffer` has them.
    wide_enable : Out(1), wide_address : Out(16), wide_data : Out(signed(48))
        Wide results.
    completed : Out(1)
        Pulse: every result of an EXECUTE is written.
    """

    #: Cycles from a job's arrival to the write of its first result, or one more.
    latency = 6 + RequantLane.latency

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        word = data.ArrayLayout(unsigned(ACT_BITS), config.k)
        address = data.ArrayLayout(unsigned(ceil_log2(config.act_depth)), config.k)
        sums = data.ArrayLayout(
            data.ArrayLayout(signed(SUM_BITS), config.pixels), config.rows + config.k
        )
        super().__init__(
            {
                "job": In(DrainJob(config)),
                "job_valid": In(1),
                "sums": In(sums),
                "slot_address": Out(isa.ADDRESS_BITS),
                "slot": In(isa.slot_layout(config)),
                "gather_bank": Out(ceil_log2(config.banks)),
                "gather_address": Out(address),
                "gather_data": In(word),
                "gathering": Out(1),
                "write_enable": Out(config.k),
                "write_bank": Out(ceil_log2(config.banks)),
                "write_address": Out(address),
                "write_data": Out(word),
                "wide_enable": Out(1),
                "wide_address": Out(isa.ADDRESS_BITS),
                "wide_data": Out(signed(BIAS_BITS)),
                "completed": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config

        # Walk pixels, slots and phases of the job in hand.
        active, job = Signal(), Signal(DrainJob(config))
        d = job.execute
        pixel, slot = Signal(range(config.pixels)), Signal(isa.ADDRESS_BITS)
        phase = Signal(range(max(2, config.requant_lanes)))
        last_phase = phase == Mux(
            d.wide, config.requant_lanes - 1, d.out_planes | (d.residual & d.residual_planes)
        )
        last_slot = slot == d.slots - 1
        turn = Signal(reset_less=True)
        step = active
        if config.drain_turn == 2:
            # Operands come 3 cycles after a job, results `latency`.
            assert (self.latency - 3) % 2 == 1
            m.d.sync += turn.eq(~turn)
            step = active & (d.wide | ~turn)
        with m.If(step):
            m.d.sync += phase.eq(phase + 1)
            with m.If(last_phase):
                m.d.sync += phase.eq(0)
                m.d.sync += slot.eq(slot + 1)
                with m.If(last_slot):
                    m.d.sync += [slot.eq(0), pixel.eq(pixel + 1)]
                    with m.If(pixel == job.count - 1):
                        m.d.sync += active.eq(0)
        with m.If(self.job_valid):
            m.d.sync += [active.eq(1), job.eq(self.job), pixel.eq(0), slot.eq(0), phase.eq(0)]
        m.d.comb += self.slot_address.eq(d.slot_address + slot)

        # The slot arrives: pick sums, address the residual operands.
        s_done = delay(m, step & (last_phase | d.wide), 1, name="s_done", reset_less=False)
        s_final = delay(
            m,
            step & last_phase & last_slot & (pixel == job.count - 1) & job.final,
            1,
            name="s_final",
            reset_less=False,
        )
        s_gathers = delay(m, step & d.residual, 1, name="s_gathers", reset_less=False)
        s = delay(m, d, 1, name="s_execute")
        s_phase = delay(m, phase, 1, name="s_phase")
        s_pixel = delay(m, pixel, 1, name="s_pixel")
        s_bank = delay(m, job.bank + pixel, 1, name="s_bank")
        s_word = delay(m, job.pixel, 1, name="s_word")
        record = self.slot
        residual_plane = Mux(s_phase[0] & s.residual_planes, s.residual_plane_pitch, 0)
        m.d.sync += [self.gather_bank.eq(s_bank), self.gathering.eq(s_gathers)]
        m.d.sync += [
            self.gather_address[j].eq(
                s.residual_address + residual_plane + s_word + record.columns[j].offset
            )
            for j in range(config.k)
        ]
        lanes, rows = config.requant_lanes, (config.rows + config.k) // config.requant_lanes
        picked = Signal(data.ArrayLayout(signed(SUM_BITS), lanes))
        for q in range(lanes):
            choices = data.ArrayLayout(data.ArrayLayout(signed(SUM_BITS), config.pixels), rows)
            mine = Signal(choices, name=f"choices_{q}")
            m.d.comb += [mine[row].eq(self.sums[row * lanes + q]) for row in range(rows)]
            m.d.sync += picked[q].eq(mine[record.lanes[q].row][s_pixel])

        # Residual nibbles come back per column and go to the lanes that own the columns.
        g_record = delay(m, record, 2, name="g_record")
        g_phase = delay(m, s_phase, 2, name="g_phase")
        # With a reset, or the three registers of a bit become a shift register, which takes a LUT.
        r_record = delay(m, g_record, 1, name="r_record", reset_less=False)
        r_sums = delay(m, picked, 2, name="r_sums")
        r = delay(m, s, 3, name="r_execute")
        requantisers = []
        for q in range(lanes):
            nibble = Signal(ACT_BITS, name=f"residual_{q}")
            high_nibble = Signal(ACT_BITS, name=f"residual_high_{q}")
            m.d.sync += nibble.eq(self.gather_data[g_record.lanes[q].column])
            with m.If(delay(m, g_phase, 1, name=f"r_phase_{q}") == 0):
                m.d.sync += high_nibble.eq(nibble)
            m.submodules[f"requant_{q}"] = lane = RequantLane()
            residual = Cat(nibble, Mux(r.residual_planes, high_nibble, 0))
            fields = {
                "acc": r_sums[q],
                "multiplier": r_record.lanes[q].multiplier,
                "bias": r_record.lanes[q].bias,
                "shift": r_record.lanes[q].shift,
                "low": r.low,
                "high": r.high,
                "residual": Mux(r.residual, residual, 0),
                "n": r.residual_n,
            }
            m.d.comb += [getattr(lane.i, name).eq(value) for name, value in fields.items()]
            requantisers.append(lane)

        # Results meet their columns; the lo nibble of an 8-bit result follows one cycle later.
        y_delay = 3 + RequantLane.latency
        y_done = delay(m, s_done, y_delay, name="y_done", reset_less=False)
        y_columns = delay(m, record.columns, y_delay, name="y_columns")
        y_phase = delay(m, s_phase, y_delay, name="y_phase")
        y_bank = delay(m, s_bank, y_delay, name="y_bank")
        y_word = delay(m, s_word, y_delay, name="y_word")
        y = {
            name: delay(m, r[name], y_delay - 3, name=f"y_{name}")
            for name in ("wide", "out_planes", "out_address", "out_plane_pitch")
        }
        # The last nibbles, the low ones of 8 bits, are in memory two cycles and a turn later.
        m.d.comb += self.completed.eq(
            delay(m, s_final, y_delay + 2 + config.drain_turn, name="y_final", reset_less=False)
        )
        results = Signal(data.ArrayLayout(unsigned(8), lanes))
        wides = Signal(data.ArrayLayout(signed(BIAS_BITS), lanes))
        m.d.comb += [results[q].eq(lane.y) for q, lane in enumerate(requantisers)]
        m.d.comb += [wides[q].eq(lane.wide) for q, lane in enumerate(requantisers)]

        second = delay(
            m, y_done & y["out_planes"], config.drain_turn, name="second", reset_less=False
        )
        second_pitch = delay(m, y["out_plane_pitch"], config.drain_turn, name="second_pitch")
        second_data = Signal(data.ArrayLayout(unsigned(ACT_BITS), config.k))
        enables, second_enable = Signal(config.k), Signal(config.k)
        m.d.comb += [
            enables[j].eq(y_columns[j].enable & y_done & ~y["wide"]) for j in range(config.k)
        ]
        m.d.sync += [
            self.wide_enable.eq(y_done & y["wide"] & y_columns[y_phase].enable),
            self.wide_address.eq(
                y["out_address"]
                + y_columns[y_phase].offset
                + Cat(y_bank[: ceil_log2(config.banks)], y_word)
            ),
            self.wide_data.eq(wides[y_phase]),
        ]
        with m.If(second):
            m.d.sync += [self.write_data.eq(second_data), self.write_enable.eq(second_enable)]
            m.d.sync += [
                self.write_address[j].eq(self.write_address[j] + second_pitch)
                for j in range(config.k)
            ]
        with m.Elif(turn):
            m.d.sync += self.write_enable.eq(0)
        with m.Else():
            m.d.sync += [
                self.write_enable.eq(enables),
                second_enable.eq(enables),
                self.write_bank.eq(y_bank),
            ]
            for j in range(config.k):
                result = Signal(8, name=f"result_{j}")
                m.d.comb += result.eq(results[y_columns[j].lane])
                m.d.sync += [
                    self.write_data[j].eq(
                        Mux(y["out_planes"], result[ACT_BITS:], result[:ACT_BITS])
                    ),
                    second_data[j].eq(result[:ACT_BITS]),
                    self.write_address[j].eq(y["out_address"] + y_word + y_columns[j].offset),
                ]
        return m
