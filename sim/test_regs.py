# SPDX-License-Identifier: Apache-2.0
"""The register file as Verilog, by AXI4-Lite and through the bridge from GP0."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gateware.arch.config import AccelConfig
from gateware.arch.registers import WINDOW_BITS
from gateware.rtl.axi import Axi3Signature, AxiLiteSignature
from gateware.rtl.axi_bridge import Axi3ToLite
from gateware.rtl.register_file import COUNT_LAYOUT, RegisterFile
from sim.backend.harness import build_and_test

CONFIG = AccelConfig(pot4_rows=5, fixed4_rows=2, fixed8_rows=1)


class RegisterSystem(wiring.Component):
    """Two register files: one at ``axil``, one behind the bridge at ``gp0``.

    Members
    -------
    axil : In(AxiLiteSignature(12, 32))
    gp0 : In(Axi3Signature(32, 32, 12))
    start, abort, watchdog, irq : Out(1)
        Of the first.
    busy, done, failed, error_code, descriptor_index, count : In
        Of the first; ``count`` is the bits of its layout.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "axil": In(AxiLiteSignature(WINDOW_BITS, 32)),
                "gp0": In(Axi3Signature(32, 32, 12)),
                "start": Out(1),
                "abort": Out(1),
                "watchdog": Out(1),
                "irq": Out(1),
                "busy": In(1),
                "done": In(1),
                "failed": In(1),
                "error_code": In(8),
                "descriptor_index": In(16),
                "count": In(COUNT_LAYOUT.size),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.regs = regs = RegisterFile(CONFIG)
        m.submodules.bridge = bridge = Axi3ToLite(WINDOW_BITS)
        m.submodules.far_regs = far_regs = RegisterFile(CONFIG)
        connect(m, flipped(self.axil), regs.axil)
        connect(m, flipped(self.gp0), bridge.axi3)
        connect(m, bridge.lite, far_regs.axil)
        m.d.comb += [
            getattr(self, name).eq(getattr(regs, name))
            for name in ("start", "abort", "watchdog", "irq")
        ]
        m.d.comb += [
            Value.cast(getattr(regs, name)).eq(getattr(self, name))
            for name in ("busy", "done", "failed", "error_code", "descriptor_index", "count")
        ]
        return m


def test_registers() -> None:
    build_and_test(
        RegisterSystem(), toplevel="register_system", test_module="sim.benches.regs_bench"
    )
