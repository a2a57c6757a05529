# SPDX-License-Identifier: Apache-2.0
"""Bridge from the GP0 master of a Zynq-7000 to AXI4-Lite."""

import dataclasses

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gateware.rtl.axi import Axi3Signature, AxiLiteSignature, Burst, Resp, check_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Burst:
    """The burst in hand, and its current access."""

    id_: Signal
    address: Signal
    beats_left: Signal
    size: Signal
    prot: Signal
    moving: Signal  # address bits that change within the burst
    resp: Signal
    data: Signal
    strobe: Signal
    write_next: Signal  # writes are next when reads wait as well
    address_done: Signal
    data_done: Signal
    next_address: Value
    inside: Value  # the window
    last: Value


class Axi3ToLite(wiring.Component):
    """Bridge from the GP0 master of a Zynq-7000 (AXI3, 32 bits) to an AXI4-Lite slave.

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

    Throughput: a beat takes three cycles to read and four to write, a burst one more to read and
    two to write, and those that slave or master let it wait.

    Raises
    ------
    ValueError
        For an address width out of range or a base that is not aligned to the window.
    """

    def __init__(self, addr_bits: int = 12, base: int = 0x4000_0000) -> None:
        check_width("addr_bits", addr_bits, 3, 32)
        check_width("base", base, 0, (1 << 32) - 1)
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

    def elaborate(self, platform: object) -> Module:
        m = Module()
        burst = self._burst()
        self._drive_channels(m, burst)
        with m.FSM():
            with m.State("Idle"):
                self._accept(m, burst)
            self._read_states(m, burst)
            self._write_states(m, burst)
        return m

    def _burst(self) -> _Burst:
        id_ = Signal(12)
        address = Signal(32)
        beats_left = Signal(4)
        size = Signal(3)
        prot = Signal(3)
        moving = Signal(32)
        resp = Signal(2)
        data = Signal(32)
        strobe = Signal(4)
        write_next = Signal()
        address_done = Signal()
        data_done = Signal()
        return _Burst(
            id_=id_,
            address=address,
            beats_left=beats_left,
            size=size,
            prot=prot,
            moving=moving,
            resp=resp,
            data=data,
            strobe=strobe,
            write_next=write_next,
            address_done=address_done,
            data_done=data_done,
            next_address=(address & ~moving) | ((address + (1 << size)) & moving),
            inside=address[self._addr_bits :] == self._base >> self._addr_bits,
            last=beats_left == 0,
        )

    def _drive_channels(self, m: Module, burst: _Burst) -> None:
        """Everything but valid and ready, combinational."""
        axi3, lite = self.axi3, self.lite
        m.d.comb += [
            axi3.rid.eq(burst.id_),
            axi3.rdata.eq(burst.data),
            axi3.rresp.eq(burst.resp),
            axi3.rlast.eq(burst.last),
            axi3.bid.eq(burst.id_),
            axi3.bresp.eq(burst.resp),
            lite.araddr.eq(burst.address),
            lite.arprot.eq(burst.prot),
            lite.awaddr.eq(burst.address),
            lite.awprot.eq(burst.prot),
            lite.wdata.eq(burst.data),
            lite.wstrb.eq(burst.strobe),
        ]

    def _accept(self, m: Module, burst: _Burst) -> None:
        """State Idle: take a burst, reads and writes in turn when both wait."""
        axi3, write_next = self.axi3, burst.write_next
        with m.If(axi3.arvalid & ~(axi3.awvalid & write_next)):
            m.d.comb += axi3.arready.eq(1)
            self._latch(m, "ar", burst)
            m.d.sync += write_next.eq(1)
            m.next = "Read-Address"
        with m.Elif(axi3.awvalid):
            m.d.comb += axi3.awready.eq(1)
            self._latch(m, "aw", burst)
            m.d.sync += write_next.eq(0)
            m.next = "Write-Data"

    def _latch(self, m: Module, channel: str, burst: _Burst) -> None:
        """Keep what an address channel says, ``ar`` or ``aw``."""

        def port(name: str) -> Signal:
            return getattr(self.axi3, channel + name)

        kind = port("burst")
        wrap = ((port("len") + 1) << port("size")) - 1
        m.d.sync += [
            burst.id_.eq(port("id")),
            burst.address.eq(port("addr")),
            burst.beats_left.eq(port("len")),
            burst.size.eq(port("size")),
            burst.prot.eq(port("prot")),
            burst.moving.eq(Mux(kind == Burst.FIXED, 0, Mux(kind == Burst.WRAP, wrap, ~0))),
            burst.resp.eq(Resp.OKAY),
            burst.address_done.eq(0),
            burst.data_done.eq(0),
        ]

    def _read_states(self, m: Module, burst: _Burst) -> None:
        """For each beat: address, data, answer to the master."""
        axi3, lite = self.axi3, self.lite
        with m.State("Read-Address"):
            with m.If(~burst.inside):
                m.d.sync += [burst.data.eq(0), burst.resp.eq(Resp.DECERR)]
                m.next = "Read-Beat"
            with m.Else():
                m.d.comb += lite.arvalid.eq(1)
                with m.If(lite.arready):
                    m.next = "Read-Data"
        with m.State("Read-Data"):
            m.d.comb += lite.rready.eq(1)
            with m.If(lite.rvalid):
                m.d.sync += [burst.data.eq(lite.rdata), burst.resp.eq(lite.rresp)]
                m.next = "Read-Beat"
        with m.State("Read-Beat"):
            m.d.comb += axi3.rvalid.eq(1)
            with m.If(axi3.rready):
                m.d.sync += [
                    burst.address.eq(burst.next_address),
                    burst.beats_left.eq(burst.beats_left - 1),
                ]
                m.next = "Read-Address"
                with m.If(burst.last):
                    m.next = "Idle"

    def _write_states(self, m: Module, burst: _Burst) -> None:
        """For each beat: data from the master, access, response; one answer for the burst."""
        axi3 = self.axi3
        with m.State("Write-Data"):
            m.d.comb += axi3.wready.eq(1)
            with m.If(axi3.wvalid):
                m.d.sync += [burst.data.eq(axi3.wdata), burst.strobe.eq(axi3.wstrb)]
                m.next = "Write-Access"
        with m.State("Write-Access"):
            self._write_access(m, burst)
        with m.State("Write-Response"):
            m.d.comb += self.lite.bready.eq(1)
            with m.If(self.lite.bvalid):
                with m.If(burst.resp == Resp.OKAY):
                    m.d.sync += burst.resp.eq(self.lite.bresp)
                m.next = "Write-Next"
        with m.State("Write-Next"):
            m.d.sync += [
                burst.address.eq(burst.next_address),
                burst.beats_left.eq(burst.beats_left - 1),
                burst.address_done.eq(0),
                burst.data_done.eq(0),
            ]
            m.next = "Write-Data"
            with m.If(burst.last):
                m.next = "Write-Done"
        with m.State("Write-Done"):
            m.d.comb += axi3.bvalid.eq(1)
            with m.If(axi3.bready):
                m.next = "Idle"

    def _write_access(self, m: Module, burst: _Burst) -> None:
        """State Write-Access: address and data to the slave, each as soon as it is ready."""
        lite, address_done, data_done = self.lite, burst.address_done, burst.data_done
        with m.If(~burst.inside):
            with m.If(burst.resp == Resp.OKAY):
                m.d.sync += burst.resp.eq(Resp.DECERR)
            m.next = "Write-Next"
        with m.Else():
            m.d.comb += [lite.awvalid.eq(~address_done), lite.wvalid.eq(~data_done)]
            with m.If(lite.awready):
                m.d.sync += address_done.eq(1)
            with m.If(lite.wready):
                m.d.sync += data_done.eq(1)
            with m.If((address_done | lite.awready) & (data_done | lite.wready)):
                m.next = "Write-Response"
