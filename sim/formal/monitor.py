# SPDX-License-Identifier: Apache-2.0
"""Contract of a stream in every cycle, as hardware: for proofs and for simulations.

A source that offers a word goes on offering it, unchanged, until it is taken: once ``valid`` is
high, ``valid`` and payload stay until a cycle in which ``ready`` is high, too. A source may take
back its offer in a cycle in which it is excused: while it is flushed or reset.
"""

from amaranth import *
from amaranth.hdl import ValueLike

from sim.formal.channels import Channel


class Monitor(Elaboratable):
    """Monitor of a channel.

    Parameters
    ----------
    channel : Channel
    excused : ValueLike
        High in cycles in which the source may take back its offer.

    Attributes
    ----------
    broken : Signal
        High in a cycle in which the source of the channel breaks its contract.
    """

    def __init__(self, channel: Channel, excused: ValueLike = 0) -> None:
        self._channel = channel
        self._excused = excused
        self.broken = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        channel, excused = self._channel, Value.cast(self._excused).any()
        waiting, word = Signal(), Signal.like(channel.word)
        m.d.sync += waiting.eq(channel.valid & ~channel.ready & ~excused)
        with m.If(channel.valid):
            m.d.sync += word.eq(channel.word)
        m.d.comb += self.broken.eq(waiting & ~excused & (~channel.valid | (word != channel.word)))
        return m


class ReadyMonitor(Elaboratable):
    """Monitor of a sink that promises more than the contract asks: once ready, it stays so until a
    word comes.

    Attributes
    ----------
    broken : Signal
        High in a cycle in which it is no longer ready for a word.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.broken = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        waiting = Signal()
        m.d.sync += waiting.eq(self._channel.ready & ~self._channel.valid)
        m.d.comb += self.broken.eq(waiting & ~self._channel.ready)
        return m
