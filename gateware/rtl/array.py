# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Array: row engines of three schemes and the pool lanes, all fed by one stream of words."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gateware.arch.config import AccelConfig
from gateware.pe.base import (
    SUM_BITS,
    Resources,
    RowEngine,
    Word,
    WordControl,
    act_layout,
    delay,
    delay_resources,
)
from gateware.pe.broadcast import BROADCAST_FANOUT, Broadcast, broadcast_nodes
from gateware.pe.lanes import row_engines
from gateware.pe.series7 import SharedModule
from gateware.rtl.pool import PoolEngine, PoolMode
from ir.numerics import ACT_BITS


@dataclasses.dataclass(frozen=True)
class _Path:
    """The engines that share one broadcast, because they take the same words at the same time."""

    engine: type[RowEngine]
    lanes: tuple[int, ...]  #: first lane of each
    k: int

    @property
    def broadcast_latency(self) -> int:
        return len(broadcast_nodes(len(self.lanes)))

    @property
    def latency(self) -> int:
        return self.broadcast_latency + self.engine.latency_for(self.k)


def _paths(config: AccelConfig) -> list[_Path]:
    placed = list(row_engines(config))
    return [
        _Path(engine, tuple(p.lane for p in placed if p.engine is engine), config.k)
        for engine in dict.fromkeys(p.engine for p in placed)
    ]


def _module_name(path: _Path, config: AccelConfig) -> str:
    return f"{path.engine.__name__.lower()}_k{config.k}_p{config.pixels}"


def engine_modules(config: AccelConfig) -> set[str]:
    """Verilog modules of the engines by name, one for each kind in text for 7-series."""
    return {_module_name(path, config) for path in _paths(config)}


class GemmArray(wiring.Component):
    """Array of all row engines and the pool lanes, aligned to one latency.

    Each word goes to every lane; which sums are of use is the reader's business. Activations travel
    through registered broadcast trees with a fan-out of ``BROADCAST_FANOUT`` engines, one tree for
    each kind of engine, which also brings each channel as late as that kind asks for. Lanes with a
    shorter latency get their inputs later, in shift registers, so that all sums change in the same
    cycle.

    Parameters
    ----------
    config : AccelConfig
        Sizes and row lanes.

    Members
    -------
    act : In(act_layout(k, pixels))
        ``act[pixel][channel]``.
    weights : In(unsigned(config.weight_bits))
        What the engines of :mod:`gateware.pe.lanes` encode, in lane order, lane 0 and channel 0
        in the low bits, together with ``act``.
    control : In(WordControl)
    pool_mode : In(PoolMode)
        Of this word.
    sums : Out(ArrayLayout(ArrayLayout(signed(SUM_BITS), pixels), rows + k))
        ``sums[lane][pixel]``: the row lanes, raw as in :class:`~gateware.pe.base.RowEngine`, then
        one pool lane per channel.

    Attributes
    ----------
    latency : int
        Cycles from ``control.last`` until its sums are at ``sums``. They stay until those of the
        next ``last`` take their place, as many cycles later as that one came later.

    Throughput: one word per cycle, ``rows * k * pixels`` products.
    """

    def __init__(self, config: AccelConfig) -> None:
        self.config = config
        self.latency = self.latency_for(config)
        super().__init__(
            {
                "act": In(act_layout(config.k, config.pixels)),
                "weights": In(unsigned(config.weight_bits)),
                "control": In(WordControl()),
                "pool_mode": In(PoolMode),
                "sums": Out(
                    data.ArrayLayout(
                        data.ArrayLayout(signed(SUM_BITS), config.pixels), config.rows + config.k
                    )
                ),
            }
        )

    @classmethod
    def latency_for(cls, config: AccelConfig) -> int:
        """Latency of an array of this configuration, in cycles."""
        return max(
            PoolEngine.latency_for(k=config.k, pixels=config.pixels),
            *(path.latency for path in _paths(config)),
        )

    def model(
        self, values: Sequence[np.ndarray], words: Sequence[Word], pool_mode: PoolMode
    ) -> np.ndarray:
        """Model: ``sums`` after each word, int64 (words, rows + k, pixels), from power-up on.

        ``values`` holds an int (words, k) array of weight values per row lane.
        """
        rows = [
            placed.engine.model(values[lane], words)
            for placed in row_engines(self.config)
            for lane in placed.lanes
        ]
        return np.concatenate([np.stack(rows, axis=1), PoolEngine.model(pool_mode, words)], axis=1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for path in _paths(self.config):
            broadcast = self._broadcast(m, path)
            for sink, lane in enumerate(path.lanes):
                word = broadcast.o[sink // BROADCAST_FANOUT]
                self._connect_engine(m, path, word, lane)
        self._connect_pool(m)
        return m

    def _broadcast(self, m: Module, path: _Path) -> Broadcast:
        """The tree of a path. Its words enter ``latency - path.latency`` cycles late, each channel
        as much later as the engine asks."""
        name, wait = path.engine.__name__.lower(), self.latency - path.latency
        layout = data.StructLayout({"act": self.act.shape(), "control": WordControl()})
        broadcast = Broadcast(layout, sinks=len(path.lanes))
        m.submodules[f"{name}_broadcast"] = broadcast
        for p in range(self.config.pixels):
            for c in range(self.config.k):
                cycles = wait + path.engine.skew(c)
                late = delay(m, self.act[p][c], cycles, name=f"{name}_act_{p}_{c}")
                m.d.comb += broadcast.i.act[p][c].eq(late)
        m.d.comb += broadcast.i.control.eq(delay(m, self.control, wait, name=f"{name}_control"))
        return broadcast

    def _connect_engine(self, m: Module, path: _Path, word: data.View, first: int) -> None:
        """The engine of the lanes from ``first`` on; its weights come together with ``word``."""
        config = self.config
        engine = path.engine(k=config.k, pixels=config.pixels)
        shared = SharedModule(engine, _module_name(path, config))
        m.submodules[f"row_{first}"] = shared
        lanes = range(first, first + engine.rows)
        bits = config.k * engine.scheme.bits
        # All lanes before and these have a word of `k` codes each.
        start = sum(config.k * scheme.bits for scheme in config.lane_schemes[:first])
        weights = Cat(self.weights[start + i * bits :][:bits] for i in range(engine.rows))
        cycles = self.latency - path.latency + path.broadcast_latency
        m.d.comb += [
            shared.act.eq(word.act),
            shared.control.eq(word.control),
            shared.weights.eq(delay(m, weights, cycles, name=f"weights_{first}")),
            *(self.sums[lane].eq(shared.sums[i]) for i, lane in enumerate(lanes)),
        ]

    def _connect_pool(self, m: Module) -> None:
        """The pool lanes, behind those of the rows."""
        config = self.config
        m.submodules.pool = pool = PoolEngine(k=config.k, pixels=config.pixels)
        wait = self.latency - pool.latency
        m.d.comb += [
            pool.act.eq(delay(m, self.act, wait + pool.skew, name="pool_act")),
            pool.control.eq(delay(m, self.control, wait, name="pool_control")),
            pool.mode.eq(delay(m, self.pool_mode, wait, name="pool_mode")),
        ]
        m.d.comb += [self.sums[config.rows + c].eq(pool.sums[c]) for c in range(config.k)]

    @classmethod
    def resources(cls, config: AccelConfig) -> Resources:
        """Estimated 7-series cells: engines, pool lanes, delays and copies of their inputs."""
        latency = cls.latency_for(config)
        word_bits = config.pixels * config.k * ACT_BITS
        total = PoolEngine.resources(k=config.k, pixels=config.pixels)
        size = {"k": config.k, "pixels": config.pixels}
        wait = latency - PoolEngine.latency_for(**size)
        total += delay_resources(word_bits, wait + PoolEngine.skew_for(**size))
        total += delay_resources(5, wait)
        for path in _paths(config):
            wait = latency - path.latency
            for c in range(config.k):
                total += delay_resources(config.pixels * ACT_BITS, wait + path.engine.skew(c))
            copies = sum(broadcast_nodes(len(path.lanes)))
            total += Resources(ff=(word_bits + 4) * copies) + delay_resources(4, wait)
            bits = path.engine.rows * config.k * path.engine.scheme.bits
            engine = _engine_resources(path.engine, config.k, config.pixels)
            total += (engine + delay_resources(bits, wait + path.broadcast_latency)) * len(
                path.lanes
            )
        return total


@functools.cache
def _engine_resources(engine: type[RowEngine], k: int, pixels: int) -> Resources:
    """Estimated cells of an engine; a search asks for the same ones again and again."""
    return engine.resources(k=k, pixels=pixels)
