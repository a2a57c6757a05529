# SPDX-License-Identifier: Apache-2.0
"""The device under test of whole-network simulation: an accelerator beside a DDR model.

Every memory port has a model of its own with the same contents at the start: what is written
through the first port can be read there again, but not through the others.
"""

from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gateware.arch.config import AccelConfig
from gateware.arch.registers import COUNTERS, WINDOW_BITS
from gateware.flow.verilog import AcceleratorBox
from gateware.rtl.axi import AxiLiteSignature
from gateware.rtl.top import hp_ports
from sim.world.axi3_checker import Rule, Window
from sim.world.ddr import Ddr, DdrBudget

WINDOWS = 3  #: the program, the inputs, the outputs
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

#: Counters that :data:`COUNTER_LOG` logs, as registers name them.
LOGGED = ("CYCLES", *(name.upper() for name in COUNTERS))
_REGISTERS = "system.accelerator.\\instance .regs"

#: Verilog of the module that logs the counters of runs, exact to the cycle: a line when the first
#: descriptor that is not complete changes, and every ``counter_every`` cycles between.
COUNTER_LOG = f"""
module counter_log (input clk);
    integer file, every;
    reg [8 * 1024 - 1:0] name;
    reg [31:0] last_index, last_cycles;
    initial begin
        file = 0;
        every = 0;
        last_index = 0;
        last_cycles = 0;
        if ($value$plusargs("counter_log=%s", name)) file = $fopen(name, "w");
        if ($value$plusargs("counter_every=%d", every)) ;
    end
    always @(posedge clk) if (file != 0) begin
        last_index <= {{16'd0, {_REGISTERS}.failing_index}};
        last_cycles <= {_REGISTERS}.count_cycles;
        if (last_index != {{16'd0, {_REGISTERS}.failing_index}}
            || (last_cycles != {_REGISTERS}.count_cycles
                && {_REGISTERS}.count_cycles % every == 0))
            $fdisplay(file, "{"%0d " * (1 + len(LOGGED))}",
                {_REGISTERS}.failing_index,
                {", ".join(f"{_REGISTERS}.count_{name.lower()}" for name in LOGGED)});
    end
endmodule
"""


def read_counter_log(text: str) -> list[list[dict[str, int]]]:
    """Samples of each run in what :data:`COUNTER_LOG` wrote: registers by name, in time."""
    runs: list[list[dict[str, int]]] = []
    last = 0
    for line in text.splitlines():
        values = [int(value) for value in line.split()]
        sample = dict(zip(("ERROR_DESCRIPTOR", *LOGGED), values, strict=True))
        if not runs or sample["ERROR_DESCRIPTOR"] < last:
            runs.append([])
        last = sample["ERROR_DESCRIPTOR"]
        runs[-1].append(sample)
    return runs


class System(wiring.Component):
    """Accelerator and memory. The host side is the register port and the interrupt.

    They are Verilog beside this design: the text of
    :func:`gateware.flow.verilog.accelerator_verilog`, the very file that goes into the bitstream,
    :data:`sim.world.ddr.DDR_VERILOG` and :data:`COUNTER_LOG`.

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
    violation : Out(Rule)
        A bus rule that was broken at any port.
    windows : In(array of Window)
        Where the accelerator may go: the host's three buffers, of which it writes the last.
    """

    axil: Any
    irq: Signal
    violation: Signal
    windows: Any

    def __init__(self, config: AccelConfig, ddr_beats: int, *, traced: bool = False) -> None:
        self._config, self._ddr_beats, self._traced = config, ddr_beats, traced
        super().__init__(
            {
                "axil": In(AxiLiteSignature(WINDOW_BITS, 32)),
                "irq": Out(1),
                "violation": Out(Rule),
                "windows": In(data.ArrayLayout(Window, WINDOWS)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        accelerator: Any = AcceleratorBox(self._config)
        m.submodules.accelerator = accelerator
        m.submodules.log = Instance("counter_log", i_clk=ClockSignal())
        if self._traced:
            m.submodules.trace = Instance("waveform_trigger", i_clk=ClockSignal())
        m.submodules.budget = budget = DdrBudget(self._config.ports)
        connect(m, flipped(self.axil), accelerator.axil)
        violations = []
        for p, name in enumerate(hp_ports(self._config)):
            axi = getattr(accelerator, name)
            m.submodules[f"ddr_{p}"] = ddr = Ddr(
                axi.signature, beats=self._ddr_beats, windows=WINDOWS
            )
            connect(m, axi, ddr.axi)
            m.d.comb += [
                budget.wants[2 * p : 2 * p + 2].eq(ddr.wants),
                ddr.grants.eq(budget.grants[2 * p : 2 * p + 2]),
                ddr.windows.eq(self.windows),
            ]
            violations.append(ddr.violation)
        found = violations[0]
        for violation in violations[1:]:
            found = Mux(found != 0, found, violation)
        m.d.comb += [self.irq.eq(accelerator.irq), self.violation.eq(found)]
        return m
