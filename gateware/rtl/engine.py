# SPDX-License-Identifier: Apache-2.0
"""Tile engine, which carries out EXECUTE descriptors: loop, window, array, drain."""

from amaranth import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.pe.base import delay
from gateware.pe.broadcast import copies
from gateware.rtl.array import GemmArray
from gateware.rtl.buffers import FillPort
from gateware.rtl.drain import GATHERED_PER_COPY, Drain
from gateware.rtl.pool import PoolMode
from gateware.rtl.sequence import TileLoop
from gateware.rtl.window import Window
from ir.numerics import ACT_BITS, BIAS_BITS, TABLE_SIZE

BITS_PER_COPY = 128  #: bits of the descriptor in hand that one copy of an enable has

#: Ports to the buffers that are the window's, and those that are the drain's.
_WINDOW_PORTS = ("read_address", "weight_address")
_DRAIN_PORTS = (
    "gather_bank",
    "gather_single",
    "gather_address",
    "gathering",
    "gathering_copies",
    "completed",
    "writing",
    "write_enable",
    "write_pixels",
    "write_bank",
    "write_address",
    "write_data",
    "slot_address",
    "wide_enable",
    "wide_address",
    "wide_data",
)


class TileEngine(Component):
    """Engine of row tiles, each over all output pixels, one after the other.

    The loop begins the next while the sums of the one before are on their way or drained.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    execute : In(stream of isa.EXECUTE)
    completed : Out(1)
        Pulse for each: every result is written.
    issued, stalled : Out(1)
        A word enters the array; the array waits for the drain.
    read_address, read_data, gather_bank, gather_single, gather_address, gather_data, gathering,
    gathering_copies, writing, write_enable, write_pixels, write_bank, write_address, write_data
        To :class:`~gateware.rtl.buffers.ActBuffer`.
    weight_address : Out(16), weights : In(weight_bits)
    slot_address : Out(16), slot : In(isa.slot_layout)
        To the :class:`~gateware.rtl.buffers.BeatBuffer` of weights and of slots.
    wide_enable, wide_address, wide_data
        To :class:`~gateware.rtl.buffers.RawBuffer`.
    table : In(FillPort)
        Of an array with tables: their entries.

    Throughput: one word per cycle, unless ``stalled``.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        word = data.ArrayLayout(unsigned(ACT_BITS), config.k)
        words = data.ArrayLayout(word, config.drain_pixels)
        address = unsigned(ceil_log2(config.act_depth))
        bank = ceil_log2(config.banks)
        super().__init__(
            {
                "execute": In(stream.Signature(isa.execute_layout(config))),
                "completed": Out(1),
                "issued": Out(1),
                "stalled": Out(1),
                "read_address": Out(data.ArrayLayout(address, config.banks)),
                "read_data": In(data.ArrayLayout(word, config.banks)),
                "gather_bank": Out(bank),
                "gather_single": Out(1),
                "gather_address": Out(data.ArrayLayout(address, config.k)),
                "gather_data": In(words),
                "gathering": Out(1),
                "gathering_copies": Out(-(-config.k // GATHERED_PER_COPY)),
                "writing": Out(1),
                "write_enable": Out(config.k),
                "write_pixels": Out(config.drain_pixels),
                "write_bank": Out(bank),
                "write_address": Out(data.ArrayLayout(address, config.k)),
                "write_data": Out(words),
                "weight_address": Out(isa.ADDRESS_BITS),
                "weights": In(config.weight_bits),
                "slot_address": Out(isa.ADDRESS_BITS),
                "slot": In(isa.slot_layout(config)),
                "wide_enable": Out(config.drain_pixels),
                "wide_address": Out(isa.ADDRESS_BITS),
                "wide_data": Out(data.ArrayLayout(signed(BIAS_BITS), config.drain_pixels)),
                **({"table": In(FillPort(config.bus_bits, TABLE_SIZE))} if config.tables else {}),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.loop = loop = TileLoop(config)
        m.submodules.window = window = Window(config)
        m.submodules.array = array = GemmArray(config)
        m.submodules.drain = drain = Drain(config)
        self._connect_buffers(m, window, drain)
        if config.tables:
            connect(m, flipped(self.table), drain.fill)
        current = self._take_descriptor(m, loop)
        self._connect_array(m, current, loop, window, array)
        sums_after = loop.latency + window.latency + array.latency
        self._connect_drain(m, loop, array, drain, sums_after)
        return m

    def _take_descriptor(self, m: Module, loop: TileLoop) -> data.View:
        """A new descriptor is taken in one cycle, as soon as the one before has no words left, and
        the loop started in the next."""
        current = Signal(isa.execute_layout(self._config), reset_less=True)
        ready, next_ready, begun = Signal(init=1), Signal(), Signal()
        taken = self.execute.valid & ready
        m.d.comb += [
            next_ready.eq(loop.ending | (ready & ~taken)),
            self.execute.ready.eq(ready),
            loop.execute.eq(current),
            loop.start.eq(begun),
        ]
        m.d.sync += [ready.eq(next_ready), begun.eq(taken)]
        # After a reset these follow a cycle later, when nothing is taken yet.
        bits = Value.cast(current)
        parts = range(0, len(bits), BITS_PER_COPY)
        for first, enable in zip(parts, copies(m, next_ready, len(parts), "ready"), strict=True):
            part = slice(first, first + BITS_PER_COPY)
            with m.If(enable):
                m.d.sync += bits[part].eq(Value.cast(self.execute.payload)[part])
        return current

    def _connect_buffers(self, m: Module, window: Window, drain: Drain) -> None:
        for unit, names in ((window, _WINDOW_PORTS), (drain, _DRAIN_PORTS)):
            for name in names:
                m.d.comb += getattr(self, name).eq(getattr(unit, name))

    def _connect_array(
        self, m: Module, current: data.View, loop: TileLoop, window: Window, array: GemmArray
    ) -> None:
        """Requests of the loop through the window into the array, ``window.latency`` later."""
        weights = delay(m, self.weights, 1, name="weights")
        pool_sum = delay(m, current.pool_sum, loop.latency + window.latency, name="pool_sum")
        m.d.comb += [
            window.request.eq(loop.request),
            window.stride_x.eq(delay(m, current.stride_x, loop.latency - 1, name="stride")),
            window.width.eq(delay(m, current.width, loop.latency + 1, name="width")),
            window.read_data.eq(self.read_data),
            array.act.eq(window.act),
            array.control.eq(window.control),
            array.weights.eq(weights),
            array.pool_mode.eq(Mux(pool_sum, PoolMode.SUM, PoolMode.MAX)),
        ]

    def _connect_drain(
        self, m: Module, loop: TileLoop, array: GemmArray, drain: Drain, sums_after: int
    ) -> None:
        """Sums to the drain; they come ``sums_after`` cycles after the last word is issued."""
        m.d.comb += [
            drain.sums.eq(array.sums),
            drain.gather_data.eq(self.gather_data),
            drain.slot.eq(self.slot),
        ]
        m.d.sync += [self.issued.eq(loop.issued), self.stalled.eq(loop.stalled)]
        # The job comes with the word, and has to be there some before the sums.
        wait = sums_after - Drain.sums_after
        m.d.comb += [
            drain.job.eq(delay(m, loop.job, wait, name="job")),
            drain.job_valid.eq(delay(m, loop.job_valid, wait, name="job_valid", reset_less=False)),
        ]
