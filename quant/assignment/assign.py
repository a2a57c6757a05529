# SPDX-License-Identifier: Apache-2.0
"""Assignment of schemes to rows (RMSMP, Algorithm 1)."""

import torch
from torch import Tensor, fx, nn

from ir.numerics import Scheme
from quant.assignment.methods import Method
from quant.nn.layers import (
    CopyLayer,
    QuantConv2d,
    QuantLinear,
    RowQuantised,
    quantised_layers,
)
from quant.nn.quantizers import SCHEMES


def variance(weight: Tensor) -> Tensor:
    """Variance of each row of ``weight`` (O, ...), float64 (O,) on the CPU."""
    return _moments(weight)[0]


def kurtosis(weight: Tensor) -> Tensor:
    """Fourth standardised moment of each row of ``weight`` (O, ...), float64 (O,) on the CPU.

    It is 3 for normally distributed weights, more with heavy tails.
    """
    second, fourth = _moments(weight)
    return fourth / second.square().clamp_min(torch.finfo(torch.float64).tiny)


def _moments(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows = weight.detach().flatten(1).double()
    squares = (rows - rows.mean(1, keepdim=True)).square_()
    return squares.mean(1).cpu(), squares.square_().mean(1).cpu()


def _split_key(
    weight: Tensor, split: str, generator: torch.Generator | None, errors: Tensor | None
) -> Tensor:
    """A number per row; those with the lower ones get the scheme of the first share."""
    match split:
        case "error":  # what PoT-4 costs more than Fixed-4
            if errors is None:
                raise ValueError("split error needs the errors of the schemes")
            return (errors[Scheme.POT4] - errors[Scheme.FIXED4]).cpu()
        case "variance":  # the paper's rule
            return variance(weight)
        case "kurtosis":  # PoT, dense at zero and coarse at the ends, fits heavy tails
            return -kurtosis(weight)
        case "random":
            return torch.rand(len(weight), generator=generator, dtype=torch.float64)
    raise ValueError(f"split must be variance, kurtosis, error or random, not {split!r}")


def assign_rows(
    weight: Tensor,
    score: Tensor,
    counts: tuple[int, int, int],
    *,
    base: int = Scheme.POT4,
    split: str = "variance",
    generator: torch.Generator | None = None,
    errors: Tensor | None = None,
) -> Tensor:
    """Schemes (uint8 (O,)) of a layer's rows, exactly ``counts`` of ``base``, Fixed4 and Fixed8.

    The rows with the largest ``score`` get Fixed8; ``split`` decides between the other two. Rows
    that are equal are served in order. ``weight`` is (O, ...), ``score`` (O,), ``errors``, for the
    split by error, (schemes, O).
    """
    of_base, _, fixed8 = counts
    scheme = torch.full((len(weight),), int(Scheme.FIXED4), dtype=torch.uint8)
    sensitive = torch.argsort(score.cpu(), descending=True, stable=True)[:fixed8]
    key = _split_key(weight, split, generator, errors)
    key[sensitive] = torch.inf
    scheme[torch.argsort(key, stable=True)[:of_base]] = int(base)
    scheme[sensitive] = int(Scheme.FIXED8)
    return scheme


def assign(
    model: nn.Module,
    method: Method,
    tile_rows: int,
    scores: dict[str, Tensor],
    *,
    split: str = "variance",
    first_last: str = "same",
    generator: torch.Generator | None = None,
    errors: dict[str, Tensor] | None = None,
) -> tuple[int, int]:
    """Assignment of schemes to every layer's rows, in place; returns (rows that changed, rows).

    Parameters
    ----------
    model : as :func:`quant.lowering.prepare.prepare` gives it
    tile_rows : rows of the accelerator's array, by which the counts per layer follow from the ratio
    scores : by layer, the sensitivity of each row; larger means Fixed8
    split : "variance" as in the paper, or its rivals "kurtosis", "error" and "random"
    first_last : "w8a8" makes every row of the first and the last layer Fixed8
    generator : of the random split, on the CPU; with the same state all rows keep their schemes
    errors : of the split by error, as :func:`quant.assignment.errors.row_errors` gives them

    Raises ValueError for another ``first_last``.
    """
    layers = quantised_layers(model)
    wide = wide_layers(model, first_last)
    changed = total = 0
    first: dict[nn.Parameter, RowQuantised] = {}
    joint_errors = _joint(layers, errors, len(Scheme)) if errors else {}
    scores = _joint(layers, scores)
    for name, layer in layers.items():
        if (leading := first.setdefault(layer.alpha, layer)) is not layer:
            layer.scheme.copy_(leading.scheme)  # the same rows
            continue
        rows = len(layer.weight)
        counts = row_counts(method, rows, tile_rows, wide=name in wide)
        changed += layer.assign(
            assign_rows(
                layer.weight,
                scores[name],
                counts,
                base=method.base,
                split=split,
                generator=generator,
                errors=joint_errors.get(name),
            )
        )
        total += rows
    return changed, total


def row_counts(
    method: Method, rows: int, tile_rows: int, *, wide: bool = False
) -> tuple[int, int, int]:
    """Rows of each scheme in a layer of ``rows``; a ``wide`` one has 8 bits in all of them."""
    return (0, 0, rows) if wide else method.ratio.rows(rows, tile_rows)


def wide_layers(model: nn.Module, first_last: str) -> set[str]:
    """Names of the layers that ``first_last`` gives 8 bits; raises ValueError for another."""
    if first_last not in ("same", "w8a8"):
        raise ValueError(f"first_last must be 'same' or 'w8a8', not {first_last!r}")
    layers = quantised_layers(model)
    order = _by_execution(model, [n for n, m in layers.items() if not isinstance(m, CopyLayer)])
    return {order[0], order[-1]} if first_last == "w8a8" and order else set()


def _joint(
    layers: dict[str, QuantConv2d | QuantLinear], scores: dict[str, Tensor], *sizes: int
) -> dict[str, Tensor]:
    """Scores (*sizes, O) of all layers: those with one weight have the sum of theirs, copies have
    zeros."""
    joint: dict[nn.Parameter, Tensor] = {}
    for name, layer in layers.items():
        own = scores.get(name)
        if own is None:
            own = torch.zeros(*sizes, len(layer.weight))
        joint[layer.alpha] = joint[layer.alpha] + own if layer.alpha in joint else own
    return {name: joint[layer.alpha] for name, layer in layers.items()}


def _by_execution(model: nn.Module, names: list[str]) -> list[str]:
    """The layers in the order of their use, which a graph knows; else as they were defined."""
    if isinstance(model, fx.GraphModule):
        return [name for node in model.graph.nodes if (name := str(node.target)) in names]
    return names


def scheme_table(model: nn.Module, scores: dict[str, Tensor]) -> list[dict[str, object]]:
    """Table of all rows: layer, row, scheme, score, variance, kurtosis and alpha of each.

    ``scores`` (O,) are those of each layer, by its name.
    """
    table = []
    for name, layer in quantised_layers(model).items():
        columns = {
            "score": scores.get(name, torch.zeros(len(layer.weight))),
            "variance": variance(layer.weight),
            "kurtosis": kurtosis(layer.weight),
            "alpha": layer.alpha.detach(),
        }
        numbers = zip(*(column.tolist() for column in columns.values()), strict=True)
        for row, (scheme, values) in enumerate(zip(layer.scheme.tolist(), numbers, strict=True)):
            table.append(
                {"layer": name, "row": row, "scheme": SCHEMES[scheme]}
                | dict(zip(columns, values, strict=True))
            )
    return table
