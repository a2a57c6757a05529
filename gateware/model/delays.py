# SPDX-License-Identifier: Apache-2.0
"""Delays of cells and nets before placement: what a model of a device family says."""

import abc
import dataclasses
from collections.abc import Mapping

from gateware.model.netlist import Cell


@dataclasses.dataclass(frozen=True, slots=True)
class Arc:
    """Delay from an input to an output of a cell; bits are None where it is that of all."""

    source: str
    ns: float
    source_bit: int | None = None
    bit: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CellTiming:
    """Delays of a cell in ns, by port.

    Parameters
    ----------
    starts : mapping
        Clock to output, of outputs that come from a register.
    ends : mapping
        Setup before the clock, of inputs that go to a register.
    arcs : mapping
        Combinational ways to each output.
    inner : float
        Longest way between two registers within the cell, 0 where there is none.
    clocks : frozenset of str
        Inputs that are clocks.
    """

    starts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    ends: Mapping[str, float] = dataclasses.field(default_factory=dict)
    arcs: Mapping[str, tuple[Arc, ...]] = dataclasses.field(default_factory=dict)
    inner: float = 0.0
    clocks: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """Net between the output that drives it and one input.

    fanout : inputs at the net, clocks left out
    registers : those of them that are the data input of a flip-flop
    """

    driver: str
    output: str
    sink: str
    input: str
    fanout: int
    registers: int


class DelayModel(abc.ABC):
    """Delays of one device family in one speed grade.

    port_in, port_out : ns from the clock to an input of the design, and from an output to a clock
    """

    port_in: float
    port_out: float

    @abc.abstractmethod
    def key(self, cell: Cell) -> object:
        """Key that is equal for cells whose timing is equal."""

    @abc.abstractmethod
    def timing(self, cell: Cell) -> CellTiming:
        """Delays of a cell; ValueError for a kind that the model does not know."""

    @abc.abstractmethod
    def net(self, hop: Hop) -> float:
        """Delay of a net in ns, from the output to the input."""

    @abc.abstractmethod
    def is_level(self, kind: str) -> bool:
        """True for a cell that counts as a level of LUTs."""

    @abc.abstractmethod
    def is_carry(self, kind: str) -> bool:
        """True for a cell of a carry chain."""

    @abc.abstractmethod
    def is_register(self, kind: str) -> bool:
        """True for a flip-flop."""

    @abc.abstractmethod
    def is_reset(self, kind: str, port: str) -> bool:
        """True for the set or reset input of a flip-flop."""
