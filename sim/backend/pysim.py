# SPDX-License-Identifier: Apache-2.0
"""Amaranth's own simulator, with a limit of cycles."""

from collections.abc import Callable, Coroutine
from typing import Any

from amaranth.lib import wiring
from amaranth.sim import Simulator

from sim.formal.watched import Watched

#: A testbench: a coroutine function of Amaranth's simulator context.
Bench = Callable[[Any], Coroutine[Any, Any, None]]


def run(
    component: wiring.Component,
    *benches: Bench,
    cycles: int,
    background: tuple[Bench, ...] = (),
    fair_bench: bool = False,
) -> None:
    """Simulation by Amaranth until every one of ``benches`` has returned.

    Those of ``background`` may go on for ever; they must await plain triggers only, no ``repeat``,
    ``until`` or ``async for``, which do not survive being dropped at the end of the run.

    Raises AssertionError when that takes more than ``cycles`` cycles, or when a unit breaks the
    contract of a stream (:mod:`sim.formal.monitor`), with ``fair_bench`` also when the bench does.
    """
    watched = Watched(component, fair_bench=fair_bench)

    async def watch(ctx: Any) -> None:
        # Not `repeat`: it complains when it is dropped in the middle, as background benches are.
        for cycle in range(cycles):
            _, _, broken = await ctx.tick().sample(watched.broken)
            if broken:
                names = [name for i, name in enumerate(watched.names) if broken >> i & 1]
                raise AssertionError(f"cycle {cycle}: contract broken by {', '.join(names)}")
        raise AssertionError(f"{type(component).__name__}: not finished after {cycles} cycles")

    simulator = Simulator(watched)
    simulator.add_clock(1e-8)
    for bench in benches:
        simulator.add_testbench(bench)
    for bench in (*background, watch):
        simulator.add_testbench(bench, background=True)
    simulator.run()
