# SPDX-License-Identifier: Apache-2.0
"""Stimulus of the array and its engines: words, their bits at the ports, and the sums back."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from amaranth import *
from amaranth.lib import wiring

from gateware.arch.config import AccelConfig
from gateware.pe.base import SUM_BITS, RowEngine, Word, WordControl
from gateware.pe.lanes import row_engines
from ir.numerics import ACT_BITS, NIBBLE_MAX, Scheme, weight_values
from sim.backend import pysim


def pack(values: Iterable[int], bits: int) -> int:
    """Integer of ``values`` next to each other, ``bits`` each, the first in the low bits."""
    result = 0
    for i, value in enumerate(values):
        result |= (int(value) & (1 << bits) - 1) << i * bits
    return result


def unpack_sums(value: int, lanes: int, pixels: int) -> np.ndarray:
    """Sums, int64 (lanes, pixels), in the bits of a ``sums`` port."""
    half, mask = 1 << SUM_BITS - 1, (1 << SUM_BITS) - 1
    flat = [((value >> i * SUM_BITS & mask) ^ half) - half for i in range(lanes * pixels)]
    return np.array(flat, np.int64).reshape(lanes, pixels)


def act_bits(words: Sequence[Word], skew: Callable[[int], int] = lambda channel: 0) -> list[int]:
    """Bits of the ``act`` port in each cycle; channel c comes ``skew(c)`` cycles late."""
    acts = np.array([word.act for word in words], np.int64)
    late = np.zeros_like(acts)
    for c in range(acts.shape[2]):
        late[skew(c) :, :, c] = acts[: len(acts) - skew(c), :, c]
    acts = late
    return [pack(act.flat, ACT_BITS) for act in acts]


def control_bits(word: Word) -> int:
    """Bits of the ``control`` port."""
    return WordControl().const(word.control).as_value().value


def weight_bits(engine: type[RowEngine], values: np.ndarray) -> int:
    """Bits of an engine's weights (rows, k) of one word."""
    return pack(engine.encode(values).flat, engine.scheme.bits)


def array_weight_bits(config: AccelConfig, values: Sequence[np.ndarray]) -> int:
    """Bits of the array's ``weights`` port, of one word of each row lane."""
    result, offset = 0, 0
    for placed in row_engines(config):
        mine = np.array([values[lane] for lane in placed.lanes])
        result |= weight_bits(placed.engine, mine) << offset
        offset += mine.size * placed.engine.scheme.bits
    return result


def product_words(engine: type[RowEngine]) -> tuple[np.ndarray, list[Word]]:
    """Stimulus with every weight of each row times every activation of two pixels, one channel,
    a word each: values, int64 (rows, words, 1), and the words."""
    levels = weight_values(engine.scheme)
    acts = np.arange(NIBBLE_MAX + 1)
    every = np.meshgrid(*[levels] * engine.rows, acts, acts, indexing="ij")
    *values, first, second = (axis.reshape(-1) for axis in every)
    words = [
        Word(act=np.array([[a], [b]]), first=True, last=True)
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    return np.stack(values)[:, :, None], words


def idle(k: int, pixels: int, count: int) -> list[Word]:
    """Words that are not valid."""
    return [Word(act=np.zeros((pixels, k), np.int64), valid=False)] * count


def random_words(
    rng: np.random.Generator,
    *,
    k: int,
    pixels: int,
    count: int,
    stall: float = 0.0,
    shift: bool = True,
) -> list[Word]:
    """Words with any sequence of control bits; the first begins a sum.

    A share ``stall`` of them is not valid but looks as if. Activations are 0..15, in some words 0
    and 15 only.
    """
    words = [Word(act=np.zeros((pixels, k), np.int64), first=True)]
    while len(words) < count:
        first, shifted, last = rng.random(3) < (0.25, 0.1 if shift else 0.0, 0.25)
        top = rng.choice([NIBBLE_MAX, 1])
        acts = rng.integers(0, top + 1, (pixels, k)) * (NIBBLE_MAX // top)
        words.append(
            Word(
                act=acts,
                valid=bool(rng.random() >= stall),
                first=bool(first),
                shift=bool(shifted),
                last=bool(last),
            )
        )
    return words


def random_values(rng: np.random.Generator, scheme: Scheme, count: int, k: int) -> np.ndarray:
    """Weight values (count, k), a third of them at the extremes of ``scheme``."""
    levels = weight_values(scheme)
    values = rng.choice(levels, (count, k))
    extremes = rng.choice([levels[0], levels[-1]], (count, k))
    return np.where(rng.random((count, k)) < 1 / 3, extremes, values)


def simulate(
    component: wiring.Component, stimulus: Sequence[Mapping[str, int]], outputs: Sequence[str]
) -> dict[str, list[int]]:
    """Bits of ``outputs`` after each edge of a simulation, one cycle per entry of ``stimulus``,
    which has bits by port.

    A port is a member's name, or ``name.index`` in an array of members.
    """
    seen: dict[str, list[int]] = {name: [] for name in outputs}

    def port(name: str) -> Value:
        member, _, index = name.partition(".")
        found = getattr(component, member)
        return Value.cast(found[int(index)] if index else found)

    async def bench(ctx) -> None:
        for cycle in stimulus:
            for name, value in cycle.items():
                ctx.set(port(name), value)
            await ctx.tick()
            for name in outputs:
                bits = port(name)
                seen[name].append(ctx.get(bits) & (1 << len(bits)) - 1)

    pysim.run(component, bench, cycles=len(stimulus) + 1)
    return seen


def assert_sums(sums: Sequence[int], expected: np.ndarray, latency: int) -> None:
    """Check that ``sums`` after each edge equal ``expected`` (words, lanes, pixels), ``latency``
    cycles later.

    Before that they are zero. Raises AssertionError naming the first word, lane and pixel that
    differ.
    """
    _, lanes, pixels = expected.shape
    cycles = len(expected) + latency - 1
    got = np.array([unpack_sums(value, lanes, pixels) for value in sums[:cycles]])
    expected = np.concatenate([np.zeros((latency - 1, lanes, pixels), np.int64), expected])
    if not np.array_equal(got, expected):
        cycle, lane, pixel = np.argwhere(got != expected)[0]
        raise AssertionError(
            f"word {cycle - latency + 1}, lane {lane}, pixel {pixel}: got "
            f"{got[cycle, lane, pixel]}, expected {expected[cycle, lane, pixel]}"
        )
