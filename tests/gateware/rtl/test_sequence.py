# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The loop nest of EXECUTE against nested Python loops, cycle by cycle."""

import dataclasses
import itertools

import numpy as np
import pytest

from gateware.arch import isa
from gateware.arch.config import AccelConfig
from gateware.rtl.sequence import TileLoop
from sim.backend import pysim
from tests.helpers.units import TINY, WIDER, fields

WRAP = 1 << isa.ADDRESS_BITS
CONFIGS = {
    "P2": TINY,
    "P4": WIDER,
    "one copy": dataclasses.replace(WIDER, act_copies=1),
    "two at once": dataclasses.replace(WIDER, drain_pixels=2),
    "one copy, four at once": dataclasses.replace(WIDER, pixels=8, act_copies=1, drain_pixels=4),
}


@dataclasses.dataclass
class Expected:
    """One word, and the job that comes with it or None."""

    request: dict[str, int]
    job: dict[str, int] | None


def nest(f: dict[str, int], pixels: int, weight_depth: int) -> list[Expected]:
    """The words of an EXECUTE in order, from its definition in :mod:`gateware.arch.isa`."""
    words, banks = [], 2 * pixels
    for out_y, out_x in itertools.product(range(f["out_height"]), range(0, f["out_width"], pixels)):
        inner = list(
            itertools.product(
                range(f["planes"] + 1),
                range(f["kernel_y"]),
                range(f["kernel_x"]),
                range(f["groups"]),
            )
        )
        for index, (plane, ky, kx, group) in enumerate(inner):
            y = out_y * f["stride_y"] + ky - f["pad_top"]
            first, last = (ky, kx, group) == (0, 0, 0), index == len(inner) - 1
            high_plane = f["planes"] == 1 and plane == 0
            request = {
                "first": int(first and plane == 0 and not f["resume"]),
                "shift": int(first and (plane == 1 or f["lower"])),
                "last": int(last),
                "row_address": (
                    f["first_row"]
                    + plane * f["plane_pitch"]
                    + group * f["group_pitch"]
                    + out_y * f["row_step"]
                    + ky * f["row_pitch"]
                )
                % WRAP,
                "row_inside": int(0 <= y < f["height"]),
                "x": out_x * f["stride_x"] + kx - f["pad_left"],
                "pad": f["pad_value"] >> 4 if high_plane else f["pad_value"] & 15,
                "weight_address": (f["weight_address"] + index % (len(inner) // (f["planes"] + 1)))
                % weight_depth,
            }
            job = {
                "pixel": (out_y * f["out_row_pitch"] + out_x // banks) % WRAP,
                "bank": out_x % banks,
                "count": min(pixels, f["out_width"] - out_x),
                "final": int(out_y == f["out_height"] - 1 and out_x + pixels >= f["out_width"]),
            }
            words.append(Expected(request, job if last else None))
    return words


def drain_cycles(f: dict[str, int], job: dict[str, int], config: AccelConfig) -> int:
    two = f["out_planes"] or (f["residual"] and f["residual_planes"])
    turns = -(-job["count"] // config.drain_pixels)
    turns += config.act_copies == 1 and not f["wide"] and turns % 2
    return f["slots"] * turns * (config.requant_lanes if f["wide"] else 2 if two else 1)


def issue_cycles(
    f: dict[str, int], words: list[Expected], config: AccelConfig, free: int = 0
) -> tuple[list[int], int]:
    """Cycle of each word, the first in cycle 0, and when the drain of the last ones is over.

    A last word waits until the sums before have been read; ``free`` is when an earlier EXECUTE's
    have been.
    """
    cycles, before, turns = [], -1, 3 - config.act_copies
    for word in words:
        before = max(before + 1, free if word.job else 0)
        cycles.append(before)
        if word.job:
            late = word.job["final"] and f["out_planes"]  # the last low nibble
            free = before + drain_cycles(f, word.job, config) + late * turns
    return cycles, free


SMALL = {
    "height": 5,
    "width": 5,
    "groups": 1,
    "kernel_y": 1,
    "kernel_x": 1,
    "stride_y": 1,
    "stride_x": 1,
    "out_height": 5,
    "out_width": 5,
    "slots": 1,
    "row_pitch": 2,
    "row_step": 2,
    "out_row_pitch": 2,
}
CASES = {
    "one pixel": {"out_height": 1, "out_width": 1},
    "one word a sum": {"slots": 3},
    "below the image": {"height": 0, "kernel_y": 3, "out_height": 4, "pad_value": 0x5A},
    "same size": {"kernel_y": 3, "kernel_x": 3, "pad_top": 1, "pad_left": 1, "pad_value": 0x5A},
    "strided": {
        "kernel_y": 3,
        "kernel_x": 3,
        "pad_top": 1,
        "pad_left": 1,
        "stride_y": 2,
        "stride_x": 2,
        "row_step": 4,
        "out_height": 3,
        "out_width": 3,
    },
    "two planes": {
        "planes": 1,
        "plane_pitch": 40,
        "groups": 2,
        "group_pitch": 10,
        "kernel_x": 2,
        "pad_value": 0x93,
    },
    "slow drain": {"groups": 3, "group_pitch": 10, "slots": 7, "out_planes": 1},
    "8-bit residual": {"slots": 2, "residual": 1, "residual_planes": 1},
    "wide": {"slots": 2, "wide": 1, "out_height": 1, "out_width": 1},
    "residual planes without residual": {"slots": 2, "residual_planes": 1},
    "wrapping": {
        "first_row": WRAP - 3,
        "weight_address": 30,
        "kernel_y": 3,
        "kernel_x": 2,
        "group_pitch": WRAP - 5,
        "groups": 2,
        "pad_top": 2,
        "pad_left": 1,
    },
    "largest pads": {
        "kernel_y": 2,
        "kernel_x": 2,
        "pad_top": 31,
        "pad_left": 31,
        "out_height": 2,
        "out_width": 4,
    },
    "long row": {"height": 1, "width": 1023, "out_height": 1, "out_width": 1023, "slots": 1},
}


def random_case(rng: np.random.Generator, pixels: int) -> dict[str, int]:
    any16 = (
        "first_row",
        "group_pitch",
        "row_pitch",
        "row_step",
        "plane_pitch",
        "out_row_pitch",
        "slot_address",
    )
    case = {name: int(rng.integers(WRAP)) for name in any16}
    case |= {
        name: int(rng.integers(2))
        for name in (
            "planes",
            "out_planes",
            "residual",
            "residual_planes",
            "pool",
            "pool_sum",
            "wide",
        )
    }
    case |= {
        name: int(rng.integers(1, 4))
        for name in ("groups", "kernel_y", "kernel_x", "stride_y", "stride_x", "out_height")
    }
    case |= {name: int(rng.integers(1, 12)) for name in ("height", "width")}
    return case | {
        "out_width": int(rng.integers(1, 2 * pixels + 2)),
        "pad_top": int(rng.integers(4)),
        "pad_left": int(rng.integers(4)),
        "weight_address": int(rng.integers(TINY.weight_depth)),
        "pad_value": int(rng.integers(256)),
        "slots": int(rng.integers(1, 9)),
    }


def _check_request(ctx, dut: TileLoop, word: Expected | None) -> None:
    """The request in this cycle is that of ``word``, or there is none."""
    request = dut.request
    assert ctx.get(request.control.valid) == (word is not None)
    if word is not None:
        got = {name: ctx.get(getattr(request.control, name)) for name in ("first", "shift", "last")}
        got |= {
            name: ctx.get(getattr(request, name))
            for name in ("row_address", "row_inside", "x", "pad", "weight_address")
        }
        assert got == word.request


def _check_job(ctx, dut: TileLoop, word: Expected | None, f: dict[str, int]) -> None:
    """The job in this cycle is that of ``word``, or there is none."""
    assert ctx.get(dut.job_valid) == (word is not None and word.job is not None)
    if word is not None and word.job is not None:
        assert {name: ctx.get(getattr(dut.job, name)) for name in word.job} == word.job
        assert all(
            ctx.get(dut.job.execute[name]) == f[name] for name in dict(dut.job.execute.shape())
        )


async def check(
    ctx,
    dut: TileLoop,
    f: dict[str, int],
    config: AccelConfig,
    *,
    free: int = 0,
    rest: int | None = None,
) -> tuple[int, int]:
    """Run one EXECUTE against :func:`nest`; returns the cycles it stalled, and the cycle, counted
    from the next EXECUTE's first word, from which on that one's last words may go.

    After the last word ``rest`` cycles pass, by default until the drain is over.
    """
    words = nest(f, config.pixels, config.weight_depth)
    cycles, end = issue_cycles(f, words, config, free)
    at = dict(zip(cycles, words, strict=True))
    final = max(at)
    rest = end - final if rest is None else rest
    ctx.set(dut.execute, isa.execute_layout(config).from_bits(isa.pack(isa.EXECUTE, **f)))
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    for _ in range(dut.setup - 1):
        assert not ctx.get(dut.issued)
        await ctx.tick()
    stalls = 0
    for cycle in range(final + rest + 1):
        assert ctx.get(dut.ending) == (cycle == final)
        word = at.get(cycle)
        assert ctx.get(dut.issued) == (word is not None), cycle
        assert ctx.get(dut.stalled) == (word is None and cycle < final), cycle
        stalls += ctx.get(dut.stalled)
        _check_job(ctx, dut, word, f)
        _check_request(ctx, dut, at.get(cycle - dut.latency))
        await ctx.tick()
    return stalls, end - (final + rest + 1) - dut.setup


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_cases(config):
    dut = TileLoop(config)

    async def bench(ctx) -> None:
        stalls = {
            name: (await check(ctx, dut, fields(isa.EXECUTE, **SMALL | case), config))[0]
            for name, case in CASES.items()
        }
        assert stalls["slow drain"] > 0 and stalls["same size"] == 0
        assert stalls["residual planes without residual"] < stalls["8-bit residual"]

    pysim.run(dut, bench, cycles=9000)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_sums_go_on(config):
    """With those of the EXECUTE before, in the same plane or in the lower one."""
    dut = TileLoop(config := dataclasses.replace(config, parts=True))
    one = SMALL | {"out_height": 1, "out_width": 1, "kernel_y": 2, "groups": 3}

    async def bench(ctx) -> None:
        for parts in ({}, {"resume": 1}, {"resume": 1, "lower": 1}):
            await check(ctx, dut, fields(isa.EXECUTE, **one | parts), config)

    pysim.run(dut, bench, cycles=1000)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_random(config, seed):
    # One after the other in one simulation, so that nothing is left over from the one before.
    dut, rng = TileLoop(config), np.random.default_rng(seed)

    async def bench(ctx) -> None:
        for _ in range(12):
            case = random_case(rng, config.pixels)
            await check(ctx, dut, fields(isa.EXECUTE, **case), config)

    pysim.run(dut, bench, cycles=20000)


@pytest.mark.parametrize("rest", [0, 1, 7])
def test_the_next_execute_waits_for_the_drain(rest):
    # Its first words do not.
    dut = TileLoop(TINY)
    slow = fields(isa.EXECUTE, **SMALL | {"slots": 30, "groups": 2, "out_height": 1})
    short = fields(isa.EXECUTE, **SMALL | {"slots": 1, "groups": 2, "out_height": 1})

    async def bench(ctx) -> None:
        _, free = await check(ctx, dut, slow, TINY, rest=rest)
        assert free > 10
        stalls, _ = await check(ctx, dut, short, TINY, free=free)
        assert stalls == free - 1

    pysim.run(dut, bench, cycles=500)
