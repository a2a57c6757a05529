# SPDX-License-Identifier: Apache-2.0
"""Register file of the host, with counters, watchdog and interrupt."""

import dataclasses

from amaranth import *
from amaranth.hdl import ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.arch.config import AccelConfig
from gateware.arch.registers import (
    COUNTERS,
    DESCRIPTOR_INDEX_BITS,
    ID_VALUE,
    REGISTERS,
    VERSION_MAJOR,
    VERSION_MINOR,
    WINDOW_BITS,
    config_digest,
)
from gateware.pe.broadcast import copies
from gateware.rtl.axi import AxiLiteSignature, Resp

#: Words that the host writes and the accelerator reads, by the members that show them.
WORDS = {
    "PROGRAM_BASE": "program_base",
    "INPUT_BASE": "input_base",
    "OUTPUT_BASE": "output_base",
    "WATCHDOG": "watchdog_limit",
    "PROGRAM_SIZE": "program_size",
    "INPUT_SIZE": "input_size",
    "OUTPUT_SIZE": "output_size",
}
#: What each entry of COUNTERS grows by in a cycle.
COUNT_LAYOUT = data.StructLayout(dict.fromkeys(COUNTERS, 1) | {"read_beats": 3})


_Content = ValueLike | dict[str, ValueLike]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _State:
    """Registers behind the map."""

    words: dict[str, Signal]
    status: dict[str, Signal]
    irq_enable: Signal
    irq_status: Signal
    failing_index: Signal
    counters: dict[str, Signal]


class RegisterFile(wiring.Component):
    """Registers, counters, watchdog and interrupt of an accelerator.

    A write takes effect in the cycle after its address and data were accepted together, that of a
    whole word two cycles after; pulses that follow from it come in that cycle. A read answers in
    the cycle after its address.

    Parameters
    ----------
    config : AccelConfig
        What SHAPE and CONFIG_DIGEST describe.

    Members
    -------
    axil : In(AxiLiteSignature(12, 32))
        From the host.
    start, abort : Out(1)
        Pulses. ``start`` comes only while not busy; ``abort`` always, with or without a run.
    program_base, input_base, output_base : Out(32)
        What the host wrote, live.
    program_size, input_size, output_size : Out(32)
        Likewise.
    watchdog_limit : Out(32)
        What the host wrote, live.
    watchdog : Out(1)
        High from two cycles after the last busy one that the limit allows, until the run ends.
    irq : Out(1)
        Level: an enabled bit of IRQ_STATUS is set.
    busy : In(1)
        A run is going on; high from the cycle after ``start`` at the latest. CYCLES counts this,
        one cycle late.
    done, failed : In(1)
        Pulses at the end of a run, one of them.
    error_code : In(8)
        An ErrorCode, sampled with ``failed``.
    descriptor_index : In(16)
        The descriptor in execution, followed while busy and no error.
    count : In(COUNT_LAYOUT)
        Advance these counters, one cycle late.

    Raises
    ------
    ValueError
        When the array's shape does not fit the SHAPE register.
    """

    def __init__(self, config: AccelConfig) -> None:
        if config.rows >= 1 << 16 or config.pixels >= 1 << 8:
            raise ValueError(f"{config.rows} rows and {config.pixels} pixels do not fit SHAPE")
        self._config = config
        super().__init__(
            {
                "axil": In(AxiLiteSignature(WINDOW_BITS, 32)),
                "start": Out(1),
                "abort": Out(1),
                "program_base": Out(32),
                "input_base": Out(32),
                "output_base": Out(32),
                "program_size": Out(32),
                "input_size": Out(32),
                "output_size": Out(32),
                "watchdog_limit": Out(32),
                "watchdog": Out(1),
                "irq": Out(1),
                "busy": In(1),
                "done": In(1),
                "failed": In(1),
                "error_code": In(8),
                "descriptor_index": In(DESCRIPTOR_INDEX_BITS),
                "count": In(COUNT_LAYOUT),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state = self._state()
        contents = self._contents(state)
        self._elaborate_read(m, contents)
        written = self._elaborate_write(m, contents)
        self._elaborate_words(m, state.words)
        start = self._command(m, state, written)
        self._follow_run(m, state, start)
        return m

    @staticmethod
    def _state() -> _State:
        status = {"done": Signal(), "error": Signal(), "error_code": Signal(8)}
        irq_enable = Signal()
        irq_status = Signal()
        failing_index = Signal(DESCRIPTOR_INDEX_BITS)
        counters = {
            name: Signal(32, name=f"count_{name}", reset_less=True)
            for name in ("cycles", *COUNTERS)
        }
        return _State(
            words={
                name: Signal(32, name=member, reset_less=True) for name, member in WORDS.items()
            },
            status=status,
            irq_enable=irq_enable,
            irq_status=irq_status,
            failing_index=failing_index,
            counters=counters,
        )

    def _contents(self, state: _State) -> dict[str, _Content]:
        """What each register reads: the word, or its fields. Those that the host writes are
        signals."""
        config = self._config
        return (
            {
                "ID": ID_VALUE,
                "VERSION": {"minor": VERSION_MINOR, "major": VERSION_MAJOR},
                "CONTROL": {"start": 0, "abort": 0},
                # Cleared by the start of a run, a cycle late.
                "STATUS": {"busy": self.busy | self.start}
                | {name: Mux(self.start, 0, signal) for name, signal in state.status.items()},
                "IRQ_ENABLE": {"finished": state.irq_enable},
                "IRQ_STATUS": {"finished": state.irq_status},
                "ERROR_DESCRIPTOR": {"index": state.failing_index},
                "SHAPE": {"rows": config.rows, "k": config.k, "pixels": config.pixels},
                "CONFIG_DIGEST": config_digest(config),
            }
            | state.words
            | {name.upper(): counter for name, counter in state.counters.items()}
        )

    def _command(self, m: Module, state: _State, written: dict[str, Signal]) -> Value:
        """CONTROL and the interrupt; whether a run is started, a cycle before ``self.start``."""
        finished = self.done | self.failed
        control = written["CONTROL"]
        start = control[0] & ~control[1] & ~self.busy & ~self.start
        m.d.sync += [
            self.start.eq(start),
            self.abort.eq(control[1]),
            state.irq_status.eq((state.irq_status & ~written["IRQ_STATUS"][0]) | finished),
        ]
        m.d.comb += self.irq.eq(state.irq_status & state.irq_enable)
        return start

    def _follow_run(self, m: Module, state: _State, start: Value) -> None:
        """Status, counters and watchdog of a run."""
        status, counters = state.status, state.counters
        with m.If(self.done):
            m.d.sync += status["done"].eq(1)
        with m.If(self.failed):
            m.d.sync += [status["error"].eq(1), status["error_code"].eq(self.error_code)]
        with m.If(self.busy & ~status["error"]):
            m.d.sync += state.failing_index.eq(self.descriptor_index)
        with m.If(self.start):
            m.d.sync += [signal.eq(0) for signal in status.values()]
        self._count(m, counters, start)
        m.d.sync += self.watchdog.eq(
            self.busy & (self.watchdog_limit != 0) & (counters["cycles"] >= self.watchdog_limit)
        )

    def _count(self, m: Module, counters: dict[str, Signal], start: Value) -> None:
        """Counters, one cycle late: what they grow by and their reset come from registers."""
        clear = copies(m, start | ResetSignal(), len(counters), "clear")
        for cleared, (name, counter) in zip(clear, counters.items(), strict=True):
            advance = self.busy if name == "cycles" else self.count[name]
            late = Signal(advance.shape(), name=f"advance_{name}", reset_less=True)
            m.d.sync += [late.eq(advance), counter.eq(counter + late)]
            with m.If(cleared):
                m.d.sync += counter.eq(0)

    def _elaborate_read(self, m: Module, contents: dict[str, _Content]) -> None:
        """Read channels: the answer comes in the cycle after the address."""
        axil = self.axil
        m.d.comb += axil.arready.eq(~axil.rvalid | axil.rready)
        with m.If(axil.rready):
            m.d.sync += axil.rvalid.eq(0)
        with m.If(axil.arvalid & axil.arready):
            m.d.sync += [axil.rvalid.eq(1), axil.rdata.eq(0), axil.rresp.eq(Resp.SLVERR)]
            with m.Switch(axil.araddr[2:]):
                for register in REGISTERS:
                    with m.Case(register.offset // 4):
                        m.d.sync += axil.rresp.eq(Resp.OKAY)
                        content = contents[register.name]
                        if not register.fields:
                            m.d.sync += axil.rdata.eq(content)
                        for field in register.fields:
                            m.d.sync += axil.rdata[field.lsb :][: field.width].eq(
                                content[field.name]
                            )

    def _elaborate_write(self, m: Module, contents: dict[str, _Content]) -> dict[str, Signal]:
        """Write channels; returns the ones written to registers that act on ones, combinational."""
        axil = self.axil
        accept = Signal()
        m.d.comb += [
            accept.eq(axil.awvalid & axil.wvalid & (~axil.bvalid | axil.bready)),
            axil.awready.eq(accept),
            axil.wready.eq(accept),
        ]
        mask = Cat(bit.replicate(8) for bit in axil.wstrb)
        ones = {
            register.name: Signal(32, name=f"write_{register.name.lower()}")
            for register in REGISTERS
            if register.access in ("WO", "RW1C")
        }
        with m.If(axil.bready):
            m.d.sync += axil.bvalid.eq(0)
        with m.If(accept):
            m.d.sync += [axil.bvalid.eq(1), axil.bresp.eq(Resp.SLVERR)]
            with m.Switch(axil.awaddr[2:]):
                for register in REGISTERS:
                    if register.access == "RO":
                        continue
                    with m.Case(register.offset // 4):
                        m.d.sync += axil.bresp.eq(Resp.OKAY)
                        if register.name in ones:
                            m.d.comb += ones[register.name].eq(axil.wdata & mask)
                            continue
                        for field in register.fields:
                            stored, lsb = contents[register.name][field.name], field.lsb
                            m.d.sync += stored.eq(
                                ((axil.wdata & mask) >> lsb) | (stored & ~(mask >> lsb))
                            )
        return ones

    def _elaborate_words(self, m: Module, words: dict[str, Signal]) -> None:
        """Writes of whole words, a cycle later: they are many, and reset by copies as well."""
        axil = self.axil
        accept = axil.awvalid & axil.awready
        data, strobes = Signal(32, reset_less=True), Signal(4, reset_less=True)
        m.d.sync += [data.eq(axil.wdata), strobes.eq(axil.wstrb)]
        resets = copies(m, ResetSignal(), len(words), "word_reset")
        offsets = {register.name: register.offset for register in REGISTERS}
        for (name, word), reset in zip(words.items(), resets, strict=True):
            chosen = Signal(name=f"chosen_{name.lower()}", reset_less=True)
            m.d.sync += chosen.eq(accept & (axil.awaddr[2:] == offsets[name] // 4))
            m.d.comb += getattr(self, WORDS[name]).eq(word)
            for lane, strobe in enumerate(strobes):
                with m.If(chosen & strobe):
                    m.d.sync += word.word_select(lane, 8).eq(data.word_select(lane, 8))
            with m.If(reset):
                m.d.sync += word.eq(0)
