# SPDX-License-Identifier: Apache-2.0
"""Spacing of pixel groups: how long the last word of one waits for the drain of the one before."""

from amaranth import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig


class DrainSpacing(Component):
    """Counter of the cycles until the sums of the pixel group before have been read.

    A drain takes one of three times in an EXECUTE: that of a full pixel group, of the last one in
    a row, and of the last one of all. They are products, computed once, in ``setup`` cycles.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    execute : In(isa.EXECUTE)
        Stable for ``setup`` cycles before the first ``load``, and as long as there are any.
    load : In(1)
        A pixel group is complete, its drain begins; only while not ``waiting``.
    partial, final : In(1)
        With ``load``: it is the last one of its row, and of the EXECUTE.
    waiting, waiting_next : Out(1)
        The next pixel group may not be complete in this cycle, and in the next one.

    Attributes
    ----------
    setup : int
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        self.setup = self.setup_for(config)
        super().__init__(
            {
                "execute": In(isa.execute_layout(config)),
                "load": In(1),
                "partial": In(1),
                "final": In(1),
                "waiting": Out(1),
                "waiting_next": Out(1),
            }
        )

    @staticmethod
    def setup_for(config: AccelConfig) -> int:
        """Setup for a configuration, in cycles: a step's time, a tree of adders, the last drain."""
        return 1 + ceil_log2(1 + ceil_log2(config.pixels // config.drain_pixels)) + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        each, fewer = self._turn(m)
        aligned = self._aligned()
        full = (each << len(fewer)) | aligned
        partial = self._product(m, each, fewer) | aligned
        # The last low nibbles of 8 bits need cycles in which the next EXECUTE may have results.
        late = self.execute.out_planes
        final = Signal(len(partial) + 1, reset_less=True)
        partial_waits, final_waits = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            final.eq(partial + (late << self._config.drain_interleave - 1)),
            partial_waits.eq((each != 1) | (fewer != 0)),
            final_waits.eq((each != 1) | (fewer != 0) | late),
        ]
        left = Signal(len(final), reset_less=True)
        with m.If(self.load):
            m.d.sync += left.eq(Mux(self.final, final, Mux(self.partial, partial, full)))
            m.d.comb += self.waiting_next.eq(
                Mux(self.final, final_waits, ~self.partial | partial_waits)
            )
        with m.Elif(self.waiting):
            m.d.sync += left.eq(left - 1)
            m.d.comb += self.waiting_next.eq(left != 2)
        m.d.sync += self.waiting.eq(self.waiting_next)
        return m

    def _turn(self, m: Module) -> tuple[Signal, Signal]:
        """Cycles that a turn of the drain takes; turns of a row's last group, less one. A pair
        with one turn takes the time of two."""
        config, d = self._config, self.execute
        two_phases = d.out_planes | (d.residual & d.residual_planes)
        pairs = ~d.wide if config.drain_interleave == 2 else 0
        width = isa.ADDRESS_BITS + max(1, ceil_log2(config.requant_lanes))
        each = Signal(width, reset_less=True)
        fewer = Signal(ceil_log2(config.pixels // config.drain_pixels), reset_less=True)
        m.d.sync += [
            each.eq(
                Mux(
                    d.wide,
                    d.slots << ceil_log2(config.requant_lanes),
                    Mux(two_phases, d.slots << 1, d.slots),
                )
            ),
            fewer.eq(((d.out_width - 1) >> ceil_log2(config.drain_pixels)) | pairs),
        ]
        return each, fewer

    def _aligned(self) -> Value:
        """A cycle more, in which a drain waits for the turn of its first pixels; what it is added
        to is even."""
        if self._config.drain_interleave == 1 or not self._config.tables:
            return Const(0)
        return self.execute.broadcast & ~self.execute.wide

    def _product(self, m: Module, each: Signal, fewer: Signal) -> Signal:
        """``each * (fewer + 1)`` by a tree of adders."""
        width = len(each) + len(fewer)
        terms = [each, *(Mux(bit, each << i, 0) for i, bit in enumerate(fewer))]
        while len(terms) > 1:
            sums = []
            for first in range(0, len(terms), 2):
                total = Signal(width, name=f"product_{len(terms)}_{first}", reset_less=True)
                m.d.sync += total.eq(sum(terms[first + 1 : first + 2], terms[first]))
                sums.append(total)
            terms = sums
        return terms[0]
