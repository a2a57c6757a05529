# SPDX-License-Identifier: Apache-2.0
"""Means over seeds, and differences between runs that share a seed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from scipy import stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with the half width of its confidence interval (Student's t; infinite for one run)."""

    mean: float
    half_width: float
    count: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes zero."""
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of ``values`` with its confidence interval; raises ValueError when there are none."""
    count = len(values)
    if not count:
        raise ValueError("no values to average")
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, math.inf, 1)
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)
    return Estimate(mean, float(quantile) * math.sqrt(variance / count), count)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Mean of ``ours - theirs`` over the seeds that both have; None when they share none."""
    shared = sorted(ours.keys() & theirs.keys())
    return estimate([ours[s] - theirs[s] for s in shared]) if shared else None
