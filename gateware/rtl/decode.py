# SPDX-License-Identifier: Apache-2.0
"""Decoder of descriptors: where one goes, and whether it may.

The program in memory is not trusted: a descriptor of an unknown opcode, with a field that would
make a unit work for ever, or with a transfer outside the host's buffers goes nowhere. What is
refused is written down once more in :mod:`gateware.arch.refusal`, for the emulator and the tests.
"""

from amaranth import *
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import QUEUES, Base, Opcode

#: Base registers and the sizes of the buffers there.
BUFFERS = data.StructLayout({base.name.lower(): 32 for base in Base})


class Decoder(Component):
    """Decoder of the descriptor on offer; every output is a register.

    Parameters
    ----------
    config : AccelConfig

    Members
    -------
    descriptor : In(512)
        Stays until it is taken.
    bases, sizes : In(BUFFERS)
        The host's buffers: address and bytes of each.
    queue : Out({loads, executes, stores})
        The descriptor goes there; no bit is set for END and for one that is refused.
    end : Out(1)
        It is END.
    address : Out(32)
        Of a transfer, in memory.
    outside : Out(1)
        A transfer that goes beyond its buffer; of a descriptor on offer in the two cycles before.

    Latency: a cycle, two for ``outside``.
    """

    def __init__(self, config: AccelConfig) -> None:
        self._config = config
        super().__init__(
            {
                "descriptor": In(isa.DESCRIPTOR_BITS),
                "bases": In(BUFFERS),
                "sizes": In(BUFFERS),
                "queue": Out(data.StructLayout(dict.fromkeys(QUEUES, 1))),
                "end": Out(1),
                "address": Out(32),
                "outside": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        transfer = data.View(isa.TENSOR, self.descriptor[: isa.TENSOR.size])
        sound = {
            "loads": self._transfers(transfer, *Base),
            # A program never writes to itself nor to its input.
            "stores": self._transfers(transfer, Base.OUTPUT),
            "executes": self._executes(data.View(isa.EXECUTE, self.descriptor[: isa.EXECUTE.size])),
        }
        m.d.sync += [
            self.end.eq(transfer.opcode == Opcode.END),
            self.address.eq(self._of_base(self.bases, transfer.base) + transfer.offset),
            *(
                self.queue[name].eq(
                    transfer.opcode.matches(*isa.opcodes(self._config, name)) & good
                )
                for name, good in sound.items()
            ),
        ]
        self._check_end(m, transfer)
        return m

    @property
    def _beat_bits(self) -> int:
        """Bits of an address within a beat."""
        return ceil_log2(self._config.bus_bits // 8)

    def _transfers(self, transfer: data.View, *bases: Base) -> Value:
        """Whether a transfer is with one of ``bases``, and aligned to the bus."""
        return transfer.base.matches(*bases) & (transfer.offset[: self._beat_bits] == 0)

    @staticmethod
    def _executes(execute: data.View) -> Value:
        """Whether every loop of an EXECUTE ends."""
        return Cat(execute[name].any() for name in isa.LOOPS).all()

    @staticmethod
    def _of_base(values: data.View, base: Value) -> Value:
        """The value for a base that there is: two bits tell them apart, in one LUT with a sum."""
        last = Mux(base[1], values.output, values.program)
        return Mux(base[0], values.input, last)

    def _check_end(self, m: Module, transfer: data.View) -> None:
        """Comparison of a transfer's end with its buffer's, both in beats."""
        beat = self._beat_bits
        # Of transfers, two bits of the opcode tell: in one LUT with the sum.
        spread = Mux(
            transfer.opcode[1:3] == Opcode.LOAD_WEIGHTS >> 1,
            transfer.beats << ceil_log2(self._config.ports),
            transfer.beats,
        )
        end, size = Signal(33 - beat, reset_less=True), Signal(32 - beat, reset_less=True)
        m.d.sync += [
            end.eq(transfer.offset[beat:] + spread),
            size.eq(self._of_base(self.sizes, transfer.base)[beat:]),
            self.outside.eq(end > size),
        ]
