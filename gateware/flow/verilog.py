# SPDX-License-Identifier: Apache-2.0
"""Accelerator as Verilog text, and as a box that stands for that text in other designs.

Simulation and bitstream instantiate the same text through :class:`AcceleratorBox`.
"""

import re

from amaranth import Module
from amaranth.lib import wiring

from gateware.arch.config import AccelConfig
from gateware.pe.series7 import instance, to_verilog
from gateware.rtl.top import Accelerator, accelerator_signature

MODULE = "accelerator"  #: name of the Verilog module
_ZERO_WORD = re.compile(r"^ +\S+\[\d+\] = \d+'h0+;\n", re.MULTILINE)


def accelerator_verilog(config: AccelConfig, platform: object = None) -> str:
    """Verilog of module ``accelerator``, whose ports are those of
    :class:`~gateware.rtl.top.Accelerator`.

    ``platform`` is :class:`~gateware.pe.series7.Series7` for the devices that have its primitives.
    """
    return to_verilog(Accelerator(config), MODULE, platform)


def without_zero_words(text: str) -> str:
    """Verilog without the words of a memory's first content that are 0, a quarter of its lines.

    Memories of an FPGA hold 0 unless told otherwise; a simulator needs to be told.
    """
    return _ZERO_WORD.sub("", text)


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
        m.submodules.instance = instance(MODULE, self)
        return m
