# SPDX-License-Identifier: Apache-2.0
"""Arithmetic cores side by side, one design, so that it is built once."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gateware.arch.config import AccelConfig
from gateware.rtl.array import GemmArray
from gateware.rtl.requant import RequantInput, RequantLane
from ir.numerics import BIAS_BITS

CONFIG = AccelConfig(pot4_rows=2, fixed4_rows=1, fixed8_rows=1, bus_bits=32, requant_lanes=4)


class Cores(wiring.Component):
    """Small array and one requantiser side by side, every port a plain vector.

    Members
    -------
    act, weights, control, pool_mode, sums : as in GemmArray
    requant, y, wide : as in RequantLane
    """

    def __init__(self, config: AccelConfig) -> None:
        self._array = GemmArray(config)
        widths = {
            name: Value.cast(getattr(self._array, name)).shape().width
            for name in ("act", "weights", "control", "pool_mode", "sums")
        }
        super().__init__(
            {
                **{name: In(width) for name, width in widths.items() if name != "sums"},
                "sums": Out(widths["sums"]),
                "requant": In(RequantInput().size),
                "y": Out(8),
                "wide": Out(BIAS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.array = array = self._array
        m.submodules.lane = lane = RequantLane()
        m.d.comb += [
            Value.cast(array.act).eq(self.act),
            array.weights.eq(self.weights),
            Value.cast(array.control).eq(self.control),
            Value.cast(array.pool_mode).eq(self.pool_mode),
            self.sums.eq(Value.cast(array.sums)),
            Value.cast(lane.i).eq(self.requant),
            self.y.eq(lane.y),
            self.wide.eq(lane.wide),
        ]
        return m
