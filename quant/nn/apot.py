# SPDX-License-Identifier: Apache-2.0
"""APoT-4, additive powers of two: a baseline of the paper's Table 1 that only training knows.

Li et al. 2020 (arXiv:1909.13144) split the three bits of a 4-bit magnitude into sums of two powers
of two. The accelerator has no lanes for them, which is why this scheme is no
:class:`ir.numerics.Scheme`; its number follows theirs. Only stdlib and numpy.
"""

import itertools

import numpy as np

APOT4 = 3  #: number of the scheme, next to those of Scheme
COARSE = (0.0, 2**-1, 2**-2, 2**-4)  #: one term of a magnitude
FINE = (0.0, 2**-3)  #: the other
UNIT = 2**-4  #: all sums are multiples of it


def apot4_values() -> np.ndarray:
    """Weight values of APoT-4, ascending, int64; the largest, 10, is the denominator."""
    magnitudes = sorted(int((a + b) / UNIT) for a, b in itertools.product(COARSE, FINE))
    return np.array([-m for m in magnitudes[:0:-1]] + magnitudes, dtype=np.int64)
