# SPDX-License-Identifier: Apache-2.0
"""Design under simulation whose streams are all watched: their contract, in every cycle."""

from amaranth import *
from amaranth.hdl import Fragment
from amaranth.lib import wiring

from sim.formal.channels import Elaborated, units
from sim.formal.monitor import Monitor

#: Members that are high while units may take back what they offer, but for that to a bus.
FLUSHES = ("flush", "reset_units")
#: Members that reset the bus as well.
RESETS = ("reset",)
#: What may break its contract, by type of unit and channel.
EXEMPT = {
    # A line cannot wait: a byte that nobody takes is overwritten by the next.
    ("UartReceiver", "o"),
}


class Watched(Elaboratable):
    """A component with a monitor at each stream of its ports and of the units within it.

    Parameters
    ----------
    component : Component
        In domain ``sync``; its ports remain those of the design.
    fair_bench : bool
        The bench, too, must keep the contract of what it offers. Otherwise nothing is claimed once
        it did not.

    Attributes
    ----------
    names : list of str
        Streams that units, or the bench, offer, such as ``dma_0.read.data``.
    broken : Value
        A bit for each of ``names``, high in a cycle in which its contract is broken.

    Both are known once the design is elaborated.
    """

    def __init__(self, component: wiring.Component, *, fair_bench: bool = False) -> None:
        self._component = component
        self._fair_bench = fair_bench
        self.names: list[str] = []
        self.broken: Value = Const(0)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fragment = Fragment.get(self._component, platform)
        m.submodules.dut = Elaborated(fragment)
        resets = _members(fragment, RESETS)
        excused = Cat(resets, _members(fragment, FLUSHES)).any()
        broken, given = [], []
        for unit in units(fragment):
            for channel in unit.channels:
                if (type(unit.component).__name__, channel.name) in EXEMPT:
                    continue
                if channel.is_source or not unit.path:
                    monitor = Monitor(channel, Cat(resets) if channel.is_bus else excused)
                    m.submodules += monitor
                    if channel.is_source or self._fair_bench:
                        self.names.append(".".join(filter(None, [unit.name, channel.name])))
                        broken.append(monitor.broken)
                    else:
                        given.append(monitor.broken)
        fair, unfair = Signal(init=1), Cat(given).any()
        with m.If(unfair):
            m.d.sync += fair.eq(0)
        self.broken = Mux(fair & ~unfair, Cat(broken), 0)
        return m


def _members(fragment: Fragment, names: tuple[str, ...]) -> list[Value]:
    """Members so called of all components of an elaborated design."""
    own = [
        Value.cast(getattr(component, name))
        for component in fragment.origins or ()
        if isinstance(component, wiring.Component)
        for name in component.signature.members
        if name in names
    ]
    return own + [value for inner, *_ in fragment.subfragments for value in _members(inner, names)]
