# SPDX-License-Identifier: Apache-2.0
"""Top of the accelerator: registers, sequencer, bus ports, buffers and the tile engine."""

import dataclasses

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.registers import WINDOW_BITS
from gateware.pe.broadcast import copies
from gateware.rtl.axi import Axi3Signature, AxiLiteSignature
from gateware.rtl.buffers import READ_CYCLES, ActBuffer, BeatBuffer, RawBuffer
from gateware.rtl.control import Sequencer
from gateware.rtl.decode import BUFFERS
from gateware.rtl.dma import ReadDma
from gateware.rtl.dma_port import DmaPort
from gateware.rtl.drain import GATHERED_PER_COPY, LANES_CYCLES
from gateware.rtl.engine import TileEngine
from gateware.rtl.fetch import Fetcher
from gateware.rtl.loader import Loader
from gateware.rtl.read_share import ReadShare
from gateware.rtl.register_file import RegisterFile
from gateware.rtl.storer import Storer

ID_BITS = 6  #: AXI identifiers of a Zynq-7000 HP port


def hp_ports(config: AccelConfig) -> list[str]:
    """Memory ports by name, ``hp0`` first."""
    return [f"hp{p}" for p in range(config.ports)]


def accelerator_signature(config: AccelConfig) -> wiring.Signature:
    """Signature of an accelerator: registers ``axil``, a memory port for each of
    :func:`hp_ports`, and ``irq``; widths as :class:`Accelerator` has them."""
    memory_port = Out(Axi3Signature(32, config.bus_bits, ID_BITS))
    return wiring.Signature(
        {
            "axil": In(AxiLiteSignature(WINDOW_BITS, 32)),
            **dict.fromkeys(hp_ports(config), memory_port),
            "irq": Out(1),
        }
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Units:
    """Units of an accelerator."""

    regs: RegisterFile
    sequencer: Sequencer
    act: ActBuffer
    weights: BeatBuffer
    slots: BeatBuffer
    wide: RawBuffer
    loader: Loader
    storer: Storer
    engine: TileEngine
    fetcher: Fetcher
    share: ReadShare


class Accelerator(wiring.Component):
    """Accelerator as a whole: the host writes the registers of :mod:`gateware.arch.registers`,
    programs of :mod:`gateware.arch.isa` descriptors are fetched from memory and executed.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    axil : In(AxiLiteSignature(12, 32))
        Registers.
    hp0, hp1... : Out(Axi3Signature(32, bus_bits, 6))
        Memory, as many as the configuration has ports. All but the first only read.
    irq : Out(1)
        High while an enabled interrupt is pending.

    Latency: that of a program, which :mod:`gateware.model.timeline` estimates in cycles.

    Throughput: one word per cycle, ``config.macs_per_cycle`` products, while nothing is waited for.

    Raises
    ------
    ValueError
        On elaboration for an array whose shape the registers cannot name.
    """

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        super().__init__(accelerator_signature(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        units = self._units(m)
        self._connect_host(m, units)
        self._connect_queues(m, units)
        first = self._connect_first_port(m, units)
        self._connect_other_ports(m, units, first)
        self._connect_activations(m, units)
        self._connect_constants(m, units)
        self._connect_raw_outputs(m, units)
        return m

    def _units(self, m: Module) -> _Units:
        """All units; the sequencer resets those that work for it between two runs."""
        config = self.config
        m.submodules.regs = regs = RegisterFile(config)
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.act = act = ActBuffer(config)
        m.submodules.weights = weights = BeatBuffer(
            beats=config.weight_beats,
            bus_bits=config.bus_bits,
            depth=config.weight_depth,
            ports=config.ports,
        )
        m.submodules.slots = slots = BeatBuffer(
            beats=isa.slot_beats(config),
            bus_bits=config.bus_bits,
            depth=config.slot_depth,
            ports=config.ports,
            distributed=True,
            late_bits=isa.slot_layout(config)["lanes"].width,
            late_cycles=LANES_CYCLES - READ_CYCLES,
        )
        m.submodules.wide = wide = RawBuffer(config)
        loader, storer, engine = Loader(config), Storer(config), TileEngine(config)
        fetcher, share = Fetcher(config), ReadShare(config.bus_bits)
        working = {
            "loader": loader,
            "storer": storer,
            "engine": engine,
            "fetcher": fetcher,
            "share": share,
        }
        # A copy for each, a cycle later: the sequencer holds it for two cycles at least.
        resets = copies(m, sequencer.reset_units, len(working), "reset")
        for (name, unit), reset in zip(working.items(), resets, strict=True):
            m.submodules[name] = ResetInserter(reset)(unit)
        return _Units(
            regs=regs,
            sequencer=sequencer,
            act=act,
            weights=weights,
            slots=slots,
            wide=wide,
            loader=loader,
            storer=storer,
            engine=engine,
            fetcher=fetcher,
            share=share,
        )

    def _connect_host(self, m: Module, units: _Units) -> None:
        """Registers, run control and counters."""
        regs, sequencer, engine = units.regs, units.sequencer, units.engine
        connect(m, flipped(self.axil), regs.axil)
        m.d.comb += [
            self.irq.eq(regs.irq),
            sequencer.start.eq(regs.start),
            sequencer.abort.eq(regs.abort),
            sequencer.watchdog.eq(regs.watchdog),
            *(sequencer.bases[name].eq(getattr(regs, f"{name}_base")) for name, _ in BUFFERS),
            *(sequencer.sizes[name].eq(getattr(regs, f"{name}_size")) for name, _ in BUFFERS),
            regs.busy.eq(sequencer.busy),
            regs.done.eq(sequencer.finished),
            regs.failed.eq(sequencer.failed),
            regs.error_code.eq(sequencer.error_code),
            regs.descriptor_index.eq(sequencer.descriptor_index),
            regs.count.array_cycles.eq(engine.issued),
            regs.count.stall_drain.eq(engine.stalled),
            *(
                regs.count[f"stall_{cause}"].eq(sequencer.cause[cause])
                for cause in ("load", "execute", "store", "fetch")
            ),
            regs.count.descriptors.eq(sequencer.dispatched),
        ]

    def _connect_queues(self, m: Module, units: _Units) -> None:
        """Descriptors from the fetcher to the units that carry them out."""
        sequencer, fetcher, engine = units.sequencer, units.fetcher, units.engine
        connect(m, fetcher.descriptor, sequencer.descriptor)
        connect(m, sequencer.load, units.loader.job)
        connect(m, sequencer.store, units.storer.job)
        connect(m, sequencer.execute, engine.execute)
        m.d.comb += [
            fetcher.address.eq(units.regs.program_base),
            fetcher.size.eq(units.regs.program_size),
            fetcher.start.eq(sequencer.fetch_start),
            fetcher.halt.eq(sequencer.fetch_halt),
            sequencer.fetch_owns.eq(~units.share.owner),
            sequencer.array_idle.eq(~engine.issued & ~engine.stalled),
            sequencer.load_completed.eq(units.loader.completed),
            sequencer.store_completed.eq(units.storer.completed),
            sequencer.execute_completed.eq(engine.completed),
        ]

    @property
    def _bus_sizes(self) -> dict[str, int]:
        return {"data_bits": self.config.bus_bits, "id_bits": ID_BITS}

    def _connect_first_port(self, m: Module, units: _Units) -> DmaPort:
        """The first port fetches, loads and stores."""
        loader, storer, share = units.loader, units.storer, units.share
        m.submodules.dma_0 = first = DmaPort(**self._bus_sizes)
        connect(m, first.axi, flipped(self.hp0))
        connect(m, units.fetcher.command, share.commands[0])
        connect(m, loader.commands[0], share.commands[1])
        connect(m, share.data[0], units.fetcher.beats)
        connect(m, share.data[1], loader.beats[0])
        connect(m, share.command, first.read_command)
        connect(m, first.read_data, share.beats)
        connect(m, storer.command, first.write_command)
        connect(m, storer.beats, first.write_data)
        m.d.comb += [
            first.flush.eq(units.sequencer.flush),
            storer.write_idle.eq(first.write_idle),
            units.sequencer.write_error.eq(first.write_error),
            units.regs.count.write_beats.eq(first.write_beats),
        ]
        return first

    def _connect_other_ports(self, m: Module, units: _Units, first: DmaPort) -> None:
        """The other ports load; all of them together are idle, or have an error."""
        sequencer, loader = units.sequencer, units.loader
        others = []
        for p, name in enumerate(hp_ports(self.config)):
            if p == 0:
                continue
            m.submodules[f"dma_{p}"] = dma = ReadDma(**self._bus_sizes)
            connect(m, dma.axi, flipped(getattr(self, name)))
            connect(m, loader.commands[p], dma.command)
            connect(m, dma.data, loader.beats[p])
            m.d.comb += dma.flush.eq(sequencer.flush)
            others.append(dma)
        m.d.comb += [
            sequencer.bus_idle.eq(Cat(first.idle, *(dma.idle for dma in others)).all()),
            sequencer.read_error.eq(Cat(first.read_error, *(dma.error for dma in others)).any()),
            units.regs.count.read_beats.eq(sum((dma.beat for dma in others), first.read_beats)),
        ]

    def _connect_activations(self, m: Module, units: _Units) -> None:
        """The engine is never made to wait; loads and stores take the ports that it leaves."""
        config = self.config
        act, loader, storer, engine = units.act, units.loader, units.storer, units.engine
        pixel_bits = ceil_log2(config.drain_pixels)
        asked = storer.gather.p.bank[pixel_bits:]
        writes_there = (
            engine.writing & (engine.write_bank[pixel_bits:] == asked)
            if config.act_copies == 1
            else 0
        )
        m.d.comb += [
            act.read_address.eq(engine.read_address),
            engine.read_data.eq(act.read_data),
            act.gather_bank.eq(Mux(engine.gathering, engine.gather_bank, storer.gather.p.bank)),
            act.gather_single.eq(engine.gather_single | ~engine.gathering),
            engine.gather_data.eq(act.gather_data),
            storer.gather_data.eq(act.gather_data[0]),
            act.gather_enable.eq(engine.gathering | storer.gather.valid),
            storer.gather.ready.eq(~(engine.gathering | writes_there)),
            act.write_bank.eq(engine.write_bank),
            act.writing.eq(engine.writing),
            act.write_enable.eq(engine.write_enable),
            act.write_pixels.eq(engine.write_pixels),
            act.write_address.eq(engine.write_address),
            act.write_data.eq(engine.write_data),
        ]
        connect(m, loader.act, act.load)
        for column in range(config.k):
            gathering = engine.gathering_copies[column // GATHERED_PER_COPY]
            m.d.comb += act.gather_address[column].eq(
                Mux(gathering, engine.gather_address[column], storer.gather.p.address)
            )

    def _connect_constants(self, m: Module, units: _Units) -> None:
        """Weights, slots and tables, from the loader to the engine."""
        loader, engine = units.loader, units.engine
        for buffer, fills, address, source in (
            (units.weights, loader.weights, engine.weight_address, engine.weights),
            (units.slots, loader.slots, engine.slot_address, engine.slot),
        ):
            for fill, port in zip(fills, buffer.fill, strict=True):
                connect(m, fill, port)
            m.d.comb += [
                buffer.read_address.eq(address),
                Value.cast(source).eq(buffer.read_data),
            ]
        if self.config.tables:
            connect(m, loader.table, engine.table)

    def _connect_raw_outputs(self, m: Module, units: _Units) -> None:
        """Raw outputs, from the engine to the storer."""
        wide, storer, engine = units.wide, units.storer, units.engine
        m.d.comb += [
            wide.read_address.eq(storer.wide_address),
            storer.wide_data.eq(wide.read_data),
            wide.write_address.eq(engine.wide_address),
            wide.write_data.eq(engine.wide_data),
            wide.write_enable.eq(engine.wide_enable),
        ]
