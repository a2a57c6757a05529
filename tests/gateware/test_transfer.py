# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Loads and stores: tensors go where the compiler says, whatever the bus does meanwhile."""

import numpy as np
import pytest

from gateware import isa
from gateware.compiler.lower import Placement
from gateware.compiler.program import _tensor_fields
from gateware.config import AccelConfig
from gateware.isa import Opcode
from gateware.transfer import Loader, Storer
from sim import pysim
from tests.gateware.units import TINY, WIDER, act_memory, descriptor

BUS64 = AccelConfig(pot4_rows=2, fixed4_rows=1, fixed8_rows=1, requant_lanes=2, act_depth=64)
CONFIGS = {"bus 32, P 2": TINY, "bus 32, P 4": WIDER, "bus 64, P 2": BUS64}
SHAPES = [(1, 1, 1, 4), (3, 2, 5, 8), (9, 3, 4, 4), (17, 2, 3, 8), (20, 1, 9, 4)]
PAUSES = [0.0, 0.5]


def place_of(shape, config: AccelConfig, address: int = 3) -> Placement:
    *size, bits = shape
    return Placement(*size, bits, 0, config.k, config.banks, address)


def random_tensor(place: Placement, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 1 << place.bits, (place.channels, place.height, place.width))


def beats_of(stored: bytes, config: AccelConfig) -> list[int]:
    size = config.bus_bits // 8
    return [int.from_bytes(stored[i:i + size], "little") for i in range(0, len(stored), size)]


def load(config: AccelConfig, words: list[int], bits: int, *, pause: float,
         rng: np.random.Generator) -> tuple[list, list[str]]:
    """Run one descriptor; returns (address, bank, data) of activation writes, and all pulses."""
    dut, writes, pulses = Loader(config), [], []

    async def bench(ctx) -> None:
        ctx.set(dut.descriptor, bits)
        assert ctx.get(dut.done) and not ctx.get(dut.beats.ready)
        ctx.set(dut.start, 1)
        left = list(words)
        sent_all = False
        while not sent_all:
            ctx.set(dut.beats.valid, bool(left) and rng.random() >= pause)
            ctx.set(dut.beats.payload, left[0] if left else 0)
            for name in ("weights_start", "slots_start", "weights_enable", "slots_enable",
                         "act_enable"):
                if ctx.get(getattr(dut, name)):
                    pulses.append(name)
                    if name.endswith("enable"):
                        assert ctx.get(dut.data) == left[0]
            if ctx.get(dut.act_enable):
                writes.append((ctx.get(dut.act_address), ctx.get(dut.act_bank), left[0]))
            if ctx.get(dut.beats.valid) and ctx.get(dut.beats.ready):
                left.pop(0)
            await ctx.tick()
            ctx.set(dut.start, 0)
            sent_all = not left
            assert ctx.get(dut.done) == sent_all
        ctx.set(dut.beats.valid, 1)     # the next descriptor's, which is not for the loader
        assert not ctx.get(dut.beats.ready) and not ctx.get(dut.act_enable)

    pysim.run(dut, bench, cycles=20 * len(words) + 50)
    return writes, pulses


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("name", CONFIGS)
def test_load_tensor(name, pause, seed):
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    for shape in SHAPES:
        place = place_of(shape, config)
        if place.address + place.words > config.act_depth:
            continue
        tensor = random_tensor(place, rng)
        words = beats_of(place.pack(tensor), config)
        assert len(words) == place.beats
        bits = descriptor(isa.TENSOR, opcode=Opcode.LOAD_TENSOR, **_tensor_fields("t", place))
        writes, pulses = load(config, words, bits, pause=pause, rng=rng)
        memory = np.zeros((config.banks, config.act_depth, config.k), np.int64)
        for address, bank, word in writes:
            memory[bank, address] = [word >> 4 * j & 15 for j in range(config.k)]
        np.testing.assert_array_equal(memory, act_memory(place, tensor, config.act_depth))
        assert pulses == ["act_enable"] * place.beats
        assert len({write[:2] for write in writes}) == place.beats


@pytest.mark.parametrize(("opcode", "what"), [(Opcode.LOAD_WEIGHTS, "weights"),
                                              (Opcode.LOAD_SLOTS, "slots")])
def test_load_words(opcode, what, seed):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 32, 11).tolist()
    bits = descriptor(isa.TRANSFER, opcode=opcode, beats=len(words), destination=5)
    writes, pulses = load(TINY, words, bits, pause=0.5, rng=rng)
    assert not writes
    assert pulses == [f"{what}_start"] + [f"{what}_enable"] * len(words)


@pytest.mark.parametrize("unit", [Loader, Storer])
def test_nothing_to_move(unit):
    dut = unit(TINY)

    async def bench(ctx) -> None:
        ctx.set(dut.descriptor, descriptor(isa.TRANSFER, opcode=Opcode.STORE_WIDE))
        ctx.set(dut.start, 1)
        for _ in range(4):
            await ctx.tick()
            ctx.set(dut.start, 0)
            assert ctx.get(dut.done)
            assert not (ctx.get(dut.beats.valid) and ctx.get(dut.beats.ready))

    pysim.run(dut, bench, cycles=5)


def store(config: AccelConfig, count: int, bits: int, memory: np.ndarray, wide: list[int], *,
          pause: float, rng: np.random.Generator) -> list[int]:
    """The beats of one descriptor; both buffers answer a cycle after their address."""
    dut, beats, cycles = Storer(config), [], [0]

    async def bench(ctx) -> None:
        ctx.set(dut.descriptor, bits)
        ctx.set(dut.start, 1)
        waiting = None
        while len(beats) < count:
            ctx.set(dut.beats.ready, rng.random() >= pause)
            if ctx.get(dut.beats.valid):
                payload = ctx.get(dut.beats.payload)
                assert waiting in (None, payload), "payload changed before it was taken"
                waiting = payload
                if ctx.get(dut.beats.ready):
                    beats.append(payload)
                    waiting = None
            else:
                assert waiting is None, "valid fell before the beat was taken"
            bank, address = ctx.get(dut.gather_bank), ctx.get(dut.gather_address)
            number = ctx.get(dut.wide_address)
            await ctx.tick()
            cycles[0] += 1
            ctx.set(dut.start, 0)
            assert ctx.get(dut.done) == (len(beats) == count)
            nibbles = memory[bank, address % config.act_depth]
            ctx.set(dut.gather_data, sum(int(n) << 4 * j for j, n in enumerate(nibbles)))
            ctx.set(dut.wide_data, wide[number % len(wide)])
        ctx.set(dut.beats.ready, 1)
        assert not ctx.get(dut.beats.valid)

    pysim.run(dut, bench, cycles=20 * count + 20)
    if not pause:
        assert cycles[0] == 3 * count + 1
    return beats


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("name", CONFIGS)
def test_store_tensor(name, pause, seed):
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    for shape in SHAPES:
        place = place_of(shape, config)
        if place.address + place.words > config.act_depth:
            continue
        tensor = random_tensor(place, rng)
        bits = descriptor(isa.TENSOR, opcode=Opcode.STORE_TENSOR, **_tensor_fields("t", place))
        beats = store(config, place.beats, bits, act_memory(place, tensor, config.act_depth), [0],
                      pause=pause, rng=rng)
        stored = b"".join(beat.to_bytes(config.bus_bits // 8, "little") for beat in beats)
        np.testing.assert_array_equal(place.unpack(stored), tensor)
        assert stored == place.pack(tensor)


@pytest.mark.parametrize("name", CONFIGS)
def test_store_wide(name, seed):
    config, rng = CONFIGS[name], np.random.default_rng(seed)
    wide = [-1, 1, 0, -(1 << 47), (1 << 47) - 1, *rng.integers(-(1 << 47), 1 << 47, 3).tolist()]
    count = len(wide) * 64 // config.bus_bits
    bits = descriptor(isa.TRANSFER, opcode=Opcode.STORE_WIDE, beats=count)
    beats = store(config, count, bits, np.zeros((config.banks, config.act_depth, config.k), int),
                  wide, pause=0.3, rng=rng)
    stored = b"".join(beat.to_bytes(config.bus_bits // 8, "little") for beat in beats)
    assert np.frombuffer(stored, "<i8").tolist() == wide
