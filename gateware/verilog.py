# SPDX-License-Identifier: Apache-2.0
"""The accelerator as Verilog text, and as a box that stands for that text in other designs.

Simulation and bitstream instantiate the same text through :class:`AcceleratorBox`.
"""

import os

from amaranth import *
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from gateware.config import AccelConfig
from gateware.top import Accelerator, accelerator_signature

MODULE = "accelerator"   #: name of the Verilog module


def to_verilog(component: wiring.Component, name: str) -> str:
    """Verilog of an Amaranth component; the same text for the same design on every machine."""
    # The bundled Yosys: another one on the PATH writes other text.
    os.environ.setdefault("AMARANTH_USE_YOSYS", "builtin")
    return verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)


def accelerator_verilog(config: AccelConfig) -> str:
    """The text of module ``accelerator``; ports are those of :class:`~gateware.top.Accelerator`."""
    return to_verilog(Accelerator(config), MODULE)


class AcceleratorBox(wiring.Component):
    """Instance of the module ``accelerator``, with the members of its :class:`Accelerator`.

    Parameters
    ----------
    config : AccelConfig
    text : str, optional
        Verilog of the module, added to the platform's files where there is a platform.
    """

    def __init__(self, config: AccelConfig, text: str = "") -> None:
        self._text = text
        super().__init__(accelerator_signature(config))

    def elaborate(self, platform) -> Module:
        m = Module()
        if platform is not None:
            platform.add_file(f"{MODULE}.v", self._text)
        ports = {}
        for path, member, value in self.signature.flatten(self):
            ports[f"{'i' if member.flow is In else 'o'}_{'__'.join(map(str, path))}"] = value
        m.submodules.instance = Instance(MODULE, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
        return m
