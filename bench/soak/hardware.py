# SPDX-License-Identifier: Apache-2.0
"""Damaged programs, faults of the memory, aborts and resets of whole accelerators in Verilog.

A case is a random network on one of the arrays, and a simulation with many attacks of one kind
(:mod:`sim.benches.attack_bench`), after which the network must give the right output again.
"""

import dataclasses
import random
from pathlib import Path

import numpy as np

from bench.soak import Outcome, Verdict
from gateware.arch.config import AccelConfig
from gateware.compiler.program import compile_graph
from sim.formal.designs import CONFIG
from sim.verify.simulation import attack
from tests.helpers.graphs import random_graph, random_images

#: Tests of the bench, and attacks of a case; as often as they are here.
KINDS = (("programs", 400), ("moments", 60), ("programs", 400), ("faults", 60), ("silence", 15))
#: Arrays of the cases in turn: small, to be built in a minute.
ARRAYS: tuple[AccelConfig, ...] = (
    dataclasses.replace(CONFIG, weight_depth=64, slot_depth=16),
    dataclasses.replace(
        CONFIG,
        weight_depth=64,
        slot_depth=16,
        bus_bits=64,
        ports=4,
        act_copies=1,
        tables=True,
        parts=True,
    ),
)
STALLS = (0, 16, 64)  #: of 256, that a channel of the memory pauses in a cycle
SECONDS = 400  #: of a case, after which it ends with fewer attacks


def case(seed: int, number: int, folder: Path) -> Outcome:
    """Outcome of case ``number``: a simulation, for which ``folder`` is not needed."""
    rng = random.Random(f"{seed} {number}")
    testcase, count = KINDS[number % len(KINDS)]
    config = ARRAYS[number // len(KINDS) % len(ARRAYS)]
    numbers = np.random.default_rng([seed, number])
    graph = random_graph(numbers)
    found = attack(
        compile_graph(graph, config, dump=True),
        random_images(graph, numbers),
        testcase,
        seed=seed,
        first=number * count,
        count=count,
        seconds=SECONDS,
        stall=rng.choice(STALLS),
    )
    if found["failures"]:
        return Outcome(Verdict.FAULT, f"{testcase}: {'; '.join(found['failures'])}")
    counts = ", ".join(f"{name} {n}" for name, n in sorted(found["counts"].items()))
    return Outcome(Verdict.EQUAL, f"{testcase}: {counts}")
