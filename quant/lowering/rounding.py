# SPDX-License-Identifier: Apache-2.0
"""Rounding margin: distance of sums from ties, where float32 and integers may differ."""

import numpy as np

from ir import numerics

MAX_SUMS = 1 << 22  #: of a row that are looked at; with more the gaps are as fine as float32


def centre_rounding_margin(
    multiplier: int,
    bias: int,
    shift: int,
    outputs: tuple[int, int],
    n: int = 0,
    residuals: tuple[int, int] = (0, 0),
) -> int:
    """Bias B that gives every sum the output that ``bias`` gives, with a rounding margin as large.

    ``y = (acc*M + r*N + B) >> S`` changes where the sum in brackets is a multiple of 2^S. Modulo
    2^S the sums leave a gap around that point; B moves by at most 2^(S-1), until it is in the
    middle of the gap. The gap is that of the sums which ``bias`` leaves unclamped: where a sum
    crosses the end of the output range with B, centring again would move B again, by a little.

    Parameters
    ----------
    multiplier, bias, shift : M, B and S of a row, of operands less their zero points
    outputs : least and largest ``y`` that is not clamped
    n, residuals : of a residual operand, its multiplier (:data:`ir.numerics.RESIDUAL_BITS`) and
        the least and largest r
    """
    low, high = outputs
    r = np.arange(residuals[0], residuals[1] + 1)[:, None]
    added = numerics.accumulate(0, multiplier, bias, shift, r, n)
    count = -(-((high + 1 - low) << shift) // multiplier) if multiplier else 1
    if count * len(added) > MAX_SUMS:
        return bias
    first = -((added - (low << shift)) // multiplier) if multiplier else 0 * added
    sums = numerics.accumulate(first + np.arange(count), multiplier, bias, shift, r, n)
    # The others are clamped: a whole step or more from where the output changes.
    rest = sums[(sums >= low << shift) & (sums < (high + 1) << shift)] & ((1 << shift) - 1)
    if not rest.size:
        return bias
    above, below = int(rest.min()), (1 << shift) - int(rest.max())
    return bias + (below - above) // 2
