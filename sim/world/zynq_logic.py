# SPDX-License-Identifier: Apache-2.0
"""The logic of a Zynq-7000 without its processor, whose place a bench takes."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gateware.arch.config import AccelConfig
from gateware.flow.verilog import AcceleratorBox
from gateware.rtl.axi import Axi3Signature
from gateware.rtl.axi_bridge import Axi3ToLite
from gateware.rtl.top import accelerator_signature
from gateware.soc.zynq7 import GP_BASE
from sim.world.axi3_checker import CheckedAccelerator, Rule


class ZynqLogic(wiring.Component):
    """Bridge and accelerator as :class:`gateware.soc.zynq7.Zynq7Top` joins them.

    The accelerator is Verilog beside this design: the text of
    :func:`gateware.flow.verilog.accelerator_verilog`.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    gp0 : In(Axi3Signature(32, 32, 12))
        From the processor.
    hp0 : Out(Axi3Signature(32, bus_bits, 6))
        To its memory.
    irq : Out(1)
    violation : Out(Rule)
        A rule of the bus that was broken at a port of the memory.
    """

    gp0: Any
    hp0: Any
    irq: Signal
    violation: Signal

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        hp0 = accelerator_signature(config).members["hp0"]
        super().__init__(
            {
                "gp0": In(Axi3Signature(32, 32, 12)),
                "hp0": hp0,
                "irq": Out(1),
                "violation": Out(Rule),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        accelerator: Any = CheckedAccelerator(AcceleratorBox(self._config), self._config)
        bridge: Any = Axi3ToLite(addr_bits=len(accelerator.axil.araddr), base=GP_BASE)
        m.submodules.accelerator, m.submodules.bridge = accelerator, bridge
        connect(m, flipped(self.gp0), bridge.axi3)
        connect(m, bridge.lite, accelerator.axil)
        connect(m, accelerator.hp0, flipped(self.hp0))
        m.d.comb += [self.irq.eq(accelerator.irq), self.violation.eq(accelerator.violation)]
        return m
