# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Memories of any depth against an array."""

import numpy as np
import pytest

from gateware.rtl.ram import Ram
from sim.backend import pysim


@pytest.mark.parametrize("depth", [8, 12, 14])
@pytest.mark.parametrize("sides", [{}, {"side": True}, {"side": True, "copied": True}], ids=str)
def test_words(depth, sides, seed):
    dut = Ram(width=6, depth=depth, **sides)
    rng, cycles = np.random.default_rng(seed), 150

    async def bench(ctx) -> None:
        words = np.zeros(depth, np.int64)
        for _ in range(cycles):
            read, write, side = rng.integers(0, depth, 3).tolist()
            value, enable = int(rng.integers(64)), int(rng.integers(2))
            ctx.set(dut.read_address, read)
            ctx.set(dut.write_address, write)
            ctx.set(dut.write_data, value)
            ctx.set(dut.write_enable, enable)
            if sides.get("copied"):
                ctx.set(dut.side_address, side)
            await ctx.tick()
            assert ctx.get(dut.read_data) == words[read]
            if sides:
                assert ctx.get(dut.side_data) == words[side if sides.get("copied") else write]
            if enable:
                words[write] = value

    pysim.run(dut, bench, cycles=cycles + 1)
