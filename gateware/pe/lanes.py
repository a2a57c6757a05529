# SPDX-License-Identifier: Apache-2.0
"""Engines of an array, and the row lanes that each of them serves."""

import dataclasses
from collections.abc import Iterator

from gateware.arch.config import AccelConfig, Fixed4Style
from gateware.pe.base import RowEngine
from gateware.pe.fixed4_dsp import Fixed4DspEngine
from gateware.pe.fixed4_lut import Fixed4LutEngine
from gateware.pe.fixed4_pair import Fixed4PairEngine
from gateware.pe.fixed8 import Fixed8Engine
from gateware.pe.pot4 import Pot4Engine


@dataclasses.dataclass(frozen=True)
class Placed:
    """Engine and its first row lane; it serves ``engine.rows`` neighbouring ones."""

    engine: type[RowEngine]
    lane: int

    @property
    def lanes(self) -> range:
        """Row lanes that it serves."""
        return range(self.lane, self.lane + self.engine.rows)


def fixed4_engines(rows: int, style: Fixed4Style) -> list[type[RowEngine]]:
    """Engines of ``rows`` Fixed-4 lanes, in lane order; a lane without a pair has one of LUTs."""
    if style is Fixed4Style.DSP:
        return [Fixed4DspEngine] * rows
    return [Fixed4PairEngine] * (rows // 2) + [Fixed4LutEngine] * (rows % 2)


def row_engines(config: AccelConfig) -> Iterator[Placed]:
    """Engines of all row lanes, in lane order."""
    lane = 0
    for engine in [
        *[Pot4Engine] * config.pot4_rows,
        *fixed4_engines(config.fixed4_rows, config.fixed4_style),
        *[Fixed8Engine] * config.fixed8_rows,
    ]:
        yield Placed(engine, lane)
        lane += engine.rows
