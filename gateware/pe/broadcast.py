# SPDX-License-Identifier: Apache-2.0
"""Copies of registers, and trees of them, so that no net gets longer as an array grows."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.pe.base import delay, positive

BROADCAST_FANOUT = 8  #: registers or engines that one register of a broadcast feeds
#: Pins that any net of an array feeds at most, clock excepted, with up to 8 pixels.
MAX_FANOUT = 64


class CopyRegister(wiring.Component):
    """Register ``o`` of ``i``, one cycle later: one of several that share the sinks of a value.

    A module of its own, with ``keep``, so that no synthesiser merges it with its equal siblings.
    Like all registers of an array it has no reset, which would be a net to every one of them.

    Parameters
    ----------
    shape : Layout or Shape

    Members
    -------
    i : In(shape)
    o : Out(shape)
    """

    def __init__(self, shape: data.Layout | Shape) -> None:
        super().__init__({"i": In(shape), "o": Out(shape)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        copy = Signal(self.i.shape(), attrs={"keep": "true"}, reset_less=True)
        m.d.sync += Value.cast(copy).eq(Value.cast(self.i))
        m.d.comb += Value.cast(self.o).eq(Value.cast(copy))
        return m


def copies(m: Module, value: Value | data.View, count: int, name: str) -> list[Value | data.View]:
    """Copies of ``value``, ``count`` registers one cycle later, which stay apart in synthesis."""
    registers = [CopyRegister(value.shape()) for _ in range(count)]
    for i, register in enumerate(registers):
        m.submodules[f"{name}_copy_{i}"] = register
        m.d.comb += Value.cast(register.i).eq(Value.cast(value))
    return [register.o for register in registers]


def steering(m: Module, control: data.View, cycles: int, count: int) -> list[data.View]:
    """Copies of a control word, ``count`` of them, ``cycles`` cycles later; at least one cycle."""
    return copies(m, delay(m, control, cycles - 1, name="control"), count, "control")


def broadcast_nodes(sinks: int, fanout: int = BROADCAST_FANOUT) -> list[int]:
    """Registers in each level of :class:`Broadcast`, the root first."""
    nodes = [-(-sinks // fanout)]
    while nodes[0] > 1:
        nodes.insert(0, -(-nodes[0] // fanout))
    return nodes


class Broadcast(wiring.Component):
    """Tree of registers that hands one value to many sinks.

    Parameters
    ----------
    shape : Layout
        Of the value.
    sinks : int
        How many read it.
    fanout : int
        Largest number of registers or sinks behind one register.

    Members
    -------
    i : In(shape)
    o : Out(shape).array(leaves)
        Sink number s reads ``o[s // fanout]``.

    Attributes
    ----------
    latency : int
        Cycles, the levels of the tree: 1 for up to 8 sinks, 2 for up to 64.

    Throughput: one value per cycle.

    Raises
    ------
    TypeError, ValueError
        For a number that is not a positive integer, and for a fan-out of one.
    """

    def __init__(self, shape: data.Layout, *, sinks: int, fanout: int = BROADCAST_FANOUT) -> None:
        if positive("fanout", fanout) < 2:
            raise ValueError(f"fanout must be at least 2, not {fanout!r}")
        self._nodes = broadcast_nodes(positive("sinks", sinks), fanout)
        self._shape = shape
        self._fanout = fanout
        self.latency = len(self._nodes)
        super().__init__({"i": In(shape), "o": Out(shape).array(self._nodes[-1])})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        above = [self.i]
        for level, count in enumerate(self._nodes):
            nodes = [CopyRegister(self._shape) for _ in range(count)]
            for i, node in enumerate(nodes):
                m.submodules[f"node_{level}_{i}"] = node
                m.d.comb += node.i.eq(above[i // self._fanout])
            above = [node.o for node in nodes]
        m.d.comb += [leaf.eq(value) for leaf, value in zip(self.o, above, strict=True)]
        return m
