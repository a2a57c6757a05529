# SPDX-License-Identifier: Apache-2.0
"""Drain of finished sums through the requantisers into the activation buffer.

The compiler has scheduled each tile into *slots*. In one slot every requantiser takes one engine
lane and no two results fall into the same nibble column, so a slot is written in one cycle and
tensors keep their channel order in memory. Eight-bit operands take two cycles, the hi nibbles
first.

The pipeline, with the prefix of each stage's signals::

    walk     step of pixel, slot and phase -> address of the slot
    slot s   slot is there -> addresses of the residual operands, choice of sums
    gather g operands are read
    lanes r  operands are there -> requantisers
    result y results -> activation buffer, or raw output buffer
"""

import dataclasses

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import SUM_BITS, delay
from gateware.rtl.payloads import DrainJob
from gateware.rtl.requant import RequantLane
from ir.numerics import ACT_BITS, BIAS_BITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Step:
    """One step of the walk, in the cycle in which the slot's address is given."""

    done: Value  # a result comes of it
    final: Value  # the last one of an EXECUTE
    gathers: Value  # it has a residual operand
    job: data.View
    pixel: Signal
    phase: Signal  # plane of an 8-bit operand or result; lane of raw outputs
    turn: Signal  # with one copy of the activations: operands are read, nothing is written


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Slot:
    """A step one cycle later, beside its slot."""

    done: Value
    final: Value
    execute: data.View
    phase: Value
    pixel: Value
    bank: Value
    word: Value  # from the tensor's first word, in the bank


@dataclasses.dataclass(frozen=True)
class _Requantised:
    """The requantisers, and the descriptor of what enters them."""

    execute: data.View
    lanes: list[RequantLane]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Results:
    """Results of a slot at the outputs of the requantisers, and where they go."""

    done: Value
    columns: data.View
    phase: Value
    bank: Value
    word: Value
    raw: Value  # raw outputs, not codes
    two_planes: Value  # codes of 8 bits
    address: Value
    codes: data.View
    raw_outputs: data.View
    second: Value  # the low nibbles of the codes a turn ago are written now
    second_pitch: Value


class Drain(Component):
    """Drain of finished sums, ``requant_lanes`` a step, into codes or raw outputs.

    A job must arrive two cycles before its sums are valid at ``sums``, and the next one at least a
    drain later, see :class:`~gateware.rtl.sequence.TileLoop`.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(DrainJob), job_valid : In(1)
    sums : In(ArrayLayout(ArrayLayout(signed(25), pixels), rows + k))
        ``sums[lane][pixel]`` of :class:`~gateware.rtl.array.GemmArray`.
    slot_address : Out(16), slot : In(isa.slot_layout)
        To the slot buffer; the slot arrives one cycle later.
    gather_bank : Out(ceil_log2(banks)), gather_address : Out(ArrayLayout(address, k))
        Residual operands, as :class:`~gateware.rtl.buffers.ActBuffer` has them.
    gather_data : In(ArrayLayout(unsigned(4), k))
        One cycle after their address.
    gathering : Out(1)
        There is an operand to read in this cycle.
    write_enable : Out(k), write_bank : Out(ceil_log2(banks))
    write_address : Out(ArrayLayout(address, k)), write_data : Out(ArrayLayout(unsigned(4), k))
        Codes, as :class:`~gateware.rtl.buffers.ActBuffer` has them.
    wide_enable : Out(1), wide_address : Out(16), wide_data : Out(signed(48))
        Raw outputs.
    completed : Out(1)
        Pulse: every result of an EXECUTE is written.

    Latency: :attr:`latency`.

    Throughput: for each pixel a slot takes one turn, two for 8-bit operands or results, and
    ``requant_lanes`` for raw outputs, which leave one by one. A turn is a cycle. With one copy of
    the activations it is two, but for raw outputs, which go elsewhere: operands are read in those
    cycles that have no results, because an odd number of cycles lies between.
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

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step = self._walk_job(m)
        slot = self._take_slot(m, step)
        requantised = self._requantise(m, slot, self._pick_sums(m, slot))
        results = self._collect_results(m, slot, requantised)
        self._write_raw(m, results)
        self._write_words(m, results, step.turn)
        return m

    def _walk_job(self, m: Module) -> _Step:
        """Stage 0: walk over pixels, slots and phases of the job in hand; address of the slot.

        The first step comes in the cycle after the job, or one later where a turn is two cycles.
        """
        config = self._config
        active, job = Signal(), Signal(DrainJob(config))
        execute = job.execute
        pixel, slot = Signal(range(config.pixels)), Signal(isa.ADDRESS_BITS)
        phase = Signal(range(max(2, config.requant_lanes)))
        last_phase = phase == Mux(
            execute.wide,
            config.requant_lanes - 1,
            execute.out_planes | (execute.residual & execute.residual_planes),
        )
        last_slot = slot == execute.slots - 1
        turn = Signal(reset_less=True)
        valid = active
        if config.drain_turn == 2:
            # Operands come 3 cycles after a job, results `latency`.
            assert (self.latency - 3) % 2 == 1
            m.d.sync += turn.eq(~turn)
            valid = active & (execute.wide | ~turn)
        with m.If(valid):
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
        m.d.comb += self.slot_address.eq(execute.slot_address + slot)
        return _Step(
            done=valid & (last_phase | execute.wide),
            final=valid & last_phase & last_slot & (pixel == job.count - 1) & job.final,
            gathers=valid & execute.residual,
            job=job,
            pixel=pixel,
            phase=phase,
            turn=turn,
        )

    def _take_slot(self, m: Module, step: _Step) -> _Slot:
        """Stage 1, one cycle after the step: the slot is there; addresses of the operands."""
        s_done = delay(m, step.done, 1, name="s_done", reset_less=False)
        s_final = delay(m, step.final, 1, name="s_final", reset_less=False)
        s_gathers = delay(m, step.gathers, 1, name="s_gathers", reset_less=False)
        s = delay(m, step.job.execute, 1, name="s_execute")
        s_phase = delay(m, step.phase, 1, name="s_phase")
        s_pixel = delay(m, step.pixel, 1, name="s_pixel")
        s_bank = delay(m, step.job.bank + step.pixel, 1, name="s_bank")
        s_word = delay(m, step.job.pixel, 1, name="s_word")
        residual_plane = Mux(s_phase[0] & s.residual_planes, s.residual_plane_pitch, 0)
        m.d.sync += [self.gather_bank.eq(s_bank), self.gathering.eq(s_gathers)]
        m.d.sync += [
            self.gather_address[j].eq(
                s.residual_address + residual_plane + s_word + self.slot.columns[j].offset
            )
            for j in range(self._config.k)
        ]
        return _Slot(
            done=s_done,
            final=s_final,
            execute=s,
            phase=s_phase,
            pixel=s_pixel,
            bank=s_bank,
            word=s_word,
        )

    def _pick_sums(self, m: Module, slot: _Slot) -> data.View:
        """Stage 1: the sum that each requantiser takes, one cycle after the slot."""
        config, lanes = self._config, self._config.requant_lanes
        rows = (config.rows + config.k) // lanes
        picked = Signal(data.ArrayLayout(signed(SUM_BITS), lanes))
        for q in range(lanes):
            choices = data.ArrayLayout(data.ArrayLayout(signed(SUM_BITS), config.pixels), rows)
            mine = Signal(choices, name=f"choices_{q}")
            m.d.comb += [mine[row].eq(self.sums[row * lanes + q]) for row in range(rows)]
            m.d.sync += picked[q].eq(mine[self.slot.lanes[q].row][slot.pixel])
        return picked

    def _requantise(self, m: Module, slot: _Slot, picked: data.View) -> _Requantised:
        """Stages 3 and 4, two and three cycles after the slot: residual nibbles come back per
        column and go to the lanes that own the columns, then everything enters the requantisers.
        """
        g_record = delay(m, self.slot, 2, name="g_record")
        g_phase = delay(m, slot.phase, 2, name="g_phase")
        # With a reset, or the three registers of a bit become a shift register, which takes a LUT.
        r_record = delay(m, g_record, 1, name="r_record", reset_less=False)
        r_sums = delay(m, picked, 2, name="r_sums")
        r = delay(m, slot.execute, 3, name="r_execute")
        lanes = []
        for q in range(self._config.requant_lanes):
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
            lanes.append(lane)
        return _Requantised(execute=r, lanes=lanes)

    def _collect_results(self, m: Module, slot: _Slot, requantised: _Requantised) -> _Results:
        """Last stage, ``3 + RequantLane.latency`` cycles after the slot: results, and where they
        go. The low nibbles of 8 bits follow a turn later."""
        cycles, turn_cycles = 3 + RequantLane.latency, self._config.drain_turn
        y_done = delay(m, slot.done, cycles, name="y_done", reset_less=False)
        y_columns = delay(m, self.slot.columns, cycles, name="y_columns")
        y_phase = delay(m, slot.phase, cycles, name="y_phase")
        y_bank = delay(m, slot.bank, cycles, name="y_bank")
        y_word = delay(m, slot.word, cycles, name="y_word")
        y = {
            name: delay(m, requantised.execute[name], cycles - 3, name=f"y_{name}")
            for name in ("wide", "out_planes", "out_address", "out_plane_pitch")
        }
        # The last nibbles, the low ones of 8 bits, are in memory two cycles and a turn later.
        m.d.comb += self.completed.eq(
            delay(m, slot.final, cycles + 2 + turn_cycles, name="y_final", reset_less=False)
        )
        lanes = requantised.lanes
        results = Signal(data.ArrayLayout(unsigned(8), len(lanes)))
        wides = Signal(data.ArrayLayout(signed(BIAS_BITS), len(lanes)))
        m.d.comb += [results[q].eq(lane.y) for q, lane in enumerate(lanes)]
        m.d.comb += [wides[q].eq(lane.wide) for q, lane in enumerate(lanes)]
        second = delay(m, y_done & y["out_planes"], turn_cycles, name="second", reset_less=False)
        second_pitch = delay(m, y["out_plane_pitch"], turn_cycles, name="second_pitch")
        return _Results(
            done=y_done,
            columns=y_columns,
            phase=y_phase,
            bank=y_bank,
            word=y_word,
            raw=y["wide"],
            two_planes=y["out_planes"],
            address=y["out_address"],
            codes=results,
            raw_outputs=wides,
            second=second,
            second_pitch=second_pitch,
        )

    def _write_raw(self, m: Module, y: _Results) -> None:
        """Raw outputs, one lane a cycle, one cycle after the result."""
        columns = y.columns
        m.d.sync += [
            self.wide_enable.eq(y.done & y.raw & columns[y.phase].enable),
            self.wide_address.eq(
                y.address
                + columns[y.phase].offset
                + Cat(y.bank[: ceil_log2(self._config.banks)], y.word)
            ),
            self.wide_data.eq(y.raw_outputs[y.phase]),
        ]

    def _write_words(self, m: Module, y: _Results, turn: Signal) -> None:
        """Nibbles to their columns one cycle after the result; low ones of 8 bits a turn later."""
        k = self._config.k
        second_data = Signal(data.ArrayLayout(unsigned(ACT_BITS), k))
        enables, second_enable = Signal(k), Signal(k)
        m.d.comb += [enables[j].eq(y.columns[j].enable & y.done & ~y.raw) for j in range(k)]
        with m.If(y.second):
            m.d.sync += [self.write_data.eq(second_data), self.write_enable.eq(second_enable)]
            m.d.sync += [
                self.write_address[j].eq(self.write_address[j] + y.second_pitch) for j in range(k)
            ]
        with m.Elif(turn):
            m.d.sync += self.write_enable.eq(0)
        with m.Else():
            m.d.sync += [
                self.write_enable.eq(enables),
                second_enable.eq(enables),
                self.write_bank.eq(y.bank),
            ]
            for j in range(k):
                result = Signal(8, name=f"result_{j}")
                m.d.comb += result.eq(y.codes[y.columns[j].lane])
                m.d.sync += [
                    self.write_data[j].eq(Mux(y.two_planes, result[ACT_BITS:], result[:ACT_BITS])),
                    second_data[j].eq(result[:ACT_BITS]),
                    self.write_address[j].eq(y.address + y.word + y.columns[j].offset),
                ]
