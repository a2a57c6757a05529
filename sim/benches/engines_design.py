# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Row engines side by side, one small and one of 16 channels each."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.base import RowEngine
from gateware.pe.fixed4_dsp import Fixed4DspEngine
from gateware.pe.fixed4_lut import Fixed4LutEngine
from gateware.pe.fixed4_pair import Fixed4PairEngine
from gateware.pe.fixed8 import Fixed8Engine
from gateware.pe.pot4 import Pot4Engine

ENGINES = (Pot4Engine, Fixed4PairEngine, Fixed4DspEngine, Fixed4LutEngine, Fixed8Engine)
#: Channels and pixels: one for every product, one for sums.
SIZES = ((1, 2), (16, 2))


def port(engine: RowEngine, name: str) -> str:
    """Port of :class:`Engines` that is member ``name`` of ``engine``."""
    return f"{type(engine).__name__.lower()}_{engine.k}_{name}"


def engines() -> list[RowEngine]:
    """Engines of every kind in each of :data:`SIZES`."""
    return [engine(k=k, pixels=pixels) for engine in ENGINES for k, pixels in SIZES]


class Engines(wiring.Component):
    """Row engines of all kinds and sizes side by side, every port a plain vector."""

    def __init__(self) -> None:
        self._engines = engines()
        members = {}
        for engine in self._engines:
            for name in ("act", "weights", "control", "sums"):
                width = Value.cast(getattr(engine, name)).shape().width
                members[port(engine, name)] = (Out if name == "sums" else In)(width)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for engine in self._engines:
            m.submodules[port(engine, "engine")] = engine
            for name in ("act", "weights", "control"):
                m.d.comb += Value.cast(getattr(engine, name)).eq(getattr(self, port(engine, name)))
            m.d.comb += getattr(self, port(engine, "sums")).eq(Value.cast(engine.sums))
        return m
