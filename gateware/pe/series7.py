# SPDX-License-Identifier: Apache-2.0
"""Verilog text for Xilinx 7-series: the platform that asks for it, and modules written once."""

import os

from amaranth import *
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped


class Series7:
    """Platform argument of ``elaborate`` for text that a 7-series device is made from.

    Such text instantiates LUT6, LUT6_2, CARRY4 and DSP48E1. Amaranth's own simulator cannot run
    it, a Verilog simulator needs ``sim/backend/series7.v``. Without this platform the same
    components are portable, and do the same in every cycle.

    Parameters
    ----------
    sources : bool
        Attributes ``src`` in the text name the lines of Amaranth that it comes from.

    Attributes
    ----------
    modules : dict
        Texts of the :class:`SharedModule` components met so far, by module name.
    """

    def __init__(self, *, sources: bool = False) -> None:
        self.sources = sources
        self.modules: dict[str, str] = {}


def is_series7(platform: object) -> bool:
    """True if ``platform`` allows instances of 7-series primitives."""
    return isinstance(platform, Series7)


def to_verilog(component: wiring.Component, name: str, platform: object = None) -> str:
    """Verilog of an Amaranth component; the same text for the same design on every machine."""
    text = module_text(component, name, platform)
    return "\n".join([text, *(platform.modules.values() if is_series7(platform) else ())])


def module_text(component: wiring.Component, name: str, platform: object) -> str:
    """Verilog of a component as :func:`to_verilog` has it, without the modules that ``platform``
    collects."""
    # The bundled Yosys: another one on the PATH writes other text.
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    sources = is_series7(platform) and platform.sources
    return verilog.convert(
        component, name=name, platform=platform, emit_src=sources, strip_internal_attrs=not sources
    )


def instance(module: str, component: wiring.Component) -> Instance:
    """Instance of ``module``, whose ports are those of ``component``, clock and reset."""
    ports = {
        f"{'i' if member.flow is In else 'o'}_{'__'.join(map(str, path))}": Value.cast(value)
        for path, member, value in component.signature.flatten(component)
    }
    return Instance(module, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)


class SharedModule(wiring.Component):
    """Component that many places of a design have: for :class:`Series7` one module of Verilog.

    Amaranth writes a module per instance. One for all keeps the text small, and what reads it,
    synthesis and simulation, does its work once.

    Parameters
    ----------
    component : Component
        In domain ``sync``. Its members are those of this one.
    name : str
        Of the module; equal names must mean equal components.
    """

    def __init__(self, component: wiring.Component, name: str) -> None:
        self._component = component
        self._name = name
        super().__init__(component.signature)

    def elaborate(self, platform: object) -> Elaboratable:
        if is_series7(platform):
            if self._name not in platform.modules:
                platform.modules[self._name] = module_text(self._component, self._name, platform)
            return instance(self._name, self)
        m = Module()
        m.submodules.component = self._component
        connect(m, flipped(self), self._component)
        return m
