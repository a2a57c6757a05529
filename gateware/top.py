# SPDX-License-Identifier: Apache-2.0
"""The accelerator: registers, sequencer, bus port, buffers and the tile engine."""

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from gateware import isa
from gateware.axi import Axi3Signature, AxiLiteSignature
from gateware.buffers import ActBuffer, BeatBuffer
from gateware.config import AccelConfig
from gateware.control import Sequencer
from gateware.dma import DmaPort
from gateware.engine import TileEngine
from gateware.regs import WINDOW_BITS, RegisterFile
from gateware.transfer import Loader, Storer
from quant.numerics import BIAS_BITS

ID_BITS = 6   #: AXI identifiers of a Zynq-7000 HP port


def accelerator_signature(config: AccelConfig) -> wiring.Signature:
    """The ports of an accelerator: registers, memory, interrupt."""
    return wiring.Signature({
        "axil": In(AxiLiteSignature(WINDOW_BITS, 32)),
        "hp0": Out(Axi3Signature(32, config.bus_bits, ID_BITS)),
        "irq": Out(1),
    })


class Accelerator(wiring.Component):
    """A whole accelerator. The host writes the registers of :mod:`gateware.regs`; programs of
    :mod:`gateware.isa` descriptors are fetched from memory and executed.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    axil : In(AxiLiteSignature(12, 32))
        Registers.
    hp0 : Out(Axi3Signature(32, bus_bits, 6))
        Memory.
    irq : Out(1)
        High while an enabled interrupt is pending.
    """

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        super().__init__(accelerator_signature(config))

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.regs = regs = RegisterFile(config)
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.dma = dma = DmaPort(data_bits=config.bus_bits, id_bits=ID_BITS)
        m.submodules.act = act = ActBuffer(config)
        m.submodules.weights = weights = BeatBuffer(
            beats=config.weight_beats, bus_bits=config.bus_bits, depth=config.weight_depth)
        m.submodules.slots = slots = BeatBuffer(
            beats=isa.slot_beats(config), bus_bits=config.bus_bits, depth=config.slot_depth)
        m.submodules.wide = wide = memory.Memory(
            shape=signed(BIAS_BITS), depth=config.wide_depth, init=[])
        loader, storer, engine = Loader(config), Storer(config), TileEngine(config)
        reset = ResetInserter(sequencer.reset_units)
        m.submodules.loader = reset(loader)
        m.submodules.storer = reset(storer)
        m.submodules.engine = reset(engine)

        # Host and run control.
        connect(m, flipped(self.axil), regs.axil)
        m.d.comb += [
            self.irq.eq(regs.irq),
            sequencer.start.eq(regs.start),
            sequencer.abort.eq(regs.abort),
            sequencer.watchdog.eq(regs.watchdog),
            sequencer.program_base.eq(regs.program_base),
            sequencer.input_base.eq(regs.input_base),
            sequencer.output_base.eq(regs.output_base),
            regs.busy.eq(sequencer.busy),
            regs.done.eq(sequencer.finished),
            regs.failed.eq(sequencer.failed),
            regs.error_code.eq(sequencer.error_code),
            regs.descriptor_index.eq(sequencer.descriptor_index),
            regs.count.array_cycles.eq(engine.issued),
            regs.count.stall_drain.eq(engine.stalled),
            regs.count.stall_load.eq(sequencer.transferring),
            regs.count.read_beats.eq(dma.read_beats),
            regs.count.write_beats.eq(dma.write_beats),
            regs.count.descriptors.eq(sequencer.executed),
        ]

        # Bus: read data goes to the sequencer while it fetches, to the loader otherwise.
        connect(m, dma.axi, flipped(self.hp0))
        connect(m, sequencer.read_command, dma.read_command)
        connect(m, sequencer.write_command, dma.write_command)
        connect(m, storer.beats, dma.write_data)
        m.d.comb += [
            sequencer.fetched.payload.eq(dma.read_data.payload),
            loader.beats.payload.eq(dma.read_data.payload),
            sequencer.fetched.valid.eq(dma.read_data.valid & sequencer.fetching),
            loader.beats.valid.eq(dma.read_data.valid & ~sequencer.fetching),
            dma.read_data.ready.eq(
                Mux(sequencer.fetching, sequencer.fetched.ready, loader.beats.ready)),
            dma.flush.eq(sequencer.flush),
            sequencer.read_error.eq(dma.read_error),
            sequencer.write_error.eq(dma.write_error),
            sequencer.bus_idle.eq(dma.idle),
            sequencer.write_idle.eq(dma.write_idle),
        ]

        # Units of a descriptor.
        m.d.comb += [
            loader.descriptor.eq(sequencer.descriptor),
            storer.descriptor.eq(sequencer.descriptor),
            engine.execute.eq(sequencer.descriptor[:isa.EXECUTE.size]),
            loader.start.eq(sequencer.load_start),
            storer.start.eq(sequencer.store_start),
            engine.start.eq(sequencer.execute_start),
            sequencer.load_done.eq(loader.done),
            sequencer.store_done.eq(storer.done),
            sequencer.execute_done.eq(engine.done),
        ]

        self._connect_buffers(m, act, weights, slots, wide, loader, storer, engine, sequencer)
        return m

    def _connect_buffers(self, m: Module, act: ActBuffer, weights: BeatBuffer, slots: BeatBuffer,
                         wide: memory.Memory, loader: Loader, storer: Storer, engine: TileEngine,
                         sequencer: Sequencer) -> None:
        """Loads and stores have the buffers while they run; the engine has them otherwise."""
        config = self.config
        transferring = sequencer.transferring
        m.d.comb += [
            act.read_address.eq(engine.read_address),
            engine.read_data.eq(act.read_data),
            act.gather_bank.eq(Mux(transferring, storer.gather_bank, engine.gather_bank)),
            engine.gather_data.eq(act.gather_data),
            storer.gather_data.eq(act.gather_data),
            act.write_bank.eq(Mux(transferring, loader.act_bank, engine.write_bank)),
            act.write_enable.eq(Mux(transferring, loader.act_enable.replicate(config.k),
                                    engine.write_enable)),
            act.write_data.eq(Mux(transferring, loader.data, engine.write_data)),
        ]
        for column in range(config.k):
            m.d.comb += [
                act.gather_address[column].eq(
                    Mux(transferring, storer.gather_address, engine.gather_address[column])),
                act.write_address[column].eq(
                    Mux(transferring, loader.act_address, engine.write_address[column])),
            ]

        wide_read, wide_write = wide.read_port(), wide.write_port()
        transfer = data.View(isa.TRANSFER, sequencer.descriptor[:isa.TRANSFER.size])
        for buffer, start, enable, address, source in (
                (weights, loader.weights_start, loader.weights_enable,
                 engine.weight_address, engine.weights),
                (slots, loader.slots_start, loader.slots_enable,
                 engine.slot_address, engine.slot)):
            m.d.comb += [
                buffer.start.eq(start),
                buffer.address.eq(transfer.destination),
                buffer.write_enable.eq(enable),
                buffer.write_data.eq(loader.data),
                buffer.read_address.eq(address),
                Value.cast(source).eq(buffer.read_data),
            ]
        m.d.comb += [
            wide_read.addr.eq(storer.wide_address),
            storer.wide_data.eq(wide_read.data),
            wide_write.addr.eq(engine.wide_address),
            wide_write.data.eq(engine.wide_data),
            wide_write.en.eq(engine.wide_enable),
        ]
