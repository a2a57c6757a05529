# SPDX-License-Identifier: Apache-2.0
"""The DDR model of ``sim/world/ddr_axi3.v`` as an Amaranth component."""

from pathlib import Path
from typing import Any

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import Axi3Signature
from sim.world.axi3_checker import Axi3Checker, Rule, Window

#: What goes to ``extra_verilog`` of the harness. Its head documents the plusargs.
DDR_VERILOG = Path(__file__).with_name("ddr_axi3.v")


class Ddr(wiring.Component):
    """Memory behind one AXI3 port; exists in Verilog only, Amaranth's simulator sees a dead port.

    As submodule ``ddr`` of the top, its contents are ``dut.ddr.model.mem[beat]`` to a cocotb bench.

    Parameters
    ----------
    axi : Axi3Signature
        The port.
    beats : int
        Size in bus words.
    base : int
        Address of the first.
    read_latency, write_latency : int
        Cycles from the AR handshake to the first beat, from the last W handshake to the response.
    windows : int
        See :class:`~sim.world.axi3_checker.Axi3Checker`.

    Members
    -------
    axi : In(Axi3Signature)
        From the master.
    violation : Out(Rule)
        The first rule of :mod:`sim.world.axi3_checker` that was broken.
    windows : In(array of Window)
        Only with ``windows``: where the master may go.
    read_beats, write_beats : Out(32)
        Beats so far.
    wants : Out(2), grants : In(2), initially granted
        To and from a :class:`DdrBudget`.
    """

    axi: Any
    violation: Signal
    windows: Any
    read_beats: Signal
    write_beats: Signal
    wants: Signal
    grants: Signal

    def __init__(
        self,
        axi: Axi3Signature,
        *,
        beats: int,
        base: int = 0,
        read_latency: int = 40,
        write_latency: int = 20,
        windows: int = 0,
    ) -> None:
        self._windows = windows
        self._signature_axi = axi
        self._parameters = {
            "p_BEATS": beats,
            "p_BASE": base,
            "p_READ_LATENCY": read_latency,
            "p_WRITE_LATENCY": write_latency,
        }
        super().__init__(
            {
                "axi": In(axi),
                "violation": Out(Rule),
                "read_beats": Out(32),
                "write_beats": Out(32),
                "wants": Out(2),
                "grants": In(2, init=3),  # pyright: ignore[reportCallIssue]: stubs lack init
                **({"windows": In(data.ArrayLayout(Window, windows))} if windows else {}),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        signature = self._signature_axi
        m.submodules.checker = checker = Axi3Checker(signature, windows=self._windows)
        checker.watch(m, self.axi)
        m.d.comb += self.violation.eq(checker.violation)
        if self._windows:
            m.d.comb += checker.windows.eq(self.windows)
        ports = {}
        for name, member in signature.members.items():
            # Attributes that say nothing to this memory have no port there.
            if name != "wid" and not name.endswith(("lock", "cache", "prot", "qos")):
                ports[f"{'i' if member.flow == Out else 'o'}_{name}"] = getattr(self.axi, name)
        m.submodules.model = Instance(
            "ddr_axi3",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            **ports,
            **self._parameters,
            p_ADDR_BITS=signature.addr_bits,
            p_DATA_BITS=signature.data_bits,
            p_ID_BITS=signature.id_bits,
            o_read_beats=self.read_beats,
            o_write_beats=self.write_beats,
            o_wants=self.wants,
            i_grants=self.grants,
        )
        return m


class DdrBudget(wiring.Component):
    """Bandwidth that the memories of several ports share; exists in Verilog only.

    Its plusargs say how many beats in how many cycles; without them there is no limit.

    Parameters
    ----------
    ports : int

    Members
    -------
    wants : In(2 * ports), grants : Out(2 * ports)
        From and to each :class:`Ddr`, the first in the low bits.
    """

    wants: Signal
    grants: Signal

    def __init__(self, ports: int) -> None:
        self._ports = ports
        super().__init__({"wants": In(2 * ports), "grants": Out(2 * ports)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.model = Instance(
            "ddr_budget",
            p_PORTS=self._ports,
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_wants=self.wants,
            o_grants=self.grants,
        )
        return m
