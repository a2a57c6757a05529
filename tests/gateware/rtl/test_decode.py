# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Decoder: what it refuses is what the emulator refuses, of descriptors near every bound."""

import dataclasses
import random

import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.arch.isa import Base, Opcode
from gateware.arch.refusal import refusal
from gateware.arch.registers import ErrorCode
from gateware.rtl.decode import Decoder
from sim.backend import pysim
from tests.helpers.units import TINY, descriptor

BASES = {Base.PROGRAM: 0x1000_0000, Base.INPUT: 0xFFFF_F000, Base.OUTPUT: 0x3000_0004}
SIZES = {Base.PROGRAM: 0x8000, Base.INPUT: 0x1004, Base.OUTPUT: 0xFFFF_FFFF}
CONFIGS = {
    "a port of 32 bits": TINY,
    "4 ports of 64 bits, tables": dataclasses.replace(TINY, bus_bits=64, ports=4, tables=True),
}


def near_a_bound(rng: random.Random, config: AccelConfig) -> int:
    """A descriptor whose fields are all right, or almost."""
    opcode = rng.choice([*Opcode, rng.randrange(256)])
    if opcode == Opcode.EXECUTE:
        loops = {name: rng.choice([0, 1, 1, 1, 1, 2, 5]) for name in isa.LOOPS}
        return descriptor(isa.EXECUTE, opcode=opcode, **loops)
    base = rng.choice([*Base, *Base, *Base, 3, 255])
    beat, size = config.bus_bits // 8, SIZES.get(Base(base) if base < 3 else 0, 0x8000)
    beats = rng.choice([0, 1, 5, rng.randrange(1 << isa.BEATS_BITS)])
    spread = beats * rng.choice([1, config.ports])
    offset = rng.choice(
        [
            rng.getrandbits(32),
            (size // beat - spread + rng.choice([-1, 0, 0, 1])) * beat + rng.choice([0] * 9 + [1]),
            -beat,
        ]
    )
    offset %= 1 << 32
    return descriptor(isa.TRANSFER, opcode=opcode, base=base, offset=offset, beats=beats)


@pytest.mark.parametrize("name", CONFIGS)
def test_refuses_what_the_emulator_refuses(name: str, seed: int) -> None:
    config, rng, found = CONFIGS[name], random.Random(seed), dict.fromkeys(ErrorCode, 0)
    dut = Decoder(config)

    async def bench(ctx) -> None:
        for base in Base:
            ctx.set(dut.bases[base.name.lower()], BASES[base])
            ctx.set(dut.sizes[base.name.lower()], SIZES[base])
        for _ in range(1500):
            bits = near_a_bound(rng, config)
            header = isa.unpack(isa.TRANSFER, bits)
            ctx.set(dut.descriptor, bits)
            await ctx.tick()
            queues = [queue for queue in isa.QUEUES if ctx.get(dut.queue[queue])]
            end, address = ctx.get(dut.end), ctx.get(dut.address)
            await ctx.tick()
            outside = ctx.get(dut.outside)
            expected = refusal(bits, config, SIZES)
            found[expected] += 1
            assert end == (header["opcode"] == Opcode.END)
            if expected is ErrorCode.BAD_DESCRIPTOR or end:
                assert queues == []
                continue
            assert queues == [isa.decode(bits).queue]
            if queues != ["executes"]:
                assert bool(outside) == (expected is ErrorCode.OUT_OF_BOUNDS)
                assert address == (BASES[header["base"]] + header["offset"]) % (1 << 32)

    pysim.run(dut, bench, cycles=3100)
    assert min(found[code] for code in (0, 1, 6)) > 100
