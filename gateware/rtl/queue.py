# SPDX-License-Identifier: Apache-2.0
"""Queue between two units: the register slice of every stream of the accelerator."""

from amaranth import *
from amaranth.hdl import ShapeLike
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

PART_BITS = 256  #: of a payload that share the registers of their places


class Queue(wiring.Component):
    """Queue of a stream in a column of LUT RAM, whose handshakes are registers on both sides.

    ``o.valid`` and ``i.ready`` are flip-flops, so that no path goes through two units' handshakes.
    The payload is read from LUT RAM by a register.

    Parameters
    ----------
    shape : ShapeLike
        Of the payload.
    depth : int
        Words, at least 2: one moves on in every cycle.

    Members
    -------
    i : In(stream of shape)
    o : Out(stream of shape)
        Payload and ``valid`` hold until ``ready``.

    Latency: a word that enters in one cycle is offered in the next.

    Throughput: one word per cycle.

    Raises
    ------
    ValueError
        For a depth below 2.
    """

    def __init__(self, shape: ShapeLike, *, depth: int = 2) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth}")
        self._depth = depth
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = Shape.cast(self._shape).width
        level = Signal(range(self._depth + 1))
        ready, valid = Signal(init=1), Signal()
        entering, leaving = self.i.valid & ready, valid & self.o.ready
        m.d.comb += [
            self.i.ready.eq(ready),
            self.o.valid.eq(valid),
        ]
        for part in range(-(-width // PART_BITS)):
            self._keep_words(m, entering, leaving, part)
        with m.If(entering & ~leaving):
            m.d.sync += [level.eq(level + 1), valid.eq(1), ready.eq(level != self._depth - 1)]
        with m.Elif(leaving & ~entering):
            m.d.sync += [level.eq(level - 1), valid.eq(level != 1), ready.eq(1)]
        return m

    def _keep_words(self, m: Module, entering: Value, leaving: Value, part: int) -> None:
        """Words of a part of the payload, with places of its own: none has too many pins."""
        bits = slice(part * PART_BITS, (part + 1) * PART_BITS)
        given = Value.cast(self.i.payload)[bits]
        m.submodules[f"words_{part}"] = words = memory.Memory(
            shape=unsigned(len(given)), depth=self._depth, init=[]
        )
        write, read = words.write_port(), words.read_port(domain="comb")
        # Kept, or synthesis would make one of the places of all parts.
        produce = Signal(range(self._depth), name=f"produce_{part}", attrs={"keep": "true"})
        consume = Signal(range(self._depth), name=f"consume_{part}", attrs={"keep": "true"})
        m.d.comb += [
            write.addr.eq(produce),
            write.data.eq(given),
            # Also without a word: the place is free, and what is there is not looked at.
            write.en.eq(self.i.ready),
            read.addr.eq(consume),
            Value.cast(self.o.payload)[bits].eq(read.data),
        ]
        with m.If(entering):
            m.d.sync += produce.eq(self._after(produce))
        with m.If(leaving):
            m.d.sync += consume.eq(self._after(consume))

    def _after(self, place: Signal) -> Value:
        return Mux(place == self._depth - 1, 0, place + 1)
