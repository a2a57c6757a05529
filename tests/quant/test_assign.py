# SPDX-License-Identifier: Apache-2.0
"""The rule that gives rows their schemes."""

import pytest
import torch

from quant.assign import assign, assign_rows, scheme_table
from quant.layers import quantised_layers
from quant.models.tiny_resnet import TinyResNet
from quant.numerics import Scheme
from quant.prepare import prepare
from quant.ratio import Ratio


def test_rule() -> None:
    spread = torch.tensor([3.0, 1, 2, 6, 5, 4])
    weight = spread[:, None] * torch.tensor([-1.0, 1.0])
    eigenvalue = torch.tensor([0.0, 9, 1, 2, 3, 8])
    # Rows 1 and 5 are sensitive. Of 0, 2, 3, 4 the lower variances are those of 2 and 0.
    expected = [Scheme.POT4, Scheme.FIXED8, Scheme.POT4, Scheme.FIXED4, Scheme.FIXED4,
                Scheme.FIXED8]
    assert assign_rows(weight, eigenvalue, (2, 2, 2)).tolist() == expected


def test_mean_does_not_count() -> None:
    weight = torch.tensor([[9.0, 9.1], [0.0, 1.0]])
    assert assign_rows(weight, torch.zeros(2), (1, 1, 0)).tolist() == [Scheme.POT4, Scheme.FIXED4]


def test_ties_go_in_order_of_rows() -> None:
    scheme = assign_rows(torch.ones(6, 4), torch.ones(6), (2, 3, 1))
    assert scheme.tolist() == [2, 0, 0, 1, 1, 1]


@pytest.fixture(scope="module")
def prepared():
    return prepare(TinyResNet(width=12))


@pytest.mark.parametrize("text", ["65:30:5", "0:100:0", "100:0:0", "0:0:100", "50:50:0"])
@pytest.mark.parametrize("tile_rows", [16, 32])
def test_row_counts_are_those_of_the_hardware(text, tile_rows, prepared, seed) -> None:
    torch.manual_seed(seed)
    model, ratio = prepared, Ratio.parse(text)
    eigenvalues = {n: torch.rand(len(m.weight)) for n, m in quantised_layers(model).items()}
    _, rows = assign(model, eigenvalues, ratio, tile_rows)
    assert rows == 4 * 12 + 3 * 24 + 3 * 48 - 12 + 10
    for layer in quantised_layers(model).values():
        counts = tuple(int((layer.scheme == s).sum()) for s in Scheme)
        assert counts == ratio.rows(len(layer.weight), tile_rows)


def test_second_assignment_with_the_same_values_changes_nothing(seed) -> None:
    torch.manual_seed(seed)
    model, ratio = prepare(TinyResNet(width=4)), Ratio.parse("65:30:5")
    eigenvalues = {n: torch.rand(len(m.weight)) for n, m in quantised_layers(model).items()}
    changed, rows = assign(model, eigenvalues, ratio, 16)
    assert 0 < changed < rows
    assert assign(model, eigenvalues, ratio, 16) == (0, rows)


def test_table_has_a_record_per_row(seed) -> None:
    torch.manual_seed(seed)
    model = prepare(TinyResNet(width=2))
    layers = quantised_layers(model)
    table = scheme_table(model, {n: torch.rand(len(m.weight)) for n, m in layers.items()})
    assert [(r["layer"], r["row"]) for r in table] == [
        (n, i) for n, m in layers.items() for i in range(len(m.weight))]
    assert table[0]["scheme"] == "FIXED8"
    assert table[0]["variance"] == pytest.approx(
        model.conv1.weight[0].var(correction=0).item())
