# SPDX-License-Identifier: Apache-2.0
"""Drain of finished sums through the requantisers into the activation buffer.

The compiler has scheduled each tile into *slots*. In one slot every requantiser takes one engine
lane and no two results fall into the same nibble column, so a slot is written in one cycle and
tensors keep their channel order in memory. Eight-bit operands take two cycles, the hi nibbles
first.

Pixels are taken ``drain_pixels`` at a time, in turns (:mod:`gateware.rtl.drain_walk`). They lie at
one address of as many banks, and have one slot with its constants; each has requantisers of its
own.

With one copy of the activations, codes of two turns alternate: a slot has a cycle for the even one
and a cycle for the odd one, 8-bit operands two of each. The cycle's parity is the low bit of the
turn, and a bit of its banks' numbers. An odd number of cycles lies between the read of an operand
and the write of a result, so that in a cycle the two are in different banks.

The pipeline, with the prefix of each stage's signals::

    walk     step of turn, slot and phase -> address of the slot
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
from gateware.rtl.drain_stages import Requantised, Results, SlotInHand
from gateware.rtl.drain_walk import DrainWalk
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
    gather_bank : Out(ceil_log2(banks)), gather_single : Out(1)
    gather_address : Out(ArrayLayout(address, k))
        Residual operands, as :class:`~gateware.rtl.buffers.ActBuffer` has them.
    gather_data : In(ArrayLayout(ArrayLayout(unsigned(4), k), drain_pixels))
        :data:`~gateware.rtl.buffers.GATHER_CYCLES` after their address.
    gathering, gathering_copies : Out(1), Out(k / :data:`GATHERED_PER_COPY`)
        There is an operand to read in this cycle.
    writing : Out(1)
        There may be a code to write in this cycle; without it there is none.
    write_enable : Out(k), write_pixels : Out(drain_pixels), write_bank : Out(ceil_log2(banks))
    write_address : Out(ArrayLayout(address, k))
    write_data : Out(ArrayLayout(ArrayLayout(unsigned(4), k), drain_pixels))
        Codes, as :class:`~gateware.rtl.buffers.ActBuffer` has them.
    wide_enable : Out(drain_pixels), wide_address : Out(16)
    wide_data : Out(ArrayLayout(signed(48), drain_pixels))
        Raw outputs, as :class:`~gateware.rtl.buffers.RawBuffer` has them.
    completed : Out(1)
        Pulse: every result of an EXECUTE is written.
    fill : In(FillPort)
        With tables: their entries, see :class:`~gateware.rtl.lookup.Lookup`.

    Latency: :meth:`latency_for`.

    Throughput: for each turn a slot takes one cycle, two for 8-bit operands or results, and
    ``requant_lanes`` for raw outputs, of which each pixel has one a cycle. With one copy of the
    activations an even number of turns has codes; where one is missing its cycles are idle.
    Broadcast operands, which lie in bank 0, are read for the even turn and kept for the odd one, so
    that such a job begins with an even one, which may be a cycle later.
    """

    #: Cycles from a job's arrival to its sums.
    sums_after = 2 + LANES_CYCLES

    @classmethod
    def latency_for(cls, config: AccelConfig) -> int:
        """Cycles from a job's arrival to the write of its first result; with one copy of the
        activations one more where a job begins with an odd turn."""
        return cls.sums_after + 4 + _result_cycles(config)

    def __init__(self, config: AccelConfig) -> None:
        self._config, self._result_cycles = config, _result_cycles(config)
        pixels = config.drain_pixels
        words = data.ArrayLayout(data.ArrayLayout(unsigned(ACT_BITS), config.k), pixels)
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
                "gather_single": Out(1),
                "gather_address": Out(address),
                "gather_data": In(words),
                "gathering": Out(1),
                "gathering_copies": Out(-(-config.k // GATHERED_PER_COPY)),
                "writing": Out(1),
                "write_enable": Out(config.k),
                "write_pixels": Out(pixels),
                "write_bank": Out(ceil_log2(config.banks)),
                "write_address": Out(address),
                "write_data": Out(words),
                "wide_enable": Out(pixels),
                "wide_address": Out(isa.ADDRESS_BITS),
                "wide_data": Out(data.ArrayLayout(signed(BIAS_BITS), pixels)),
                "completed": Out(1),
                **({"fill": In(FillPort(config.bus_bits, TABLE_SIZE))} if config.tables else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.walk = walk = DrainWalk(self._config)
        m.d.comb += [
            walk.job.eq(self.job),
            walk.job_valid.eq(self.job_valid),
            self.slot_address.eq(walk.slot_address),
        ]
        # Operands are read 3 cycles after a step, results are written an odd number later.
        assert (4 + self._result_cycles + LANES_CYCLES - 3) % 2 == 1
        slot = self._take_slot(m, walk.step)
        requantised = self._requantise(m, slot, self._pick_sums(m, slot))
        results = self._collect_results(m, slot, requantised)
        self._write_raw(m, results)
        self._write_words(m, results)
        return m

    def _kept(self, execute: data.View, bank: Value) -> Value:
        """A turn, of which ``bank`` has the first pixel, keeps the operand of the one before."""
        if self._config.drain_interleave == 1 or not self._config.tables:
            return Const(0)
        return execute.broadcast & bank[self._pixel_bits]

    @property
    def _pixel_bits(self) -> int:
        """Bits of a pixel's number that tell the pixels of a turn apart."""
        return ceil_log2(self._config.drain_pixels)

    def _take_slot(self, m: Module, step: data.View) -> SlotInHand:
        """Stage 1: columns of the slot are there, and addresses of the operands follow; its lanes
        come ``LANES_CYCLES`` after the step, beside what is returned."""
        job, execute = step.job, step.job.given.execute
        first = step.turn << self._pixel_bits
        bank = (job.given.bank + first)[: ceil_log2(self._config.banks)]
        single = execute.broadcast if self._config.tables else Const(0)
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
            self.gather_bank.eq(delay(m, Mux(single, 0, bank), READ_CYCLES + 1, name="s_bank")),
            self.gather_single.eq(delay(m, single, READ_CYCLES + 1, name="s_single")),
            self.gather_address.eq(addresses),
        ]

        def late(value: Value | data.View, name: str, reset_less: bool = True) -> Value:
            return delay(m, value, LANES_CYCLES, name=f"s_{name}", reset_less=reset_less)

        return SlotInHand(
            pixels=late(step.pixels, "pixels", reset_less=False),
            final=late(step.final, "final", reset_less=False),
            execute=late(execute, "execute"),
            phase=late(step.phase, "phase"),
            next_turn=delay(m, step.turn, LANES_CYCLES - 1, name="s_turn"),
            bank=late(bank, "s_bank"),
            out_address=late(job.out_address + Mux(execute.wide, bank, 0), "out_address"),
        )

    def _pick_sums(self, m: Module, slot: SlotInHand) -> data.View:
        """Stage 1: the sums that the requantisers of each row take, one of each pixel of the turn,
        one cycle after the slot."""
        config, lanes = self._config, self._config.requant_lanes
        rows = (config.rows + config.k) // lanes
        of_turn = data.ArrayLayout(signed(SUM_BITS), config.drain_pixels)
        of_row = data.ArrayLayout(of_turn, config.pixels // config.drain_pixels)
        picked = Signal(data.ArrayLayout(of_turn, lanes), reset_less=True)
        parts = -(-config.pixels // PIXELS_PER_COPY)  # of the bits, each with a copy of its own
        turns = copies(m, slot.next_turn, lanes * parts, "s_turn")
        for q in range(lanes):
            mine = Signal(data.ArrayLayout(of_row, rows), name=f"choices_{q}")
            m.d.comb += [
                Value.cast(mine[row]).eq(Value.cast(self.sums[row * lanes + q]))
                for row in range(rows)
            ]
            chosen_row = mine[self.slot.lanes[q].row]
            bits = of_turn.size
            m.d.sync += Value.cast(picked[q]).eq(
                Cat(
                    Value.cast(chosen_row[turn])[bits * part // parts : bits * (part + 1) // parts]
                    for part, turn in enumerate(turns[q * parts : (q + 1) * parts])
                )
            )
        return picked

    def _requantise(self, m: Module, slot: SlotInHand, picked: data.View) -> Requantised:
        """Stages 3 and 4, two and three cycles after the slot: residual nibbles come back per
        column and go to the lanes that own the columns, then everything enters the requantisers.
        """
        config, count, tables = self._config, self._config.requant_lanes, self._config.tables
        g_record = delay(m, self.slot, 2, name="g_record")
        keeps = delay(m, self._kept(slot.execute, slot.bank), 2, name="g_keeps")
        # A module of its own, or the three registers of a bit become a shift register, a LUT each.
        (r_record,) = copies(m, g_record, 1, "r_record")
        r_sums = delay(m, picked, 2, name="r_sums")
        r = delay(m, slot.execute, 3, name="r_execute")
        lanes: list[list[RequantLane]] = []
        for d, given in enumerate(
            self._copy_fields(m, delay(m, slot.execute, 2, name="g_execute"))
        ):
            products: list[Value] = [Const(0)] * count
            if tables:
                product = delay(m, slot.execute.product, 2, name="r_product")
                products = copies(m, product, count, f"r_product_{d}")
            lanes.append([])
            for q in range(count):
                number = d * count + q
                nibble = Signal(ACT_BITS, name=f"residual_{number}", reset_less=True)
                with m.If(~keeps):
                    m.d.sync += nibble.eq(self.gather_data[d][g_record.lanes[q].column])
                # That of the turn's phase before, which matters in the second one.
                high_nibble = delay(
                    m, nibble, config.drain_interleave, name=f"residual_high_{number}"
                )
                m.submodules[f"requant_{number}"] = lane = RequantLane(
                    products=tables, wide_wait=self._result_cycles - RequantLane.latency
                )
                residual = Cat(nibble, Mux(given.residual_planes, high_nibble, 0))
                multiplier = r_record.lanes[q].multiplier
                if tables:  # a factor has 8 bits
                    multiplier, factor = _multiply(
                        products[q], multiplier, Cat(nibble, high_nibble)
                    )
                    residual = Mux(products[q], factor, residual)
                fields = {
                    "acc": r_sums[q][d],
                    "multiplier": multiplier,
                    "bias": r_record.lanes[q].bias,
                    "shift": r_record.lanes[q].shift,
                    "low": given.low,
                    "high": given.high,
                    "residual": Mux(given.residual, residual, 0),
                    "n": given.residual_n,
                }
                m.d.comb += [getattr(lane.i, name).eq(value) for name, value in fields.items()]
                lanes[d].append(lane)
        return Requantised(execute=r, lanes=lanes)

    def _copy_fields(self, m: Module, execute: data.View) -> list[data.View]:
        """For each pixel a copy of what its requantisers take of a descriptor, a cycle later."""
        names = ("low", "high", "residual", "residual_planes", "residual_n")
        taken = data.StructLayout({name: execute[name].shape() for name in names})
        fields = Signal(taken)
        m.d.comb += [fields[name].eq(execute[name]) for name in names]
        return copies(m, fields, self._config.drain_pixels, "r_fields")

    def _collect_results(self, m: Module, slot: SlotInHand, requantised: Requantised) -> Results:
        """Last stages, three cycles and those of a result after the slot, and one before: results,
        and where they go. The low nibbles of 8 bits follow in the pixel's next turn."""
        turn_cycles, pixels = self._config.drain_interleave, self._config.drain_pixels
        lanes = requantised.lanes
        early = 2 + self._result_cycles
        wide = delay(m, requantised.execute.wide, early - 3, name="y_wide")
        two_planes = delay(m, requantised.execute.out_planes, early - 3, name="y_out_planes")
        done = delay(m, slot.pixels, early, name="y_pixels", reset_less=False)
        second = delay(m, Mux(two_planes, done, 0), turn_cycles, name="second", reset_less=False)
        # The last nibbles, the low ones of 8 bits, are in memory three cycles and a turn later.
        m.d.comb += self.completed.eq(
            delay(m, slot.final, early + 4 + turn_cycles, name="y_final", reset_less=False)
        )
        count = self._config.requant_lanes
        of_pixel = data.ArrayLayout(unsigned(8), count)
        results = Signal(data.ArrayLayout(of_pixel, pixels))
        wides = Signal(data.ArrayLayout(data.ArrayLayout(signed(BIAS_BITS), count), pixels))
        every = [lane for of in lanes for lane in of]
        codes = Value.cast(results)
        if self._config.tables:
            m.submodules.lookup = lookup = Lookup(len(every), self._config.bus_bits)
            connect(m, flipped(self.fill), lookup.fill)
            used = delay(m, requantised.execute.table, RequantLane.latency - 1, name="y_table")
            m.d.comb += [lookup.used.eq(used), codes.eq(Value.cast(lookup.y))]
            m.d.comb += [lookup.codes[i].eq(lane.y) for i, lane in enumerate(every)]
        else:
            m.d.comb += codes.eq(Cat(lane.y for lane in every))
        m.d.comb += Value.cast(wides).eq(Cat(lane.wide for lane in every))
        pitch = delay(
            m, requantised.execute.out_plane_pitch, early - 3 + turn_cycles, name="second_pitch"
        )
        return Results(
            early_pixels=done,
            early_columns=delay(
                m, self.slot.columns, LANES_CYCLES - READ_CYCLES + early, name="y_columns"
            ),
            early_phase=delay(m, slot.phase, early, name="y_phase"),
            early_raw=wide,
            early_address=delay(m, slot.out_address, early, name="y_address"),
            early_second=second,
            early_second_pitch=pitch,
            bank=delay(m, slot.bank, early + 1, name="y_bank"),
            early_two_planes=two_planes,
            codes=results,
            raw_outputs=wides,
        )

    def _write_raw(self, m: Module, y: Results) -> None:
        """Raw outputs, one lane of each pixel a cycle, one cycle after the result."""
        pixels = self._config.drain_pixels
        phases = copies(m, y.early_phase, pixels, "wide_phase")
        column = y.early_columns[y.early_phase]
        # Without a reset, which would go through the choice of the column: pixels have one.
        enable = Signal(pixels, reset_less=True)
        address = Signal(isa.ADDRESS_BITS, reset_less=True)
        offset = Signal(isa.ADDRESS_BITS, reset_less=True)
        wide_address = Signal(isa.ADDRESS_BITS, reset_less=True)
        wide_data = Signal(self.wide_data.shape(), reset_less=True)
        m.d.sync += [
            enable.eq(Mux(y.early_raw & column.enable, y.early_pixels, 0)),
            offset.eq(column.offset),
            address.eq(y.early_address),
            self.wide_enable.eq(enable),
            wide_address.eq(address + offset),
            *(wide_data[d].eq(y.raw_outputs[d][phase]) for d, phase in enumerate(phases)),
        ]
        m.d.comb += [self.wide_address.eq(wide_address), self.wide_data.eq(wide_data)]

    def _write_words(self, m: Module, y: Results) -> None:
        """Nibbles to their columns one cycle after the result; low ones of 8 bits in the next turn
        of their pixels, at the address that they had, and a pitch."""
        k, turn_cycles = self._config.k, self._config.drain_interleave
        addresses = Signal(self.write_address.shape(), reset_less=True)
        bank = Signal(len(self.write_bank), reset_less=True)
        enables = Signal(k, reset_less=True)
        offsets = delay(
            m, Cat(column.offset for column in y.early_columns), 1, name="offsets"
        ).word_select
        # What is added to the offset of a column, or to its last address.
        added = Signal(isa.ADDRESS_BITS, reset_less=True)
        codes = y.early_pixels[0] & ~y.early_raw  # a first pixel is always there
        m.d.sync += [
            added.eq(Mux(y.early_second.any(), y.early_second_pitch, y.early_address)),
            *(
                enable.eq(column.enable & codes)
                for enable, column in zip(enables, y.early_columns, strict=True)
            ),
        ]
        seconds = copies(m, y.early_second[0], -(-k // COLUMNS_PER_COPY), "second")
        pixels = delay(m, y.early_pixels, 1, name="pixels")
        second_pixels = delay(m, y.early_second, 1, name="second_pixels")
        m.d.sync += [
            self.writing.eq(seconds[0] | delay(m, codes, 1, name="some")),
            self.write_pixels.eq(Mux(seconds[0], second_pixels, pixels)),
            bank.eq(Mux(seconds[0], delay(m, bank, turn_cycles - 1, name="second_bank"), y.bank)),
        ]
        second_enables = delay(m, enables, turn_cycles, name="second_enables")
        second_addresses = delay(m, addresses, turn_cycles - 1, name="second_addresses")
        for j in range(k):
            second, offset = seconds[j // COLUMNS_PER_COPY], offsets(j, isa.ADDRESS_BITS)
            m.d.sync += [
                self.write_enable[j].eq(Mux(second, second_enables[j], enables[j])),
                addresses[j].eq(Mux(second, second_addresses[j], offset) + added),
            ]
        self._write_nibbles(m, y, seconds)
        m.d.comb += [self.write_address.eq(addresses), self.write_bank.eq(bank)]

    def _write_nibbles(self, m: Module, y: Results, seconds: list[Value]) -> None:
        """Nibbles of each pixel and column, of the lane that the column names."""
        steering = data.StructLayout(
            {
                "lanes": data.ArrayLayout(y.early_columns[0].lane.shape(), self._config.k),
                "two_planes": 1,
            }
        )
        early = Signal(steering)
        m.d.comb += early.two_planes.eq(y.early_two_planes)
        m.d.comb += [early.lanes[j].eq(column.lane) for j, column in enumerate(y.early_columns)]
        words = Signal(self.write_data.shape(), reset_less=True)
        for d, steer in enumerate(copies(m, early, self._config.drain_pixels, "steering")):
            for j in range(self._config.k):
                name, second = f"{d}_{j}", seconds[j // COLUMNS_PER_COPY]
                result = Signal(8, name=f"result_{name}")
                m.d.comb += result.eq(y.codes[d][steer.lanes[j]])
                low = delay(m, result[:ACT_BITS], self._config.drain_interleave, name=f"low_{name}")
                first = Mux(steer.two_planes, result[ACT_BITS:], result[:ACT_BITS])
                m.d.sync += words[d][j].eq(Mux(second, low, first))
        m.d.comb += self.write_data.eq(words)
