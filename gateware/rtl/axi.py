# SPDX-License-Identifier: Apache-2.0
"""AXI signatures as the Zynq-7000 speaks them, and the bridge from GP0 to AXI4-Lite.

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
    """How the address moves within a burst."""

    FIXED = 0
    INCR = 1
    WRAP = 2


def _check_width(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in {low}..{high}, not {value!r}")


class AxiLiteSignature(wiring.Signature):
    """AXI4-Lite, seen from the master.

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
        _check_width("addr_bits", addr_bits, 1, 64)
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
    """AXI3 as on the ports of a Zynq-7000, seen from the master.

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
        _check_width("addr_bits", addr_bits, 12, 64)
        _check_width("id_bits", id_bits, 1, 16)
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


class Axi3ToLite(wiring.Component):
    """Lets the GP0 master of a Zynq-7000 (AXI3, 32 bits) reach an AXI4-Lite slave.

    One access at a time, reads and writes in turn when both wait. A burst is split into single
    accesses, beat by beat (the processor emits bursts for wide loads from device memory), and a
    write burst answers with the first response that is not OKAY. Beats outside the window
    ``base .. base + 2**addr_bits`` are answered DECERR and never reach the slave. The length is
    taken from the address channel, ``wlast`` and ``wid`` are not looked at.

    Parameters
    ----------
    addr_bits : int
        Address width of the slave.
    base : int
        Where the window lies in the processor's address space; a multiple of its size.

    Members
    -------
    axi3 : In(Axi3Signature(32, 32, 12))
        From the processor. Ids are reflected.
    lite : Out(AxiLiteSignature(addr_bits, 32))
        To the slave.

    Raises
    ------
    ValueError
        For an address width out of range or a base that is not aligned to the window.
    """

    def __init__(self, addr_bits: int = 12, base: int = 0x4000_0000) -> None:
        _check_width("addr_bits", addr_bits, 3, 32)
        _check_width("base", base, 0, (1 << 32) - 1)
        if base % (1 << addr_bits):
            raise ValueError(f"base must be a multiple of {1 << addr_bits:#x}, not {base:#x}")
        self._addr_bits = addr_bits
        self._base = base
        super().__init__(
            {
                "axi3": In(Axi3Signature(32, 32, 12)),
                "lite": Out(AxiLiteSignature(addr_bits, 32)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        axi3, lite = self.axi3, self.lite

        id_ = Signal(12)
        address = Signal(32)
        beats_left = Signal(4)
        size = Signal(3)
        prot = Signal(3)
        moving = Signal(32)  # address bits that change within the burst
        resp = Signal(2)
        data = Signal(32)
        strobe = Signal(4)
        write_next = Signal()
        address_done = Signal()
        data_done = Signal()

        def latch(channel: str) -> list:
            length, width = getattr(axi3, f"{channel}len"), getattr(axi3, f"{channel}size")
            burst = getattr(axi3, f"{channel}burst")
            wrap = ((length + 1) << width) - 1
            return [
                id_.eq(getattr(axi3, f"{channel}id")),
                address.eq(getattr(axi3, f"{channel}addr")),
                beats_left.eq(length),
                size.eq(width),
                prot.eq(getattr(axi3, f"{channel}prot")),
                moving.eq(Mux(burst == Burst.FIXED, 0, Mux(burst == Burst.WRAP, wrap, ~0))),
                resp.eq(Resp.OKAY),
                address_done.eq(0),
                data_done.eq(0),
            ]

        next_address = (address & ~moving) | ((address + (1 << size)) & moving)
        inside = address[self._addr_bits :] == self._base >> self._addr_bits
        last = beats_left == 0

        m.d.comb += [
            axi3.rid.eq(id_),
            axi3.rdata.eq(data),
            axi3.rresp.eq(resp),
            axi3.rlast.eq(last),
            axi3.bid.eq(id_),
            axi3.bresp.eq(resp),
            lite.araddr.eq(address),
            lite.arprot.eq(prot),
            lite.awaddr.eq(address),
            lite.awprot.eq(prot),
            lite.wdata.eq(data),
            lite.wstrb.eq(strobe),
        ]

        with m.FSM():
            with m.State("Idle"):
                with m.If(axi3.arvalid & ~(axi3.awvalid & write_next)):
                    m.d.comb += axi3.arready.eq(1)
                    m.d.sync += [*latch("ar"), write_next.eq(1)]
                    m.next = "Read-Address"
                with m.Elif(axi3.awvalid):
                    m.d.comb += axi3.awready.eq(1)
                    m.d.sync += [*latch("aw"), write_next.eq(0)]
                    m.next = "Write-Data"

            with m.State("Read-Address"):
                with m.If(~inside):
                    m.d.sync += [data.eq(0), resp.eq(Resp.DECERR)]
                    m.next = "Read-Beat"
                with m.Else():
                    m.d.comb += lite.arvalid.eq(1)
                    with m.If(lite.arready):
                        m.next = "Read-Data"
            with m.State("Read-Data"):
                m.d.comb += lite.rready.eq(1)
                with m.If(lite.rvalid):
                    m.d.sync += [data.eq(lite.rdata), resp.eq(lite.rresp)]
                    m.next = "Read-Beat"
            with m.State("Read-Beat"):
                m.d.comb += axi3.rvalid.eq(1)
                with m.If(axi3.rready):
                    m.d.sync += [address.eq(next_address), beats_left.eq(beats_left - 1)]
                    m.next = "Read-Address"
                    with m.If(last):
                        m.next = "Idle"

            with m.State("Write-Data"):
                m.d.comb += axi3.wready.eq(1)
                with m.If(axi3.wvalid):
                    m.d.sync += [data.eq(axi3.wdata), strobe.eq(axi3.wstrb)]
                    m.next = "Write-Access"
            with m.State("Write-Access"):
                with m.If(~inside):
                    with m.If(resp == Resp.OKAY):
                        m.d.sync += resp.eq(Resp.DECERR)
                    m.next = "Write-Next"
                with m.Else():
                    m.d.comb += [lite.awvalid.eq(~address_done), lite.wvalid.eq(~data_done)]
                    with m.If(lite.awready):
                        m.d.sync += address_done.eq(1)
                    with m.If(lite.wready):
                        m.d.sync += data_done.eq(1)
                    with m.If((address_done | lite.awready) & (data_done | lite.wready)):
                        m.next = "Write-Response"
            with m.State("Write-Response"):
                m.d.comb += lite.bready.eq(1)
                with m.If(lite.bvalid):
                    with m.If(resp == Resp.OKAY):
                        m.d.sync += resp.eq(lite.bresp)
                    m.next = "Write-Next"
            with m.State("Write-Next"):
                m.d.sync += [
                    address.eq(next_address),
                    beats_left.eq(beats_left - 1),
                    address_done.eq(0),
                    data_done.eq(0),
                ]
                m.next = "Write-Data"
                with m.If(last):
                    m.next = "Write-Done"
            with m.State("Write-Done"):
                m.d.comb += axi3.bvalid.eq(1)
                with m.If(axi3.bready):
                    m.next = "Idle"

        return m
