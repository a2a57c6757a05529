# SPDX-License-Identifier: Apache-2.0
"""Seed of the suite where the fixture ``seed`` does not reach: helpers and module fixtures."""

import os

import numpy as np


def suite_seed() -> int:
    """Seed of this run, the fixture's, also in processes that a test starts."""
    return int(os.environ["SEED"])


def suite_rng() -> np.random.Generator:
    """Generator of the suite's seed, a new one each time."""
    return np.random.default_rng(suite_seed())
