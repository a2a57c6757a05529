# SPDX-License-Identifier: Apache-2.0
"""Top level for a Zynq-7000: an accelerator between the processing system's GP0 and HP ports."""

from amaranth import *
from amaranth.lib import cdc, wiring
from amaranth.vendor import XilinxPlatform

from boards.board import Board
from gateware.rtl.axi_bridge import Axi3ToLite

HP_PORTS = ("hp0", "hp1", "hp2", "hp3")
HP_DATA_BITS = 64
HP_ID_BITS = 6
GP_BASE = 0x4000_0000  #: where GP0 begins in the processor's address space (UG585, chapter 4)
GP_SIZE = 1 << 30
IRQ = 61  #: number that the accelerator's interrupt has in the processing system
SHARED_IRQS = 32  #: where those begin that a device tree counts from 0

# Channel signals of an AXI3 port, by who drives them. PS7 names its pins after them: "araddr" of
# HP0 is SAXIHP0ARADDR. The sizes are an exception, 2 bits there and 3 in AXI.
_FROM_MASTER = (
    *(
        f"{channel}{name}"
        for channel in ("ar", "aw")
        for name in ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos", "valid")
    ),
    "wid",
    "wdata",
    "wstrb",
    "wlast",
    "wvalid",
    "rready",
    "bready",
)
_FROM_SLAVE = (
    "arready",
    "awready",
    "wready",
    "rid",
    "rdata",
    "rresp",
    "rlast",
    "rvalid",
    "bid",
    "bresp",
    "bvalid",
)
_SIZE_BITS = 2


def connection(board: Board, ports: int) -> dict[str, object]:
    """Connection entry of the manifest: how a driver on ``board`` reaches an accelerator with HP
    ports 0 to ``ports - 1`` in :class:`Zynq7Top`."""
    return {
        "kind": "zynq7",
        "register_base": GP_BASE,
        "interrupt": IRQ,
        "hp_ports": ports,
        "ps_clock_hz": board.ps_clock_hz,
    }


def device_tree_overlay(window_bytes: int, buffer_bytes: int) -> str:
    """Source of a device tree overlay that gives a driver the interrupt and ``window_bytes`` of
    registers (by UIO), and ``buffer_bytes`` of contiguous memory (by u-dma-buf)."""
    return f"""\
/dts-v1/;
/plugin/;

/ {{
	fragment@0 {{
		target-path = "/";
		__overlay__ {{
			rmsmp@{GP_BASE:x} {{
				compatible = "generic-uio";
				reg = <{GP_BASE:#x} {window_bytes:#x}>;
				interrupt-parent = <&intc>;
				interrupts = <0 {IRQ - SHARED_IRQS} 4>;
			}};
			udmabuf@0 {{
				compatible = "ikwzm,u-dma-buf";
				device-name = "udmabuf0";
				size = <{buffer_bytes:#x}>;
			}};
		}};
	}};
}};
"""


def constraints(clock_hz: int) -> str:
    """Timing constraints of :class:`Zynq7Top` as XDC, all but those of reset synchronisers, which
    Amaranth's script has."""
    return f"""\
# The one clock. It goes through a BUFG to every register and to the ports of the processing system;
# nothing divides or multiplies it, so there is no generated clock.
create_clock -name fclk0 -period {1e9 / clock_hz} [get_pins {{ps7/FCLKCLK[0]}}]
# A level that the processor's interrupt controller samples by a clock of its own.
set_false_path -quiet -to [get_pins {{ps7/IRQF2P[0]}}]
# A level as well. It leads to the asynchronous preset of a synchroniser, which releases it in step.
set_false_path -quiet -from [get_pins {{ps7/FCLKRESETN[0]}}]
# No port of the design is a pin of the package: there is no input or output delay to give.
"""


class Zynq7Top(Elaboratable):
    """Top level of a Zynq-7000: processing system, bridge and accelerator.

    Owns the ``sync`` domain, which runs on FCLK0; its reset is FCLK0's, released in step with the
    clock. The processing system itself (DDR, pins, the rate of FCLK0, 64-bit mode of the HP ports)
    is configured by its boot loader or by the driver, not by the bitstream.

    Parameters
    ----------
    accelerator : Component
        With members ``axil : In(AxiLiteSignature(n, 32))`` for its registers, one or more of
        ``hp0``...``hp3 : Out(Axi3Signature(32, 64, 6))`` to memory and ``irq : Out(1)``, which
        becomes shared interrupt :data:`IRQ`.
    clock_hz : int
        Frequency that FCLK0 is constrained to.
    base : int
        Address of the accelerator's registers, within GP0's gigabyte.

    Raises
    ------
    ValueError
        For a clock that is not positive, a base outside GP0, an accelerator port of other width.
    TypeError
        On elaboration for a platform without a PS7; simulate the accelerator instead.
    """

    def __init__(self, accelerator: wiring.Component, clock_hz: int, base: int = GP_BASE) -> None:
        if clock_hz <= 0:
            raise ValueError(f"clock_hz must be positive, not {clock_hz!r}")
        if not GP_BASE <= base < GP_BASE + GP_SIZE:
            raise ValueError(
                f"base must be within GP0, {GP_BASE:#x}..{GP_BASE + GP_SIZE - 1:#x}, not {base:#x}"
            )
        self._ports = [port for port in HP_PORTS if hasattr(accelerator, port)]
        for port in self._ports:
            for name, expected in (("rdata", HP_DATA_BITS), ("rid", HP_ID_BITS)):
                width = len(getattr(getattr(accelerator, port), name))
                if width != expected:
                    raise ValueError(f"{port}.{name} must be {expected} bits wide, not {width}")
        if len(accelerator.axil.rdata) != 32:
            raise ValueError(f"axil.rdata must be 32 bits wide, not {len(accelerator.axil.rdata)}")
        self._accelerator = accelerator
        self._clock_hz = clock_hz
        self._base = base

    def elaborate(self, platform: object) -> Module:
        if not isinstance(platform, XilinxPlatform):
            raise TypeError(f"Zynq7Top needs the platform of a Zynq-7000 board, not {platform!r}")
        m = Module()
        m.submodules.accelerator = accelerator = self._accelerator
        m.submodules.bridge = bridge = Axi3ToLite(
            addr_bits=len(accelerator.axil.araddr), base=self._base
        )
        wiring.connect(m, bridge.lite, accelerator.axil)

        m.domains.sync = sync = ClockDomain()
        fclk = Signal(4)
        fclk_reset_n = Signal(4)
        m.submodules.clock_buffer = Instance("BUFG", i_I=fclk[0], o_O=sync.clk)
        m.submodules.reset = cdc.ResetSynchronizer(~fclk_reset_n[0], domain="sync")
        # Not add_clock_constraint(sync.clk): that names the net by a port of some submodule, which
        # is gone when Vivado dissolves that one. A pin of a primitive keeps its name.
        platform.add_file("ps7.xdc", constraints(self._clock_hz))

        m.submodules.ps7 = Instance(
            "PS7",
            # No net of this design ends at a pin of the package: keep it from being optimised away.
            a_DONT_TOUCH="true",
            o_FCLKCLK=fclk,
            o_FCLKRESETN=fclk_reset_n,
            i_IRQF2P=Cat(accelerator.irq, C(0, 19)),
            i_MAXIGP0ACLK=sync.clk,
            **_pins("MAXIGP0", bridge.axi3, inputs=_FROM_SLAVE, outputs=_FROM_MASTER),
            **self._hp_pins(sync.clk),
        )
        return m

    def _hp_pins(self, clk: Signal) -> dict[str, Value]:
        """Keywords for ``Instance`` of all HP ports that the accelerator has."""
        pins = {}
        for port in self._ports:
            prefix = f"SAXI{port.upper()}"
            pins |= {
                f"i_{prefix}ACLK": clk,
                f"i_{prefix}RDISSUECAP1EN": C(0, 1),
                f"i_{prefix}WRISSUECAP1EN": C(0, 1),
                **_pins(
                    prefix,
                    getattr(self._accelerator, port),
                    inputs=_FROM_MASTER,
                    outputs=_FROM_SLAVE,
                ),
            }
        return pins


def _pins(port: str, axi3, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> dict[str, Value]:
    """Keywords for ``Instance`` that join the PS7 pins of ``port`` to an AXI3 interface."""

    def pin(name: str) -> Value:
        value = getattr(axi3, name)
        return value[:_SIZE_BITS] if name.endswith("size") else value

    return {f"i_{port}{name.upper()}": pin(name) for name in inputs} | {
        f"o_{port}{name.upper()}": pin(name) for name in outputs
    }
