# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Splitter of commands into bursts, against the bursts of a model."""

import random

import pytest

from gateware.rtl.axi import BOUNDARY
from gateware.rtl.bursts import BurstSplitter
from sim.backend import pysim
from tests.helpers.axi_memory import commander, random_commands, split


@pytest.mark.parametrize("data_bits", [32, 64])
def test_splitter_gives_a_burst_in_two_cycles(data_bits: int, seed: int) -> None:
    rng, width = random.Random(seed), data_bits // 8
    commands = random_commands(rng, width, 30)
    expected = [burst for command in commands for burst in split(*command, width)]
    dut = BurstSplitter(addr_bits=32, data_bits=data_bits)
    got: list[tuple[int, int]] = []
    cycles: list[int] = []

    async def collect(ctx) -> None:
        ctx.set(dut.burst.ready, 1)
        burst = dut.burst.p
        async for _, _, valid, address, length in ctx.tick().sample(
            dut.burst.valid, burst.address, burst.length
        ):
            cycles.append(valid)
            if valid:
                got.append((address, length + 1))
            if len(got) == len(expected):
                return

    pysim.run(dut, commander(dut.command, commands), collect, cycles=1000)
    assert got == expected
    # A command is accepted and measured, then each burst but its last is followed by a measurement.
    assert cycles == [
        valid
        for command in commands
        for index, _ in enumerate(split(*command, width))
        for valid in ([0, 1] if index else [0, 0, 1])
    ]
    assert max(address for address, _ in got) > BOUNDARY
