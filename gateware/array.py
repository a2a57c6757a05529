# SPDX-License-Identifier: Apache-2.0
"""The array: row engines of three schemes and the pool lanes, all fed by one stream of words."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.config import AccelConfig
from gateware.pe.base import SUM_BITS, Resources, RowEngine, Word, WordControl, act_layout, delay, positive
from gateware.pe.fixed import FixedEngine
from gateware.pe.pot4 import Pot4Engine
from gateware.pool import PoolEngine, PoolMode
from quant.numerics import Scheme

BROADCAST_FANOUT = 8    #: registers or rows that one register of the activation broadcast feeds


def row_engine(scheme: Scheme, *, k: int, pixels: int) -> RowEngine:
    """The engine of one row lane of ``scheme``."""
    if scheme is Scheme.POT4:
        return Pot4Engine(k=k, pixels=pixels)
    return FixedEngine(scheme=scheme, k=k, pixels=pixels)


class BroadcastRegister(wiring.Component):
    """One node of :class:`Broadcast`: ``o`` is ``i`` one cycle later.

    A module of its own, with ``keep``, so that no synthesiser merges it with its equal siblings.

    Members
    -------
    i : In(shape)
    o : Out(shape)
    """

    def __init__(self, shape: data.Layout) -> None:
        super().__init__({"i": In(shape), "o": Out(shape)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        copy = Signal(self.i.shape(), attrs={"keep": "true"})
        m.d.sync += copy.eq(self.i)
        m.d.comb += self.o.eq(copy)
        return m


class Broadcast(wiring.Component):
    """A registered tree that hands one value to many sinks.

    Parameters
    ----------
    shape : Layout
        Of the value.
    sinks : int
        How many read it.
    fanout : int
        Largest number of registers or sinks behind one register.

    Members
    -------
    i : In(shape)
    o : Out(shape).array(leaves)
        Sink number s reads ``o[s // fanout]``.

    Attributes
    ----------
    latency : int
        Levels of the tree: 1 for up to 8 sinks, 2 for up to 64.

    Raises
    ------
    TypeError, ValueError
        For a number that is not a positive integer, and for a fan-out of one.
    """

    def __init__(self, shape: data.Layout, *, sinks: int, fanout: int = BROADCAST_FANOUT) -> None:
        if positive("fanout", fanout) < 2:
            raise ValueError(f"fanout must be at least 2, not {fanout!r}")
        self._nodes = [-(-positive("sinks", sinks) // fanout)]
        while self._nodes[0] > 1:
            self._nodes.insert(0, -(-self._nodes[0] // fanout))
        self._shape = shape
        self._fanout = fanout
        self.latency = len(self._nodes)
        super().__init__({"i": In(shape), "o": Out(shape).array(self._nodes[-1])})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        above = [self.i]
        for level, count in enumerate(self._nodes):
            nodes = [BroadcastRegister(self._shape) for _ in range(count)]
            for i, node in enumerate(nodes):
                m.submodules[f"node_{level}_{i}"] = node
                m.d.comb += node.i.eq(above[i // self._fanout])
            above = [node.o for node in nodes]
        m.d.comb += [leaf.eq(value) for leaf, value in zip(self.o, above, strict=True)]
        return m


@dataclasses.dataclass(frozen=True)
class _Path:
    """The lanes that share one broadcast, because they take the same words at the same time."""

    lanes: list[int]
    skewed: bool
    broadcast: Broadcast


class GemmArray(wiring.Component):
    """All row engines and the pool lanes, aligned to one latency.

    Each word goes to every lane; which sums are of use is the reader's business. Activations travel
    through a registered broadcast tree with a fan-out of ``BROADCAST_FANOUT`` rows; engines on DSP
    cascades share one skewed copy of them. Lanes with a shorter latency get their inputs later, in
    shift registers, so that all sums change in the same cycle.

    Parameters
    ----------
    config : AccelConfig
        Sizes and row lanes.

    Members
    -------
    act : In(act_layout(k, pixels))
        ``act[pixel][channel]``.
    weights : In(unsigned(config.weight_bits))
        Codes of all row lanes in lane order, lane 0 and channel 0 in the low bits, together with
        ``act``.
    control : In(WordControl)
    pool_mode : In(PoolMode)
        Of this word.
    sums : Out(ArrayLayout(ArrayLayout(signed(SUM_BITS), pixels), rows + k))
        ``sums[lane][pixel]``: the row lanes, raw as in :class:`~gateware.pe.base.RowEngine`, then one
        pool lane per channel.

    Attributes
    ----------
    latency : int
        Cycles from ``control.last`` until its sums are at ``sums``. They stay until those of the next
        ``last`` take their place, as many cycles later as that one came later.
    """

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        self._rows = [row_engine(scheme, k=config.k, pixels=config.pixels) for scheme in config.lane_schemes]
        self._pool = PoolEngine(k=config.k, pixels=config.pixels)
        self._paths = self._make_paths()
        self.latency = max(self._pool.latency, *(
            path.broadcast.latency + self._rows[lane].latency for path in self._paths for lane in path.lanes))
        super().__init__({
            "act": In(act_layout(config.k, config.pixels)),
            "weights": In(unsigned(config.weight_bits)),
            "control": In(WordControl()),
            "pool_mode": In(PoolMode),
            "sums": Out(data.ArrayLayout(data.ArrayLayout(signed(SUM_BITS), config.pixels),
                                         config.rows + config.k)),
        })

    def _make_paths(self) -> list[_Path]:
        word = data.StructLayout({
            "act": act_layout(self.config.k, self.config.pixels), "control": WordControl()})
        lanes: dict[tuple[bool, int], list[int]] = {}
        for lane, engine in enumerate(self._rows):
            lanes.setdefault((engine.skewed, engine.latency), []).append(lane)
        return [_Path(lanes=group, skewed=skewed, broadcast=Broadcast(word, sinks=len(group)))
                for (skewed, _), group in lanes.items()]

    def model(self, values: Sequence[np.ndarray], words: Sequence[Word], pool_mode: PoolMode) -> np.ndarray:
        """``sums`` after each word, int64 (words, rows + k, pixels), from power-up on.

        ``values`` holds an int (words, k) array of weight values per row lane.
        """
        rows = [engine.model(row, words) for engine, row in zip(self._rows, values, strict=True)]
        return np.concatenate([np.stack(rows, axis=1), self._pool.model(pool_mode, words)], axis=1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config

        weights, offset = [], 0
        for scheme in config.lane_schemes:
            weights.append(self.weights[offset:offset + config.k * scheme.bits])
            offset += config.k * scheme.bits

        for index, path in enumerate(self._paths):
            name = f"path_{index}"
            broadcast = path.broadcast
            wait = self.latency - broadcast.latency - self._rows[path.lanes[0]].latency
            m.submodules[name] = broadcast
            for p in range(config.pixels):
                for c in range(config.k):
                    cycles = wait + c if path.skewed else wait
                    m.d.comb += broadcast.i.act[p][c].eq(
                        delay(m, self.act[p][c], cycles, name=f"{name}_act_{p}_{c}"))
            m.d.comb += broadcast.i.control.eq(
                delay(m, self.control, wait, name=f"{name}_control", reset_less=False))

            for sink, lane in enumerate(path.lanes):
                m.submodules[f"row_{lane}"] = engine = self._rows[lane]
                word = broadcast.o[sink // BROADCAST_FANOUT]
                m.d.comb += [
                    engine.act.eq(word.act),
                    engine.control.eq(word.control),
                    engine.weights.eq(delay(
                        m, weights[lane], wait + broadcast.latency, name=f"weights_{lane}")),
                    self.sums[lane].eq(engine.sums),
                ]

        m.submodules.pool = pool = self._pool
        wait = self.latency - pool.latency
        m.d.comb += [
            pool.act.eq(delay(m, self.act, wait, name="pool_act")),
            pool.control.eq(delay(m, self.control, wait, name="pool_control", reset_less=False)),
            pool.mode.eq(delay(m, self.pool_mode, wait, name="pool_mode")),
        ]
        m.d.comb += [self.sums[config.rows + c].eq(pool.sums[c]) for c in range(config.k)]
        return m

    def resources(self) -> Resources:
        """An estimate: the engines, the pool lanes, and the delays and copies of their inputs."""
        raise NotImplementedError
