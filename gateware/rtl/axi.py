# SPDX-License-Identifier: Apache-2.0
"""AXI signatures as the Zynq-7000 speaks them.

The members carry the plain AXI names, so a port called ``hp0`` becomes ``hp0__awaddr`` and so on in
Verilog. All signatures are seen from the master.
"""

import enum

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

BURST_BEATS = 16  #: longest burst of AXI3
BOUNDARY = 4096  #: bytes; no burst may cross a multiple of this


class Resp(enum.IntEnum):
    """Response codes of the R and B channels."""

    OKAY = 0
    EXOKAY = 1  #: exclusive access done; nobody here asks for one
    SLVERR = 2  #: the slave refuses
    DECERR = 3  #: there is no slave at this address


class Burst(enum.IntEnum):
    """Kinds of bursts: how the address moves within one."""

    FIXED = 0
    INCR = 1
    WRAP = 2


def check_width(name: str, value: int, low: int, high: int) -> None:
    """Range check of a parameter: ValueError naming ``name`` unless ``value`` is an integer in
    ``low..high``."""
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in {low}..{high}, not {value!r}")


class AxiLiteSignature(wiring.Signature):
    """Signature of AXI4-Lite, seen from the master.

    Parameters
    ----------
    addr_bits : int
        Width of ``awaddr`` and ``araddr``, 1 to 64.
    data_bits : int
        Width of ``wdata`` and ``rdata``: 32 or 64.

    Members
    -------
    awaddr, awprot, awvalid, awready : Out, Out, Out, In
        Write address channel.
    wdata, wstrb, wvalid, wready : Out, Out, Out, In
        Write data channel.
    bresp, bvalid, bready : In, In, Out
        Write response channel.
    araddr, arprot, arvalid, arready : Out, Out, Out, In
        Read address channel.
    rdata, rresp, rvalid, rready : In, In, In, Out
        Read data channel.

    Raises
    ------
    ValueError
        For a width out of range.
    """

    def __init__(self, addr_bits: int, data_bits: int) -> None:
        check_width("addr_bits", addr_bits, 1, 64)
        if data_bits not in (32, 64):
            raise ValueError(f"data_bits must be 32 or 64, not {data_bits!r}")
        self.addr_bits = addr_bits
        self.data_bits = data_bits
        super().__init__(
            {
                "awaddr": Out(addr_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(addr_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(data_bits),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AxiLiteSignature) and (self.addr_bits, self.data_bits) == (
            other.addr_bits,
            other.data_bits,
        )

    def __repr__(self) -> str:
        return f"AxiLiteSignature({self.addr_bits}, {self.data_bits})"


class Axi3Signature(wiring.Signature):
    """Signature of AXI3 as on the ports of a Zynq-7000, seen from the master.

    Differs from AXI4 by a 4-bit length (bursts of at most 16 beats), a 2-bit lock and ``wid``.

    Parameters
    ----------
    addr_bits : int
        Width of ``awaddr`` and ``araddr``, 12 to 64.
    data_bits : int
        Width of ``wdata`` and ``rdata``: 32 or 64.
    id_bits : int
        Width of every id: 6 on a 64-bit HP port, 12 on GP0.

    Members
    -------
    awid, awaddr, awlen, awsize, awburst, awlock, awcache, awprot, awqos, awvalid : Out
        Write address channel, with ``awready`` In.
    wid, wdata, wstrb, wlast, wvalid : Out
        Write data channel, with ``wready`` In.
    bid, bresp, bvalid : In
        Write response channel, with ``bready`` Out.
    arid, araddr, arlen, arsize, arburst, arlock, arcache, arprot, arqos, arvalid : Out
        Read address channel, with ``arready`` In.
    rid, rdata, rresp, rlast, rvalid : In
        Read data channel, with ``rready`` Out.

    Raises
    ------
    ValueError
        For a width out of range.
    """

    def __init__(self, addr_bits: int, data_bits: int, id_bits: int) -> None:
        check_width("addr_bits", addr_bits, 12, 64)
        check_width("id_bits", id_bits, 1, 16)
        if data_bits not in (32, 64):
            raise ValueError(f"data_bits must be 32 or 64, not {data_bits!r}")
        self.addr_bits = addr_bits
        self.data_bits = data_bits
        self.id_bits = id_bits
        address = {
            "id": id_bits,
            "addr": addr_bits,
            "len": 4,
            "size": 3,
            "burst": 2,
            "lock": 2,
            "cache": 4,
            "prot": 3,
            "qos": 4,
            "valid": 1,
        }
        members = {
            f"{channel}{name}": Out(width)
            for channel in ("aw", "ar")
            for name, width in address.items()
        }
        super().__init__(
            members
            | {
                "awready": In(1),
                "arready": In(1),
                "wid": Out(id_bits),
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(id_bits),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "rid": In(id_bits),
                "rdata": In(data_bits),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Axi3Signature) and (
            self.addr_bits,
            self.data_bits,
            self.id_bits,
        ) == (other.addr_bits, other.data_bits, other.id_bits)

    def __repr__(self) -> str:
        return f"Axi3Signature({self.addr_bits}, {self.data_bits}, {self.id_bits})"
