# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Designs whose streams are checked: small, with every unit that has one."""

import dataclasses
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from gateware.arch.config import AccelConfig
from gateware.rtl.axi import Axi3Signature
from gateware.rtl.axi_bridge import Axi3ToLite
from gateware.rtl.top import Accelerator, accelerator_signature, hp_ports
from gateware.soc.serial_system import SerialSystem
from gateware.soc.zynq7 import GP_BASE

#: The smallest array with every scheme.
CONFIG = AccelConfig(
    pot4_rows=2,
    fixed4_rows=1,
    fixed8_rows=1,
    pixels=2,
    requant_lanes=2,
    bus_bits=32,
    act_depth=64,
    weight_depth=32,
    slot_depth=8,
    wide_depth=8,
)


class Zynq(wiring.Component):
    """Bridge and accelerator as :class:`gateware.soc.zynq7.Zynq7Top` joins them; the processor's
    ports are those of the design."""

    gp0: Any
    irq: Signal

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        ports = dict(accelerator_signature(config).members)
        del ports["axil"]
        super().__init__({"gp0": In(Axi3Signature(32, 32, 12)), **ports})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.accelerator = accelerator = Accelerator(self._config)
        axil = len(accelerator.axil.araddr)
        m.submodules.bridge = bridge = Axi3ToLite(addr_bits=axil, base=GP_BASE)
        connect(m, flipped(self.gp0), bridge.axi3)
        connect(m, bridge.lite, accelerator.axil)
        for port in hp_ports(self._config):
            connect(m, getattr(accelerator, port), flipped(getattr(self, port)))
        m.d.comb += self.irq.eq(accelerator.irq)
        return m


def designs() -> dict[str, wiring.Component]:
    """Designs by name."""
    return {
        "serial": SerialSystem(Accelerator(CONFIG), memory_bytes=4096, divisor=8),
        "zynq": Zynq(dataclasses.replace(CONFIG, bus_bits=64, ports=2, act_copies=1)),
    }
