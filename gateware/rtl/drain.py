# SPDX-License-Identifier: Apache-2.0
"""Drain of finished sums through the requantisers into the activation buffer.

The compiler has scheduled each tile into *slots*. In one slot every requantiser takes one engine
lane and no two results fall into the same nibble column, so a slot is written in one cycle and
tensors keep their channel order in memory. Eight-bit operands take two cycles, the hi nibbles
first.

With one copy of the activations, codes of two pixels take turns: a slot has a cycle for the even
one and a cycle for the odd one, 8-bit operands two of each. The cycle's parity is the pixel's low
bit, which is its bank's. An odd number of cycles lies between the read of an operand and the write
of a result, so that in a cycle the two are in different banks.

The pipeline, with the prefix of each stage's signals::

    walk     step of pixel, slot and phase -> address of the slot
    slot s   slot is there -> addresses of the residual operands, choice of sums
    gather g operands are read
    lanes r  operands are there -> requantisers
    result y results -> activation buffer, or raw output buffer
"""

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import SUM_BITS, delay
from gateware.pe.broadcast import copies
from gateware.rtl.buffers import GATHER_CYCLES, READ_CYCLES, FillPort
from gateware.rtl.drain_stages import JobInHand, Requantised, Results, SlotInHand, Step, Turn
from gateware.rtl.lookup import Lookup
from gateware.rtl.payloads import DrainJob
from gateware.rtl.requant import RequantLane
from ir.numerics import ACT_BITS, BIAS_BITS, TABLE_BITS, TABLE_SIZE

#: Cycles from the address of a slot to its lanes. Its columns come earlier, by the cycles that it
#: takes to gather the operands which they name.
LANES_CYCLES = READ_CYCLES + GATHER_CYCLES - 1
COLUMNS_PER_COPY = 4  #: nibble columns that one copy of what steers writes has
PIXELS_PER_COPY = 4  #: of a choice among pixels, for the 24 bits of a sum
GATHERED_PER_COPY = 8  #: nibble columns whose addresses one copy of ``gathering`` chooses


def _result_cycles(config: AccelConfig) -> int:
    """Cycles from a requantiser's operands to its result."""
    return RequantLane.latency + (Lookup.latency if config.tables else 0)


def _multiply(product: Value, multiplier: Value, code: Value) -> tuple[Value, Value]:
    """M and the residual operand of a lane: for a product ``256 * code`` and M, less 2^16 where M
    is not 0, and ``255 - code``; else M, and any."""
    low, high = multiplier[:TABLE_BITS], multiplier[TABLE_BITS:]
    total = Value.cast(high + Mux(product, code, 0))
    negative = product & high.any() & ~total[TABLE_BITS]
    factor = Cat(low, total[:TABLE_BITS], negative).as_signed()
    return factor, ~code


class Drain(Component):
    """Drain of finished sums, ``requant_lanes`` a step, into codes or raw outputs.

    A job must arrive :attr:`sums_after` cycles before its sums are valid at ``sums``, and the next
    one at least a drain later, see :class:`~gateware.rtl.sequence.TileLoop`.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    job : In(DrainJob), job_valid : In(1)
    sums : In(ArrayLayout(ArrayLayout(signed(25), pixels), rows + k))
        ``sums[lane][pixel]`` of :class:`~gateware.rtl.array.GemmArray`.
    slot_address : Out(16), slot : In(isa.slot_layout)
        To the slot buffer; columns of the slot arrive ``READ_CYCLES`` later, its lanes
        :data:`LANES_CYCLES`.
    gather_bank : Out(ceil_log2(banks)), gather_address : Out(ArrayLayout(address, k))
        Residual operands, as :class:`~gateware.rtl.buffers.ActBuffer` has them.
    gather_data : In(ArrayLayout(unsigned(4), k))
        :data:`~gateware.rtl.buffers.GATHER_CYCLES` after their address.
    gathering, gathering_copies : Out(1), Out(k / :data:`GATHERED_PER_COPY`)
        There is an operand to read in this cycle.
    writing : Out(1)
        There may be a code to write in this cycle; without it there is none.
    write_enable : Out(k), write_bank : Out(ceil_log2(banks))
    write_address : Out(ArrayLayout(address, k)), write_data : Out(ArrayLayout(unsigned(4), k))
        Codes, as :class:`~gateware.rtl.buffers.ActBuffer` has them.
    wide_enable : Out(1), wide_address : Out(16), wide_data : Out(signed(48))
        Raw outputs.
    completed : Out(1)
        Pulse: every result of an EXECUTE is written.
    fill : In(FillPort)
        With tables: their entries, see :class:`~gateware.rtl.lookup.Lookup`.

    Latency: :meth:`latency_for`.

    Throughput: for each pixel a slot takes one cycle, two for 8-bit operands or results, and
    ``requant_lanes`` for raw outputs, which leave one by one. With one copy of the activations an
    even number of pixels has codes; where one is missing its cycles are idle. Broadcast operands,
    which lie in bank 0, are read for the even pixel and kept for the odd one, so that such a job
    begins with an even one, which may be a cycle later.
    """

    #: Cycles from a job's arrival to its sums.
    sums_after = 2 + LANES_CYCLES

    @classmethod
    def latency_for(cls, config: AccelConfig) -> int:
        """Cycles from a job's arrival to the write of its first result; with one copy of the
        activations one more where a job begins with an odd pixel."""
        return cls.sums_after + 4 + _result_cycles(config)

    def __init__(self, config: AccelConfig) -> None:
        self._config, self._result_cycles = config, _result_cycles(config)
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
                "gathering_copies": Out(-(-config.k // GATHERED_PER_COPY)),
                "writing": Out(1),
                "write_enable": Out(config.k),
                "write_bank": Out(ceil_log2(config.banks)),
                "write_address": Out(address),
                "write_data": Out(word),
                "wide_enable": Out(1),
                "wide_address": Out(isa.ADDRESS_BITS),
                "wide_data": Out(signed(BIAS_BITS)),
                "completed": Out(1),
                **({"fill": In(FillPort(config.bus_bits, TABLE_SIZE))} if config.tables else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step = self._walk_job(m, self._take_job(m))
        slot = self._take_slot(m, step)
        requantised = self._requantise(m, slot, self._pick_sums(m, slot))
        results = self._collect_results(m, slot, requantised)
        self._write_raw(m, results)
        self._write_words(m, results)
        return m

    def _take_job(self, m: Module) -> data.View:
        """One cycle after the job: what its steps have in common is computed."""
        job, execute = Signal(JobInHand(self._config), reset_less=True), self.job.execute
        bank_bits, tables = ceil_log2(self._config.banks), self._config.tables
        m.d.sync += [
            job.given.eq(self.job),
            job.two_phases.eq(execute.out_planes | (execute.residual & execute.residual_planes)),
            job.last_pixel.eq((self.job.count - 1) | (self._pairs & ~execute.wide)),
            job.last_slot.eq(execute.slots - 1),
            job.single_slot.eq(execute.slots == 1),
            job.gather_address.eq(
                execute.residual_address
                + (Mux(execute.broadcast, 0, self.job.pixel) if tables else self.job.pixel)
            ),
            job.out_address.eq(
                execute.out_address + Mux(execute.wide, self.job.pixel << bank_bits, self.job.pixel)
            ),
        ]
        return job

    def _walk_job(self, m: Module, coming: data.View) -> Step:
        """Stage 0: walk over pixels, slots and phases of the job in hand; address of the slot.

        The first step comes two cycles after the job.
        """
        config = self._config
        active, begin = Signal(), Signal()
        job = Signal(coming.shape(), reset_less=True)
        execute = job.given.execute
        pixel = Signal(range(config.pixels), reset_less=True)
        slot, last_slot = Signal(isa.ADDRESS_BITS, reset_less=True), Signal(reset_less=True)
        slots_left = Signal(isa.ADDRESS_BITS, reset_less=True)
        phase = Signal(range(max(2, config.requant_lanes)), reset_less=True)
        last_phase = phase == Mux(execute.wide, config.requant_lanes - 1, job.two_phases)
        last_pixel = pixel == job.last_pixel
        turn = self._take_turns(m, active, job, pixel)

        with m.If(turn.ends):
            m.d.sync += phase.eq(phase + 1)
            with m.If(last_phase):
                m.d.sync += [
                    phase.eq(0),
                    slot.eq(slot + 1),
                    slots_left.eq(slots_left - 1),
                    last_slot.eq(slots_left == 1),
                ]
                with m.If(last_slot):
                    m.d.sync += [
                        slot.eq(execute.slot_address),
                        slots_left.eq(job.last_slot),
                        last_slot.eq(job.single_slot),
                        pixel.eq(pixel + Mux(self._pairs & ~execute.wide, 2, 1)),
                    ]
                    with m.If(last_pixel):
                        m.d.sync += active.eq(0)
        m.d.sync += begin.eq(self.job_valid)
        with m.If(begin):
            m.d.sync += [
                active.eq(1),
                job.eq(coming),
                slot.eq(coming.given.execute.slot_address),
                slots_left.eq(coming.last_slot),
                last_slot.eq(coming.single_slot),
                pixel.eq(self._pairs & ~coming.given.execute.wide),
                phase.eq(0),
            ]
        m.d.comb += self.slot_address.eq(slot)
        return Step(
            done=turn.valid & (last_phase | execute.wide),
            final=turn.ends & last_phase & last_slot & last_pixel & job.given.final,
            gathers=turn.valid & execute.residual & ~self._keeps(execute, turn.pixel),
            job=job,
            pixel=turn.pixel,
            phase=phase,
        )

    @property
    def _pairs(self) -> int:
        """1 if codes of two pixels take turns."""
        return self._config.drain_interleave - 1

    def _keeps(self, execute: data.View, pixel: Value) -> Value:
        """A pixel has the operand that the step before it has read."""
        return execute.broadcast & pixel[0] if self._pairs and self._config.tables else Const(0)

    def _take_turns(self, m: Module, active: Signal, job: data.View, pixel: Signal) -> Turn:
        """Turns of the pixels: the odd pixel of a pair in odd cycles, the even one in even ones."""
        if not self._pairs:
            return Turn(valid=active, ends=active, pixel=pixel)
        # Operands are read 3 cycles after a step, results are written an odd number later.
        assert (4 + self._result_cycles + LANES_CYCLES - 3) % 2 == 1
        odd, second = Signal(reset_less=True), Signal(reset_less=True)
        execute, last = job.given.execute, pixel == job.last_pixel
        waits = execute.broadcast & ~second & odd if self._config.tables else Const(0)
        m.d.sync += [odd.eq(~odd), second.eq(active & ~(second | waits | execute.wide))]
        missing = odd & last & job.given.count[0]
        return Turn(
            valid=active & (execute.wide | ~(missing | waits)),
            ends=active & (execute.wide | second),
            pixel=Cat(Mux(execute.wide, pixel[0], odd), pixel[1:]),
        )

    def _take_slot(self, m: Module, step: Step) -> SlotInHand:
        """Stage 1: columns of the slot are there, and addresses of the operands follow; its lanes
        come ``LANES_CYCLES`` after the step, beside what is returned."""
        job, execute = step.job, step.job.given.execute
        bank = (job.given.bank + step.pixel)[: ceil_log2(self._config.banks)]
        gather_bank = Mux(execute.broadcast, 0, bank) if self._config.tables else bank
        low_plane = step.phase[0] & execute.residual_planes
        address = Signal(isa.ADDRESS_BITS, reset_less=True)
        addresses = Signal(self.gather_address.shape(), reset_less=True)
        gathers = delay(m, step.gathers, READ_CYCLES, name="g_step", reset_less=False)
        m.d.sync += [
            address.eq(job.gather_address + Mux(low_plane, execute.residual_plane_pitch, 0)),
            self.gathering.eq(gathers),
        ]
        steering = copies(m, gathers, len(self.gathering_copies), "gathering")
        m.d.comb += self.gathering_copies.eq(Cat(steering))
        address = delay(m, address, READ_CYCLES - 1, name="s_gather")
        m.d.sync += [
            each.eq(address + column.offset)
            for each, column in zip(addresses, self.slot.columns, strict=True)
        ]
        m.d.comb += [
            self.gather_bank.eq(delay(m, gather_bank, READ_CYCLES + 1, name="s_bank")),
            self.gather_address.eq(addresses),
        ]

        def late(value: Value | data.View, name: str, reset_less: bool = True) -> Value:
            return delay(m, value, LANES_CYCLES, name=f"s_{name}", reset_less=reset_less)

        return SlotInHand(
            done=late(step.done, "done", reset_less=False),
            final=late(step.final, "final", reset_less=False),
            execute=late(execute, "execute"),
            phase=late(step.phase, "phase"),
            next_pixel=delay(m, step.pixel, LANES_CYCLES - 1, name="s_pixel"),
            bank=late(bank, "s_bank"),
            out_address=late(job.out_address + Mux(execute.wide, bank, 0), "out_address"),
        )

    def _pick_sums(self, m: Module, slot: SlotInHand) -> data.View:
        """Stage 1: the sum that each requantiser takes, one cycle after the slot."""
        config, lanes = self._config, self._config.requant_lanes
        rows = (config.rows + config.k) // lanes
        picked = Signal(data.ArrayLayout(signed(SUM_BITS), lanes), reset_less=True)
        parts = -(-config.pixels // PIXELS_PER_COPY)  # of a sum's bits, each with a copy of its own
        pixels = copies(m, slot.next_pixel, lanes * parts, "s_pixel")
        for q in range(lanes):
            choices = data.ArrayLayout(data.ArrayLayout(signed(SUM_BITS), config.pixels), rows)
            mine = Signal(choices, name=f"choices_{q}")
            m.d.comb += [mine[row].eq(self.sums[row * lanes + q]) for row in range(rows)]
            of_row = mine[self.slot.lanes[q].row]
            chosen = [of_row[pixel] for pixel in pixels[q * parts : (q + 1) * parts]]
            m.d.sync += picked[q].eq(
                Cat(
                    value[SUM_BITS * part // parts : SUM_BITS * (part + 1) // parts]
                    for part, value in enumerate(chosen)
                )
                if parts > 1
                else chosen[0]
            )
        return picked

    def _requantise(self, m: Module, slot: SlotInHand, picked: data.View) -> Requantised:
        """Stages 3 and 4, two and three cycles after the slot: residual nibbles come back per
        column and go to the lanes that own the columns, then everything enters the requantisers.
        """
        g_record = delay(m, self.slot, 2, name="g_record")
        keeps = delay(m, self._keeps(slot.execute, slot.bank), 2, name="g_keeps")
        # A module of its own, or the three registers of a bit become a shift register, a LUT each.
        (r_record,) = copies(m, g_record, 1, "r_record")
        r_sums = delay(m, picked, 2, name="r_sums")
        r = delay(m, slot.execute, 3, name="r_execute")
        lanes, count, tables = [], self._config.requant_lanes, self._config.tables
        products: list[Value] = [Const(0)] * count
        if tables:
            product = delay(m, slot.execute.product, 2, name="r_product")
            products = copies(m, product, count, "r_product")
        for q in range(count):
            nibble = Signal(ACT_BITS, name=f"residual_{q}", reset_less=True)
            with m.If(~keeps):
                m.d.sync += nibble.eq(self.gather_data[g_record.lanes[q].column])
            # That of the pixel's phase before, which matters in the second one.
            high_nibble = delay(m, nibble, 1 + self._pairs, name=f"residual_high_{q}")
            m.submodules[f"requant_{q}"] = lane = RequantLane(
                products=tables, wide_wait=self._result_cycles - RequantLane.latency
            )
            residual = Cat(nibble, Mux(r.residual_planes, high_nibble, 0))
            multiplier = r_record.lanes[q].multiplier
            if tables:  # a factor has 8 bits
                multiplier, factor = _multiply(products[q], multiplier, Cat(nibble, high_nibble))
                residual = Mux(products[q], factor, residual)
            fields = {
                "acc": r_sums[q],
                "multiplier": multiplier,
                "bias": r_record.lanes[q].bias,
                "shift": r_record.lanes[q].shift,
                "low": r.low,
                "high": r.high,
                "residual": Mux(r.residual, residual, 0),
                "n": r.residual_n,
            }
            m.d.comb += [getattr(lane.i, name).eq(value) for name, value in fields.items()]
            lanes.append(lane)
        return Requantised(execute=r, lanes=lanes)

    def _collect_results(self, m: Module, slot: SlotInHand, requantised: Requantised) -> Results:
        """Last stages, three cycles and those of a result after the slot, and one before: results,
        and where they go. The low nibbles of 8 bits follow in the pixel's next turn."""
        turn_cycles, lanes = self._config.drain_interleave, requantised.lanes
        early = 2 + self._result_cycles
        wide = delay(m, requantised.execute.wide, early - 3, name="y_wide")
        two_planes = delay(m, requantised.execute.out_planes, early - 3, name="y_out_planes")
        done = delay(m, slot.done, early, name="y_done", reset_less=False)
        second = delay(m, done & two_planes, turn_cycles, name="second", reset_less=False)
        # The last nibbles, the low ones of 8 bits, are in memory three cycles and a turn later.
        m.d.comb += self.completed.eq(
            delay(m, slot.final, early + 4 + turn_cycles, name="y_final", reset_less=False)
        )
        results = Signal(data.ArrayLayout(unsigned(8), len(lanes)))
        wides = Signal(data.ArrayLayout(signed(BIAS_BITS), len(lanes)))
        if self._config.tables:
            m.submodules.lookup = lookup = Lookup(len(lanes), self._config.bus_bits)
            connect(m, flipped(self.fill), lookup.fill)
            used = delay(m, requantised.execute.table, RequantLane.latency - 1, name="y_table")
            m.d.comb += [lookup.used.eq(used), results.eq(lookup.y)]
            m.d.comb += [lookup.codes[q].eq(lane.y) for q, lane in enumerate(lanes)]
        else:
            m.d.comb += [results[q].eq(lane.y) for q, lane in enumerate(lanes)]
        m.d.comb += [wides[q].eq(lane.wide) for q, lane in enumerate(lanes)]
        pitch = delay(
            m, requantised.execute.out_plane_pitch, early - 3 + turn_cycles, name="second_pitch"
        )
        return Results(
            early_done=done,
            early_columns=delay(
                m, self.slot.columns, LANES_CYCLES - READ_CYCLES + early, name="y_columns"
            ),
            early_phase=delay(m, slot.phase, early, name="y_phase"),
            early_raw=wide,
            early_address=delay(m, slot.out_address, early, name="y_address"),
            early_second=second,
            early_second_pitch=pitch,
            bank=delay(m, slot.bank, early + 1, name="y_bank"),
            two_planes=delay(m, two_planes, 1, name="y_two_planes"),
            codes=results,
            raw_outputs=wides,
        )

    def _write_raw(self, m: Module, y: Results) -> None:
        """Raw outputs, one lane a cycle, one cycle after the result."""
        phase = delay(m, y.early_phase, 1, name="wide_phase")
        column = y.early_columns[y.early_phase]
        enable, address = Signal(), Signal(isa.ADDRESS_BITS, reset_less=True)
        offset = Signal(isa.ADDRESS_BITS, reset_less=True)
        wide_address = Signal(isa.ADDRESS_BITS, reset_less=True)
        wide_data = Signal(signed(BIAS_BITS), reset_less=True)
        m.d.sync += [
            enable.eq(y.early_done & y.early_raw & column.enable),
            offset.eq(column.offset),
            address.eq(y.early_address),
            self.wide_enable.eq(enable),
            wide_address.eq(address + offset),
            wide_data.eq(y.raw_outputs[phase]),
        ]
        m.d.comb += [self.wide_address.eq(wide_address), self.wide_data.eq(wide_data)]

    def _write_words(self, m: Module, y: Results) -> None:
        """Nibbles to their columns one cycle after the result; low ones of 8 bits in the pixel's
        next turn, at the address that it had, and a pitch."""
        k, turn_cycles = self._config.k, self._config.drain_interleave
        word = Signal(self.write_data.shape(), reset_less=True)
        addresses = Signal(self.write_address.shape(), reset_less=True)
        bank = Signal(len(self.write_bank), reset_less=True)
        enables = Signal(k, reset_less=True)
        columns = delay(m, y.early_columns, 1, name="columns")
        # What is added to the offset of a column, or to its last address.
        added = Signal(isa.ADDRESS_BITS, reset_less=True)
        m.d.sync += [
            added.eq(Mux(y.early_second, y.early_second_pitch, y.early_address)),
            *(
                enable.eq(column.enable & y.early_done & ~y.early_raw)
                for enable, column in zip(enables, y.early_columns, strict=True)
            ),
        ]
        seconds = copies(m, y.early_second, -(-k // COLUMNS_PER_COPY), "second")
        some = delay(m, y.early_done & ~y.early_raw, 1, name="some")
        m.d.sync += [
            self.writing.eq(seconds[0] | some),
            bank.eq(Mux(seconds[0], delay(m, bank, turn_cycles - 1, name="second_bank"), y.bank)),
        ]
        second_enables = delay(m, enables, turn_cycles, name="second_enables")
        second_addresses = delay(m, addresses, turn_cycles - 1, name="second_addresses")
        for j in range(k):
            second = seconds[j // COLUMNS_PER_COPY]
            result = Signal(8, name=f"result_{j}")
            m.d.comb += result.eq(y.codes[columns[j].lane])
            low = delay(m, result[:ACT_BITS], turn_cycles, name=f"second_word_{j}")
            first_word = Mux(y.two_planes, result[ACT_BITS:], result[:ACT_BITS])
            m.d.sync += [
                self.write_enable[j].eq(Mux(second, second_enables[j], enables[j])),
                addresses[j].eq(Mux(second, second_addresses[j], columns[j].offset) + added),
                word[j].eq(Mux(second, low, first_word)),
            ]
        m.d.comb += [
            self.write_data.eq(word),
            self.write_address.eq(addresses),
            self.write_bank.eq(bank),
        ]
