# SPDX-License-Identifier: Apache-2.0
"""Queue of descriptors, each released when what it waits for is complete."""

from amaranth import *
from amaranth.hdl import ValueCastable
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out

from gateware.arch import isa
from gateware.arch.isa import QUEUES
from gateware.arch.registers import DESCRIPTOR_INDEX_BITS
from gateware.rtl.queue import Queue

QUEUE_DEPTH = 32  #: descriptors that wait in each queue; what one column of LUT RAM holds

#: Complete descriptors of each queue, modulo 2^16.
COUNTS = data.StructLayout(dict.fromkeys(QUEUES, isa.COUNT_BITS))
#: For each queue one bit: descriptors of it are waited for.
WAITS = data.StructLayout(dict.fromkeys(QUEUES, 1))


class ReleaseQueue(Component):
    """Queue of descriptors that leave in order, each when as many descriptors of every queue are
    complete as it waits for.

    Parameters
    ----------
    shape : StructLayout
        Of the payload, which begins with :data:`~gateware.arch.isa.HEADER`.

    Members
    -------
    i : In(stream of shape), index : In(16)
        A descriptor and its number.
    o : Out(stream of shape)
        ``valid`` follows from registers only.
    done : In(COUNTS)
        Only ever grows while a descriptor is here, to less than 2^15 beyond what it waits for.
    completed : In(1)
        Pulse: the oldest that is not complete has become so.
    waits : Out(WAITS)
        What the descriptor at the head waits for, once it was compared.
    present : Out(1)
        There is a descriptor at the head.
    idle : Out(1)
        Every descriptor that entered is complete.
    oldest : Out(16)
        Number of the oldest that is not complete, unless ``idle``.

    Latency: two cycles from ``i`` to ``o``, and from a count to ``o``: comparison and its register.

    Throughput: one descriptor in two cycles.
    """

    def __init__(self, shape: data.StructLayout) -> None:
        self._shape = shape
        payload = stream.Signature(shape)
        super().__init__(
            {
                "i": In(payload),
                "index": In(DESCRIPTOR_INDEX_BITS),
                "o": Out(payload),
                "done": In(COUNTS),
                "completed": In(1),
                "waits": Out(WAITS),
                "present": Out(1),
                "idle": Out(1),
                "oldest": Out(DESCRIPTOR_INDEX_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.descriptors = queue = Queue(self._shape, depth=QUEUE_DEPTH)
        # Those that left and are not complete besides; a unit holds few.
        m.submodules.indices = indices = Queue(DESCRIPTOR_INDEX_BITS, depth=2 * QUEUE_DEPTH)
        entering, leaving = Signal(), Signal()
        compared = Signal()
        self._compare(m, queue.o.payload)
        m.d.comb += [
            self.i.ready.eq(queue.i.ready & indices.i.ready),
            entering.eq(self.i.valid & self.i.ready),
            queue.i.valid.eq(entering),
            queue.i.payload.eq(self.i.payload),
            indices.i.valid.eq(entering),
            indices.i.payload.eq(self.index),
            indices.o.ready.eq(self.completed),
            self.present.eq(queue.o.valid),
            self.idle.eq(~indices.o.valid),
            self.oldest.eq(indices.o.payload),
            self.o.valid.eq(compared & ~self.waits.as_value().any()),
            self.o.payload.eq(queue.o.payload),
            leaving.eq(self.o.valid & self.o.ready),
            queue.o.ready.eq(leaving),
        ]
        m.d.sync += compared.eq(queue.o.valid & ~leaving)
        return m

    def _compare(self, m: Module, head: ValueCastable) -> None:
        """Comparison of the counts with what the head waits for; the result is a register.

        What is no longer waited for never is again, so a comparison of the last cycle is safe.
        """
        header = data.View(isa.HEADER, Value.cast(head)[: isa.HEADER.size])
        for name in QUEUES:
            missing = Signal(signed(isa.COUNT_BITS), name=f"missing_{name}")
            m.d.comb += missing.eq(self.done[name] - header[f"wait_{name}"])
            m.d.sync += self.waits[name].eq(missing < 0)
