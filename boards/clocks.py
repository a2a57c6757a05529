# SPDX-License-Identifier: Apache-2.0
"""Clocks of the programmable logic: those that a Zynq-7000 makes, and the default of each board.

Defaults follow from evidence, by one rule: the highest clock that the board makes exactly and that
leaves :data:`ROUTING_MARGIN` below what the delay model says of the netlist of the board's array.
``python -m bench.clocks`` writes both, defaults and models, to ``clocks.json``.
"""

import dataclasses
import functools
import itertools
import json
import math
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("clocks.json")
ROUTING_MARGIN = 0.15  #: by which a modelled clock must be above one that is asked for
#: I/O PLL of the processing system, from which boot loaders feed FCLK0: 30 x 33.33 or 20 x 50 MHz.
IO_PLL_HZ = 1_000_000_000
DIVISOR_MAX = 63  #: of both dividers in a row (UG585, register FPGA0_CLK_CTRL)
FCLK_MAX_HZ = 250_000_000  #: limit of Vivado's configuration of the processing system


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelledClock:
    """Clock of one accelerator on one device by the delay model of its netlist.

    Parameters
    ----------
    design : str
        Name that ``bench.paths`` gives it.
    device : str
        Device without package and grade, such as ``xc7z020``.
    grade : int
        Speed grade.
    ns : float
        Longest path between two registers.
    config : str
        Digest of its sizes, see :func:`gateware.flow.clock.sizes_digest`.
    verilog : str
        Digest of its Verilog, see :func:`gateware.flow.clock.verilog_digest`.
    """

    design: str
    device: str
    grade: int
    ns: float
    config: str
    verilog: str

    @property
    def hz(self) -> float:
        """Modelled clock."""
        return 1e9 / self.ns


@functools.cache
def zynq7_clocks() -> tuple[int, ...]:
    """Clocks in Hz that FCLK0 of a Zynq-7000 can have, rising; rounded up, so that a driver which
    takes the next lower one takes that one."""
    divisors = range(1, DIVISOR_MAX + 1)
    ratios = {first * second for first, second in itertools.product(divisors, divisors)}
    clocks = {-(-IO_PLL_HZ // ratio) for ratio in ratios}
    return tuple(sorted(hz for hz in clocks if hz <= FCLK_MAX_HZ))


def next_lower(hz: float) -> int:
    """Highest clock of :func:`zynq7_clocks` that is not above ``hz``, to the Hz.

    Raises ValueError where there is none.
    """
    lower = [clock for clock in zynq7_clocks() if clock <= math.floor(hz) + 1]
    if not lower:
        raise ValueError(f"a Zynq-7000 has no clock of {hz / 1e6:g} MHz or less")
    return lower[-1]


def supported(modelled_hz: float) -> int:
    """Highest clock in Hz that a model supports, with the margin for routing."""
    return next_lower(modelled_hz / (1 + ROUTING_MARGIN))


def default_hz(board: str) -> int:
    """Default clock of a board in Hz."""
    return _content()["boards"][board]


def modelled() -> tuple[ModelledClock, ...]:
    """Every modelled clock that is kept."""
    return tuple(ModelledClock(**entry) for entry in _content()["modelled"])


def reload() -> None:
    """Fresh look into the file, when it is asked for next."""
    _content.cache_clear()


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text())
