# SPDX-License-Identifier: Apache-2.0
"""The device under test of whole-network simulation: an accelerator beside a DDR model.

Every memory port has a model of its own with the same contents at the start: what is written
through the first port can be read there again, but not through the others.
"""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gateware.arch.config import AccelConfig
from gateware.arch.registers import WINDOW_BITS
from gateware.flow.verilog import AcceleratorBox
from gateware.rtl.axi import AxiLiteSignature
from gateware.rtl.top import hp_ports
from sim.world.ddr import Ddr, DdrBudget

WAVEFORM_FILE = "waveform.vcd"

#: Verilog of the module that begins a waveform: Verilator writes one from ``$dumpvars`` on.
WAVEFORM_TRIGGER = f"""
module waveform_trigger (input clk);
    integer from, now;
    initial begin
        from = -1;
        now = 0;
        if ($value$plusargs("waveform_from=%d", from)) ;
    end
    always @(posedge clk) begin
        now <= now + 1;
        if (now == from) begin
            $dumpfile("{WAVEFORM_FILE}");
            $dumpvars;
        end
    end
endmodule
"""


class System(wiring.Component):
    """Accelerator and memory. The host side is the register port and the interrupt.

    Both are Verilog beside this design: the text of
    :func:`gateware.flow.verilog.accelerator_verilog`, the very file that goes into the bitstream,
    and :data:`sim.world.ddr.DDR_VERILOG`.

    Parameters
    ----------
    config : AccelConfig
    ddr_beats : int
        Size of the memory in bus words; it starts at address 0.
    traced : bool
        With the module of :data:`WAVEFORM_TRIGGER`.

    Members
    -------
    axil : In(AxiLiteSignature(12, 32))
    irq : Out(1)
    violation : Out(3)
        A bus rule that the accelerator broke, see :class:`sim.world.ddr.Ddr`.
    """

    axil: Any
    irq: Signal
    violation: Signal

    def __init__(self, config: AccelConfig, ddr_beats: int, *, traced: bool = False) -> None:
        self._config, self._ddr_beats, self._traced = config, ddr_beats, traced
        super().__init__(
            {
                "axil": In(AxiLiteSignature(WINDOW_BITS, 32)),
                "irq": Out(1),
                "violation": Out(3),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        accelerator: Any = AcceleratorBox(self._config)
        m.submodules.accelerator = accelerator
        if self._traced:
            m.submodules.trace = Instance("waveform_trigger", i_clk=ClockSignal())
        m.submodules.budget = budget = DdrBudget(self._config.ports)
        connect(m, flipped(self.axil), accelerator.axil)
        violations = []
        for p, name in enumerate(hp_ports(self._config)):
            axi = getattr(accelerator, name)
            m.submodules[f"ddr_{p}"] = ddr = Ddr(axi.signature, beats=self._ddr_beats)
            connect(m, axi, ddr.axi)
            m.d.comb += [
                budget.wants[2 * p : 2 * p + 2].eq(ddr.wants),
                ddr.grants.eq(budget.grants[2 * p : 2 * p + 2]),
            ]
            violations.append(ddr.violation)
        found = violations[0]
        for violation in violations[1:]:
            found = Mux(found != 0, found, violation)
        m.d.comb += [self.irq.eq(accelerator.irq), self.violation.eq(found)]
        return m
