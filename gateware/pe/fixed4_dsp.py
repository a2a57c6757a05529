# SPDX-License-Identifier: Apache-2.0
"""Row engine for 4-bit fixed-point weights on DSP48E1: two multiplications each, and no LUT."""

from amaranth import *
from amaranth.lib import data

from gateware.pe.base import Resources, RowEngine, control_resources, delay, require_pairs
from gateware.pe.broadcast import copies
from gateware.pe.cascade import (
    LANE_SHIFT,
    LANES,
    cascade,
    lane_shift,
    late_bits,
    late_weights,
    two_pixels,
)
from gateware.pe.dsp48 import P_BITS, DspAccumulator, DspMac
from ir.numerics import ACT_BITS, Scheme


class Fixed4DspEngine(RowEngine):
    """Row of 4-bit weights without a LUT per multiplication: two in each DSP48E1.

    As :class:`~gateware.pe.fixed8.Fixed8Engine`, but small enough for the sum over all words to
    stay in the 20-bit lanes: one more slice behind the cascade of ``k`` accumulates. A sum must
    fit 20 bits signed; that is 4,993 products at worst, many more for most weights, but only 293 of
    8-bit activations.

    A borrow between the lanes never happens, because the lower one starts at 2^19 and is therefore
    not negative. Two planes add 16 * 2^19 = 8 * 2^20 to that, which the upper lane takes out again.

    Parameters, members and errors as in :class:`RowEngine`; ``pixels`` even.

    Latency: ``k + 3``: operands, product, ``k`` sums, accumulator; sums wait in a register.
    """

    scheme = Scheme.FIXED4
    acc_shape = signed(LANE_SHIFT)

    def __init__(self, *, k: int, pixels: int) -> None:
        super().__init__(k=k, pixels=pixels)
        require_pairs(pixels)

    @classmethod
    def latency_for(cls, k: int) -> int:
        return DspMac.latency_for(preadd=False) + k - 1 + DspAccumulator.latency + 1

    @classmethod
    def skew(cls, channel: int) -> int:
        return channel

    def elaborate(self, platform: object) -> Module:
        m = Module()
        weights = late_weights(m, self.weights, self.scheme.bits)
        # The constants join the first product of a word, the modes come a cycle before the sum.
        pairs = self.pixels // 2
        begun = delay(m, self.control, DspMac.latency_for(preadd=False) - 2, name="begun")
        begin = copies(m, begun, pairs, "begin")
        mode = delay(m, self.control, self.latency - 3, name="mode")
        control = copies(m, mode, pairs, "control")
        for i in range(pairs):
            p = 2 * i
            acts = two_pixels(self.act, p, lane_shift(platform))
            last = cascade(
                m,
                platform,
                list(zip(acts, weights, strict=True)),
                f"mac_{p}",
                fields=LANES,
                start=self._start(begin[i]),
            )
            accumulator = DspAccumulator()
            m.submodules[f"accumulator_{p}"] = accumulator
            m.d.comb += [
                accumulator.pcin.eq(last.pcout),
                accumulator.first.eq(mode.first),
                accumulator.shift.eq(mode.shift),
                accumulator.valid.eq(control[i].valid),
            ]
            done = delay(m, control[i].valid & control[i].last, 1, name=f"done_{p}")
            self._hold_sums(m, p, accumulator.p, done)
        return m

    @staticmethod
    def _start(begin: data.View) -> Value:
        """What a cascade starts with: 2^19 for the first word of a plane, less 8 * 2^20 for the
        second plane."""
        started = begin.first | begin.shift
        shifted = begin.shift & ~begin.first
        return Cat(
            Const(0, LANE_SHIFT - 1),
            started,
            Const(0, ACT_BITS - 1),
            shifted.replicate(P_BITS - LANE_SHIFT - ACT_BITS + 1),
        )

    def _hold_sums(self, m: Module, p: int, total: Value, done: Value) -> None:
        """Sums of pixels p and p + 1 from both lanes, held until the next are ``done``."""
        for lane in range(2):
            low = lane * LANE_SHIFT
            held = Signal(signed(LANE_SHIFT), name=f"pixel_{p + lane}_sum", reset_less=True)
            # The lower lane has 2^19 too much: its highest bit is the other way round.
            top = total[low + LANE_SHIFT - 1] ^ (lane == 0)
            with m.If(done):
                m.d.sync += held.eq(Cat(total[low : low + LANE_SHIFT - 1], top))
            m.d.comb += self.sums[0][p + lane].eq(held)

    @classmethod
    def resources(cls, *, k: int, pixels: int) -> Resources:
        slices = Resources(
            lut=5,
            dsp48e1=(k + 1) * pixels // 2,
            ff=(LANE_SHIFT + 5) * pixels + late_bits(k, cls) + 4,
        )
        return slices + control_resources(cls.latency_for(k) - 5)
