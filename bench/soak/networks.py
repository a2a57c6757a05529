# SPDX-License-Identifier: Apache-2.0
"""Random networks from PyTorch to the emulator; one that fails is made smaller.

Every second one has buffers of random size, mostly tiny (:mod:`bench.random_networks`).
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bench.random_networks import RandomNetwork, network, outcome
from bench.soak import Outcome, Verdict

SEEDS = 1_000_000  #: numbers of networks between two seeds


def case(seed: int, number: int, folder: Path) -> Outcome:
    """Outcome of a network: its number is what ``bench.random_networks --only`` takes."""
    name, buffers = SEEDS * seed + number, number % 2 == 1
    result, reason = outcome(name, buffers)
    if result != "FAULT":
        verdict = Verdict.EQUAL if result == "equal" else Verdict.REFUSED
        return Outcome(verdict, reason)
    kept = shrunk(network(name)[0], lambda net: outcome(name, buffers, net)[0] == "FAULT")
    option = " --buffers" if buffers else ""
    return Outcome(
        Verdict.FAULT,
        f"python -m bench.random_networks --only {name}{option}: {reason}; of its steps are "
        f"enough: {', '.join(kept.names)}, head {kept.head}",
    )


def shrunk(net: RandomNetwork, fails: Callable[[RandomNetwork], bool]) -> RandomNetwork:
    """Smallest network that was found by leaving out one step of ``net`` after the other for which
    ``fails`` is still true."""
    at = len(net.steps) - 1
    while at >= 0:
        smaller = without(net, at)
        if smaller is not None and fails(smaller):
            net = smaller
        at = min(at, len(net.steps)) - 1
    return net


def without(net: RandomNetwork, index: int) -> RandomNetwork | None:
    """Copy of ``net`` without a step, its head for what is left; None where no image fits."""
    smaller = copy.deepcopy(net)
    del smaller.names[index]
    smaller.steps = nn.ModuleList(s for i, s in enumerate(smaller.steps) if i != index)
    try:
        with torch.no_grad():
            x = torch.zeros(2, *smaller.image)
            for step in smaller.steps:
                x = step.eval()(x)
    except (RuntimeError, ValueError):
        return None
    channels, height, width = x.shape[1:]
    flat = channels * height * width if smaller.head == "linear" else channels
    smaller.final, smaller.final_map = nn.Linear(flat, 5), nn.Conv2d(channels, 3, 1)
    return smaller
