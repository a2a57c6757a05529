# SPDX-License-Identifier: Apache-2.0
"""The rule that gives rows their schemes, and its rivals."""

import pytest
import torch
from torch import Tensor, nn

from ir.numerics import Scheme
from ir.ratio import Ratio
from quant.assignment.assign import assign, assign_rows, kurtosis, scheme_table
from quant.assignment.methods import Method, method
from quant.lowering.prepare import prepare
from quant.models import build
from quant.nn.apot import APOT4
from quant.nn.layers import quantised_layers, training_only
from quant.nn.quantizers import best_alpha, fake_quantise_weight
from tests.helpers.seeds import suite_seed


def test_rule() -> None:
    spread = torch.tensor([3.0, 1, 2, 6, 5, 4])
    weight = spread[:, None] * torch.tensor([-1.0, 1.0])
    score = torch.tensor([0.0, 9, 1, 2, 3, 8])
    # Rows 1 and 5 are sensitive. Of 0, 2, 3, 4 the lower variances are those of 2 and 0.
    expected = [
        Scheme.POT4,
        Scheme.FIXED8,
        Scheme.POT4,
        Scheme.FIXED4,
        Scheme.FIXED4,
        Scheme.FIXED8,
    ]
    assert assign_rows(weight, score, (2, 2, 2)).tolist() == expected
    expected = [APOT4 if s == Scheme.POT4 else s for s in expected]
    assert assign_rows(weight, score, (2, 2, 2), base=APOT4).tolist() == expected


def test_mean_does_not_count() -> None:
    weight = torch.tensor([[9.0, 9.1], [0.0, 1.0]])
    assert assign_rows(weight, torch.zeros(2), (1, 1, 0)).tolist() == [Scheme.POT4, Scheme.FIXED4]


def test_ties_go_in_order_of_rows() -> None:
    scheme = assign_rows(torch.ones(6, 4), torch.ones(6), (2, 3, 1))
    assert scheme.tolist() == [2, 0, 0, 1, 1, 1]


def test_kurtosis_of_known_rows() -> None:
    weight = torch.tensor([[-1.0, 1, -1, 1], [7.0, 9, 7, 9], [0, 0, 0, 4], [0, 0, 0, 0]])
    assert kurtosis(weight).tolist() == pytest.approx([1, 1, 7 / 3, 0])


def test_rows_with_heavy_tails_get_pot_by_kurtosis(seed) -> None:
    torch.manual_seed(seed)
    heavy = torch.distributions.Laplace(0, 1).sample((4, 500))
    weight = torch.cat([torch.rand(4, 500) - 0.5, heavy])
    by_variance = assign_rows(weight, torch.zeros(8), (4, 4, 0))
    by_kurtosis = assign_rows(weight, torch.zeros(8), (4, 4, 0), split="kurtosis")
    assert by_variance.tolist() == [0] * 4 + [1] * 4
    assert by_kurtosis.tolist() == [1] * 4 + [0] * 4

    def error(scheme: Tensor) -> Tensor:
        """Relative to the row's power."""
        alpha = best_alpha(weight, scheme, 1e-6)
        fake = fake_quantise_weight(weight, alpha, scheme)
        return ((fake - weight).square().sum(1) / weight.square().sum(1)).sum()

    assert error(by_kurtosis) < error(by_variance)


def test_random_split_follows_the_generator() -> None:
    weight = torch.arange(40.0)[:, None] * torch.tensor([-1.0, 1.0])
    first, again, other = (
        assign_rows(
            weight,
            torch.zeros(40),
            (20, 18, 2),
            split="random",
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert [int((first == s).sum()) for s in Scheme] == [20, 18, 2]
    assert first[:2].tolist() == [Scheme.FIXED8] * 2  # by score all the same


def test_unknown_split_and_ends(prepared) -> None:
    with pytest.raises(ValueError, match="split must be"):
        assign_rows(torch.ones(2, 2), torch.zeros(2), (1, 1, 0), split="mean")
    with pytest.raises(ValueError, match="first_last must be"):
        assign(prepared, method("rmsmp"), 16, {}, first_last="w4a4")


@pytest.fixture(scope="module")
def prepared() -> nn.Module:
    torch.manual_seed(suite_seed())
    return prepare(build("tiny", shape=(1, 8, 8), classes=10, width=12), torch.rand(2, 1, 8, 8))


def scores_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: torch.rand(len(m.weight)) for n, m in quantised_layers(model).items()}


def counts_of(layer: nn.Module, *schemes: int) -> tuple[int, ...]:
    return tuple(int((layer.scheme == s).sum()) for s in schemes)


@pytest.mark.parametrize("text", ["65:30:5", "0:100:0", "100:0:0", "0:0:100", "50:50:0"])
@pytest.mark.parametrize("tile_rows", [16, 32])
def test_row_counts_are_those_of_the_hardware(text, tile_rows, prepared, seed) -> None:
    torch.manual_seed(seed)
    ratio = Ratio.parse(text)
    _, rows = assign(prepared, method("rmsmp", text), tile_rows, scores_of(prepared))
    assert rows == 4 * 12 + 3 * 24 + 3 * 48 - 12 + 10
    for layer in quantised_layers(prepared).values():
        assert counts_of(layer, *Scheme) == ratio.rows(len(layer.weight), tile_rows)


@pytest.mark.parametrize("split", ["variance", "kurtosis", "random"])
def test_apot_takes_the_place_of_pot(split, prepared, seed) -> None:
    torch.manual_seed(seed)
    chosen = Method("any", Ratio(60, 30, 10), APOT4)
    assign(prepared, chosen, 16, scores_of(prepared), split=split)
    for layer in quantised_layers(prepared).values():
        assert counts_of(layer, APOT4, 1, 2) == chosen.ratio.rows(len(layer.weight), 16)
        assert counts_of(layer, Scheme.POT4) == (0,)
    assert training_only(prepared) == list(quantised_layers(prepared))
    assign(prepared, method("rmsmp"), 16, scores_of(prepared))
    assert training_only(prepared) == []


def test_first_and_last_layer_can_have_8_bits(prepared, seed) -> None:
    torch.manual_seed(seed)
    assign(prepared, method("pot4"), 16, scores_of(prepared), first_last="w8a8")
    wide = [n for n, m in quantised_layers(prepared).items() if bool((m.scheme == 2).any())]
    assert wide == ["conv1", "fc"]
    for name, layer in quantised_layers(prepared).items():
        scheme = Scheme.FIXED8 if name in wide else Scheme.POT4
        assert counts_of(layer, scheme) == (len(layer.weight),)


def test_first_and_last_are_those_of_the_computation() -> None:
    class Sandwich(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ends = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.middle = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.ends[1](self.middle(self.ends[0](x).relu()).relu())

    model = prepare(Sandwich(), torch.rand(2, 4))
    assert list(quantised_layers(model)) == ["ends.0", "ends.1", "middle"]
    assign(model, method("fixed4"), 16, scores_of(model), first_last="w8a8")
    schemes = {n: m.scheme.unique().tolist() for n, m in quantised_layers(model).items()}
    assert schemes == {"ends.0": [2], "middle": [1], "ends.1": [2]}


def test_second_assignment_with_the_same_values_changes_nothing(prepared, seed) -> None:
    torch.manual_seed(seed)
    scores = scores_of(prepared)
    for split in ("variance", "kurtosis", "random"):

        def again(split: str = split) -> tuple[int, int]:
            return assign(
                prepared,
                method("rmsmp"),
                16,
                scores,
                split=split,
                generator=torch.Generator().manual_seed(seed),
            )

        changed, rows = again()
        assert 0 < changed < rows
        assert again() == (0, rows)


def test_table_has_a_record_per_row(seed) -> None:
    torch.manual_seed(seed)
    model = prepare(build("tiny", shape=(1, 8, 8), classes=10, width=2), torch.rand(2, 1, 8, 8))
    layers, scores = quantised_layers(model), scores_of(model)
    assign(model, method("apot4"), 16, scores)
    table = scheme_table(model, scores)
    assert [(r["layer"], r["row"]) for r in table] == [
        (n, i) for n, m in layers.items() for i in range(len(m.weight))
    ]
    weight = model.conv1.weight[0].flatten()
    assert table[0] == {
        "layer": "conv1",
        "row": 0,
        "scheme": "APOT4",
        "score": scores["conv1"][0].item(),
        "variance": pytest.approx(weight.var(correction=0).item()),
        "kurtosis": pytest.approx(
            ((weight - weight.mean()) / weight.std(correction=0)).pow(4).mean().item()
        ),
        "alpha": model.conv1.alpha[0].item(),
    }
