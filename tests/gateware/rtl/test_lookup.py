# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Tables of the requantisers: codes looked up or passed on, also while the next table comes."""

import numpy as np
import pytest
from amaranth import Value

from gateware.rtl.lookup import Lookup
from sim.backend import pysim


def stimulus(
    rng: np.random.Generator, lanes: int, tables: list[np.ndarray]
) -> tuple[list[dict[str, int]], list[list[int]]]:
    """Inputs cycle by cycle, and the results due :attr:`Lookup.latency` after each cycle's codes.

    Each table comes with pauses, while codes are passed on; then codes are looked up or passed on
    in any order.
    """
    cycles: list[dict[str, int]] = []
    due: list[list[int]] = []

    def cycle(used: bool, table: np.ndarray, **fill: int) -> None:
        codes = rng.integers(0, 256, lanes)
        # ``used`` belongs to the codes of the next cycle.
        if cycles:
            cycles[-1]["used"] = int(used)
        packed = sum(int(code) << 8 * q for q, code in enumerate(codes))
        cycles.append({"codes": packed, "used": 0, "start": 0, "enable": 0, "data": 0} | fill)
        due.append((table[codes] if used else codes).tolist())

    for table in tables:
        cycle(False, table, start=1)
        for entry in table.tolist():
            while rng.random() < 0.3:
                cycle(False, table, data=int(rng.integers(1 << 32)))
            noise = int(rng.integers(1 << 24)) << 8
            cycle(False, table, enable=1, data=noise | entry)
        for _ in range(3):
            cycle(False, table)
        for _ in range(400):
            cycle(rng.random() < 0.7, table)
    return cycles, due


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_codes_are_looked_up_or_passed_on(seed: int, lanes: int) -> None:
    rng = np.random.default_rng([seed, lanes])
    tables = [rng.integers(0, 256, 256, np.uint8) for _ in range(3)]
    cycles, due = stimulus(rng, lanes, tables)
    dut, found = Lookup(lanes, 32), []

    async def bench(ctx) -> None:
        for values in cycles + [cycles[-1]] * Lookup.latency:
            ctx.set(Value.cast(dut.codes), values["codes"])
            ctx.set(dut.used, values["used"])
            for name in ("start", "enable", "data"):
                ctx.set(getattr(dut.fill, name), values[name])
            await ctx.tick()
            found.append([ctx.get(dut.y[q]) for q in range(lanes)])

    pysim.run(dut, bench, cycles=len(cycles) + Lookup.latency + 1)
    assert found[Lookup.latency - 1 :][: len(due)] == due
