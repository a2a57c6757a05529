# SPDX-License-Identifier: Apache-2.0
from sim.world.system import LOGGED, read_counter_log


def test_log_of_two_runs() -> None:
    """A run begins where the first descriptor that is not complete goes back."""
    zeros = " 0" * (len(LOGGED) - 1)
    lines = [f"{index} {cycles}{zeros} " for index, cycles in ((1, 50), (3, 90), (0, 2), (1, 40))]
    first, second = read_counter_log("\n".join(lines))
    assert [(s["ERROR_DESCRIPTOR"], s["CYCLES"]) for s in first] == [(1, 50), (3, 90)]
    assert [(s["ERROR_DESCRIPTOR"], s["CYCLES"]) for s in second] == [(0, 2), (1, 40)]
