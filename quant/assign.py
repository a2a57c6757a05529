# SPDX-License-Identifier: Apache-2.0
"""Which row gets which scheme (RMSMP, Algorithm 1)."""

import torch
from torch import Tensor, nn

from quant.layers import quantised_layers
from quant.numerics import Scheme
from quant.ratio import Ratio


def assign_rows(weight: Tensor, eigenvalue: Tensor, counts: tuple[int, int, int]) -> Tensor:
    """Schemes (uint8) of a layer's rows, exactly ``counts`` of PoT4, Fixed4 and Fixed8.

    The rows with the largest Hessian ``eigenvalue`` get Fixed8; of the rest, those with the lower
    variance get PoT4. Rows that are equal are served in order.
    """
    pot4, _, fixed8 = counts
    scheme = torch.full((len(weight),), int(Scheme.FIXED4), dtype=torch.uint8)
    sensitive = torch.argsort(eigenvalue.cpu(), descending=True, stable=True)[:fixed8]
    variance = weight.detach().flatten(1).var(1, correction=0).cpu()
    variance[sensitive] = torch.inf
    scheme[torch.argsort(variance, stable=True)[:pot4]] = int(Scheme.POT4)
    scheme[sensitive] = int(Scheme.FIXED8)
    return scheme


def assign(model: nn.Module, eigenvalues: dict[str, Tensor], ratio: Ratio,
           tile_rows: int) -> tuple[int, int]:
    """Give every layer's rows their schemes; returns (rows that changed, rows)."""
    changed = total = 0
    for name, layer in quantised_layers(model).items():
        counts = ratio.rows(len(layer.weight), tile_rows)
        changed += layer.assign(assign_rows(layer.weight, eigenvalues[name], counts))
        total += len(layer.weight)
    return changed, total


def scheme_table(model: nn.Module, eigenvalues: dict[str, Tensor]) -> list[dict[str, object]]:
    """One record per row: layer, row, scheme, eigenvalue, variance, alpha."""
    table = []
    for name, layer in quantised_layers(model).items():
        variance = layer.weight.detach().flatten(1).var(1, correction=0)
        for row in range(len(variance)):
            table.append({"layer": name, "row": row, "scheme": Scheme(int(layer.scheme[row])).name,
                          "eigenvalue": float(eigenvalues[name][row]),
                          "variance": float(variance[row]), "alpha": layer.alpha[row].item()})
    return table
