# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The window against a padded image in numpy, word by word and over whole rows."""

import numpy as np
import pytest

from gateware.arch.config import AccelConfig
from gateware.rtl.payloads import WordRequest
from gateware.rtl.window import Window
from sim.backend import pysim
from sim.benches.stimulus import pack
from tests.helpers.units import TINY, WIDER

EIGHT = AccelConfig(
    pot4_rows=4,
    fixed4_rows=0,
    fixed8_rows=0,
    pixels=8,
    requant_lanes=4,
    bus_bits=32,
    act_depth=8,
    slot_depth=8,
)


def run(
    config: AccelConfig, memory: np.ndarray, requests: list[dict], *, stride: int, width: int
) -> tuple[list[int], list[int], list[int]]:
    """``act``, ``control`` and ``weight_address`` of each request, as soon as each is due.

    ``memory`` is (banks, depth, k) and answers one cycle after its addresses.
    """
    dut, layout = Window(config), WordRequest()
    address_bits = (config.act_depth - 1).bit_length()
    acts, controls, weights = [], [], []

    async def bench(ctx) -> None:
        ctx.set(dut.stride_x, stride)
        ctx.set(dut.width, width)
        await ctx.tick()  # the stride comes a cycle before its request
        addresses = 0
        for cycle in range(len(requests) + dut.latency):
            request = requests[min(cycle, len(requests) - 1)]
            ctx.set(dut.request, layout.const(request))
            await ctx.tick()
            words = [
                memory[bank, addresses >> bank * address_bits & config.act_depth - 1]
                for bank in range(config.banks)
            ]
            ctx.set(dut.read_data.as_value(), pack(np.concatenate(words), 4))
            addresses = ctx.get(dut.read_address.as_value())
            weights.append(ctx.get(dut.weight_address))
            acts.append(ctx.get(dut.act.as_value()))
            controls.append(ctx.get(dut.control.as_value()))

    pysim.run(dut, bench, cycles=len(requests) + dut.latency + 2)
    late = dut.latency - 1
    return tuple(
        seen[first:][: len(requests)]
        for seen, first in ((acts, late), (controls, late), (weights, 1))
    )


def expected(
    config: AccelConfig, memory: np.ndarray, request: dict, stride: int, width: int
) -> int:
    lanes = []
    for lane in range(config.pixels):
        x = request["x"] + stride * lane
        address = (request["row_address"] + x // config.banks) % config.act_depth
        inside = request["row_inside"] and 0 <= x < width
        lanes.append(
            memory[x % config.banks, address] if inside else np.full(config.k, request["pad"])
        )
    return pack(np.concatenate(lanes), 4)


STRIDES = [
    (config, stride)
    for config in (TINY, WIDER, EIGHT)
    for stride in range(1, config.max_stride + 1)
]


@pytest.mark.parametrize(("config", "stride"), STRIDES)
def test_random_words(config, stride, seed):
    rng, width = np.random.default_rng(seed), 3 * config.banks - 1
    memory = rng.integers(0, 16, (config.banks, config.act_depth, config.k))
    requests = []
    for _ in range(250):
        control = {
            name: int(bit)
            for name, bit in zip(
                ("valid", "first", "shift", "last"), rng.integers(0, 2, 4), strict=True
            )
        }
        edge = int(rng.choice([-2048, -31, width - 1, width, 1023]))
        near = int(rng.integers(-config.banks - 3, width + config.banks))
        x = near if rng.random() < 0.9 else edge
        requests.append(
            {
                "control": control,
                "row_address": int(rng.integers(1 << 16)),
                "row_inside": int(rng.random() < 0.8),
                "x": x,
                "pad": int(rng.integers(16)),
                "weight_address": int(rng.integers(1 << 16)),
            }
        )
    acts, controls, weights = run(config, memory, requests, stride=stride, width=width)
    for request, act, control, weight in zip(requests, acts, controls, weights, strict=True):
        assert act == expected(config, memory, request, stride, width), request
        assert control == sum(bit << i for i, bit in enumerate(request["control"].values()))
        assert weight == request["weight_address"]


@pytest.mark.parametrize("config", [TINY, WIDER], ids=["P2", "P4"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_padded_row(config, stride, seed):
    # The columns of one image row with three columns of padding on either side.
    rng, width, left, pad = np.random.default_rng(seed), 11, 3, 9
    row = rng.integers(0, 16, (width, config.k))
    memory = rng.integers(0, 16, (config.banks, config.act_depth, config.k))
    base = config.act_depth - 1  # the second quotient wraps
    for x in range(width):
        memory[x % config.banks, (base + x // config.banks) % config.act_depth] = row[x]
    padded = np.pad(row, ((left, left), (0, 0)), constant_values=pad)
    starts = range(0, len(padded) - stride * (config.pixels - 1))
    requests = [
        {
            "control": {"valid": 1},
            "row_address": base,
            "row_inside": 1,
            "x": start - left,
            "pad": pad,
        }
        for start in starts
    ]
    acts, _, _ = run(config, memory, requests, stride=stride, width=width)
    for start, act in zip(starts, acts, strict=True):
        assert act == pack(padded[start : start + stride * config.pixels : stride].reshape(-1), 4)


def test_largest_strides():
    assert [config.max_stride for config in (TINY, WIDER, EIGHT)] == [3, 2, 2]
