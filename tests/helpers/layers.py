# SPDX-License-Identifier: Apache-2.0
"""Random layers whose outputs lie inside the clamp, not on its edges."""

from collections.abc import Sequence

import numpy as np

from ir import numerics
from ir.graph import LayerArrays
from ir.numerics import Scheme

MAX_REAL = 3.5  #: largest multiplier used; numerics.encode_multiplier takes less than 4


def random_layer(
    rng: np.random.Generator,
    counts: Sequence[int],
    shape: tuple[int, ...],
    *,
    bits: int,
    spread: float,
    centre: float,
) -> LayerArrays:
    """Layer of ``shape``, (rows, ...), with ``counts`` rows of each scheme in a random order, for
    an input of ``bits``; its outputs are about ``centre`` +- ``spread``."""
    scheme = rng.permutation(np.repeat(np.arange(len(Scheme)), counts))
    values = np.stack([rng.choice(numerics.weight_values(Scheme(s)), shape[1:]) for s in scheme])
    _fit_accumulator(values.reshape(len(values), -1), bits)
    return _requantisation(rng, values, scheme, bits, spread * rng.uniform(0.2, 0.5), centre)


def _requantisation(
    rng: np.random.Generator,
    values: np.ndarray,
    scheme: np.ndarray,
    bits: int,
    spread: float,
    centre: float,
) -> LayerArrays:
    """M, B and S that map sums of random activations to about ``centre`` +- ``spread``."""
    rows, top = values.reshape(len(values), -1), numerics.act_max(bits)
    multiplier, bias, shift = [], [], []
    for row in rows:
        deviation = max(float(np.sqrt((row**2).sum() / 12)) * top, 1.0)
        real = min(spread / deviation * rng.uniform(0.5, 1.5), MAX_REAL)
        m, s = numerics.encode_multiplier(real)
        mean = int(row.sum()) * top // 2
        multiplier.append(m)
        shift.append(s)
        bias.append((1 << s - 1) + round(centre * 2**s) - mean * m)
    return LayerArrays(values=values, scheme=scheme, multiplier=multiplier, bias=bias, shift=shift)


def _fit_accumulator(rows: np.ndarray, bits: int) -> None:
    """Zero the second half of rows that could leave the accumulator, until they cannot."""
    terms = rows.shape[1]
    while True:
        low, high = numerics.acc_bounds(rows, numerics.act_max(bits))
        too_large = np.maximum(-low, high) >= 1 << numerics.ACC_BITS - 1
        if not too_large.any():
            return
        terms //= 2
        rows[too_large, terms:] = 0


def share_shift(layer: LayerArrays) -> LayerArrays:
    """The same layer with the smallest shift for all rows, as logits need it."""
    shift = layer.shift.min()
    down = layer.shift - shift
    return LayerArrays(
        values=layer.values,
        scheme=layer.scheme,
        multiplier=layer.multiplier >> down,
        bias=layer.bias >> down,
        shift=np.full_like(layer.shift, shift),
    )
