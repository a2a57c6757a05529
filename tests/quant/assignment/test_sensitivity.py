# SPDX-License-Identifier: Apache-2.0
"""The batched scores against loops over rows: the Hessian by double differentiation, the
Gauss-Newton matrix by the Jacobian, and Algorithm 1's power iteration."""

import copy
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.assignment import derivatives, sensitivity
from quant.nn.layers import QuantConv2d, QuantLinear, quantised_layers


class Odd(nn.Module):
    """Piecewise linear, with every kind of convolution, not defined in the order of the calls."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(6, classes)
        self.unused = nn.Linear(2, 5)
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 1), groups=2, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=6)
        self.mirror = nn.Conv2d(6, 6, (1, 3), padding=(0, 2), padding_mode="reflect")
        self.point = nn.Conv2d(6, 6, 1, stride=2)
        self.hidden = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()  # in place, right after the layer
        x = F.relu(self.grouped(self.bn(x)))
        x = x + F.relu(self.depthwise(x))
        x = F.relu(self.point(F.relu_(self.mirror(x))))
        x = F.relu(self.hidden(x.flatten(2).mT))  # (N, T, C)
        return self.fc(x.mean(1))


class Text(nn.Module):
    """Attention, GELU and layer-norm on tokens; a mask goes with them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.query, self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 6), nn.Linear(6, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(tokens)
        scores = (self.query(x) @ self.key(x).mT).masked_fill(mask[:, None] == 0, -1e9)
        x = self.norm(x + scores.softmax(2) @ self.value(x))
        rows = F.gelu(self.up(x.flatten(0, 1)))  # (N * T, C)
        return self.fc((x + self.down(rows).view_as(x))[:, 0])


@pytest.fixture
def odd(seed) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    model, images = Odd().double(), torch.rand(7, 2, 7, 6, dtype=torch.float64)
    model.train()(images)  # moves the running statistics off their start
    return model.eval(), images


@pytest.fixture
def text(seed) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(seed)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [4], [2], [5]])
    return Text().double().eval(), (torch.randint(9, (6, 5)), mask.long())


def weighted(model: nn.Module) -> dict[str, nn.Module]:
    return {
        n: m
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and n != "unused"
    }


def hessian_block(model: nn.Module, images: Tensor, layer: nn.Module, row: int) -> Tensor:
    """The row's block of the Hessian, one double differentiation per weight."""
    # Labels do not matter: the second derivative of cross entropy has none.
    loss = F.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long))
    gradient = torch.autograd.grad(loss, layer.weight, create_graph=True)[0][row].flatten()
    return torch.stack(
        [
            torch.autograd.grad(g, layer.weight, retain_graph=True)[0][row].flatten()
            for g in gradient
        ]
    )


def gauss_newton_blocks(model: nn.Module, inputs: tuple, name: str) -> Tensor:
    """All rows' blocks of the Gauss-Newton matrix (rows, terms, terms) from the whole Jacobian."""

    def logits(weight: Tensor) -> Tensor:
        return torch.func.functional_call(model, {f"{name}.weight": weight}, inputs)

    weight = model.get_parameter(f"{name}.weight").detach()
    jacobian = torch.autograd.functional.jacobian(logits, weight).flatten(3)  # (N, C, O, K)
    p = logits(weight).detach().softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return torch.einsum("ncok,ncd,ndol->okl", jacobian, middle, jacobian) / len(p)


def power_iteration(block: Tensor, v: Tensor, iterations: int) -> float:
    """Algorithm 1 with the Rayleigh quotient."""
    for _ in range(iterations):
        if not v.any():
            return 0.0  # a dead row
        v = v / v.norm()
        v, value = block @ v, float(v @ block @ v)
    return value


@pytest.mark.parametrize("iterations", [1, 3, 40])  # many favour blocks, few derivatives
@pytest.mark.parametrize("workspace", [1, 1 << 29])  # batches of one image, or one batch
def test_equals_the_loop_over_rows(odd, monkeypatch, iterations, workspace, seed) -> None:
    model, images = odd
    monkeypatch.setattr(derivatives, "WORKSPACE", workspace)
    monkeypatch.setattr(sensitivity, "TILE", workspace)
    found = sensitivity.row_eigenvalues(
        model, images, iterations=iterations, tolerance=0, seed=seed
    )
    assert list(found) == [
        n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    assert torch.equal(found["unused"], torch.zeros(5, dtype=torch.float64))
    generator = torch.Generator().manual_seed(seed)
    for name in ("stem", "grouped", "depthwise", "mirror", "point", "hidden", "fc"):
        layer = model.get_submodule(name)
        start = torch.randn(layer.weight.flatten(1).shape, generator=generator).double()
        for row, v in enumerate(start):
            block = hessian_block(model, images, layer, row)
            largest = float(torch.linalg.eigvalsh(block)[-1])
            loop = power_iteration(block, v, iterations)
            value = found[name][row].item()
            if iterations == 1:
                assert value == pytest.approx(loop, rel=1e-8, abs=1e-14)
            elif iterations < 40:
                assert loop * (1 - 1e-9) <= value <= largest * (1 + 1e-9) + 1e-14
            else:
                assert value == pytest.approx(largest, rel=1e-8, abs=1e-14)


def test_both_forms_occur(odd) -> None:
    model, images = odd
    with derivatives.measuring(model):
        sweep = derivatives.Sweep(model, images, 0)
        kinds = [
            {type(sensitivity._product(layer, sweep, n)) for layer in sweep.layers.values()}
            for n in (1, 40)
        ]
    assert sensitivity._Factors in kinds[0] and sensitivity._Block in kinds[1]


@pytest.mark.parametrize(
    "form", [lambda *args: sensitivity._Block(*args[:2]), sensitivity._Factors]
)
def test_smooth_network_has_gauss_newton_blocks(text, monkeypatch, form) -> None:
    model, inputs = text
    monkeypatch.setattr(sensitivity, "_product", form)
    found = sensitivity.row_eigenvalues(model, inputs, iterations=40, tolerance=0)
    for name in weighted(model):
        blocks = gauss_newton_blocks(model, inputs, name)
        largest = torch.linalg.eigvalsh(blocks)[:, -1]
        torch.testing.assert_close(found[name], largest, rtol=1e-8, atol=1e-14)


def test_fisher_is_the_trace(odd, text) -> None:
    for model, inputs in ((odd[0], (odd[1],)), text):
        found = sensitivity.row_scores("fisher", model, inputs)
        for name in weighted(model):
            traces = gauss_newton_blocks(model, inputs, name).diagonal(dim1=1, dim2=2).sum(1)
            torch.testing.assert_close(found[name], traces, rtol=1e-10, atol=1e-14)


def test_single_precision_keeps_the_values(odd) -> None:
    model, images = odd
    exact = sensitivity.row_eigenvalues(model, images)
    found = sensitivity.row_eigenvalues(model.float(), images.float())
    for name in exact:
        torch.testing.assert_close(found[name].double(), exact[name], rtol=1e-3, atol=1e-9)


def test_memory_cuts_groups_and_changes_nothing(odd, monkeypatch) -> None:
    model, images = odd
    sizes = []
    groups = sensitivity._groups
    monkeypatch.setattr(
        sensitivity,
        "_groups",
        lambda products, memory: sizes.append(len(g := groups(products, memory))) or g,
    )
    whole = sensitivity.row_eigenvalues(model, images, seed=1, memory=1 << 30)
    steps = []
    parts = sensitivity.row_eigenvalues(
        model, images, seed=1, memory=1, report=lambda *step: steps.append(step)
    )
    assert sizes == [1, 7]
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert steps == [(i + 1, 14) for i in range(14)]  # a batch and a layer for each group


def test_groups_fill_the_memory_in_order() -> None:
    sizes = {"a": 3, "b": 4, "c": 9, "d": 1, "e": 7}
    products = {name: types.SimpleNamespace(bytes=size) for name, size in sizes.items()}
    assert sensitivity._groups(products, 8) == [["a", "b"], ["c"], ["d", "e"]]


def test_stops_at_the_tolerance() -> None:
    products = []

    def product(v: Tensor) -> Tensor:
        products.append(v)
        return v * torch.tensor([[1.0, 1, 4], [0, 0, 0]], dtype=torch.float64)

    v = torch.ones(2, 3, dtype=torch.float64)
    assert sensitivity._lanczos(product, v, 20, 1e-9).tolist() == pytest.approx([4, 0])
    assert len(products) == 3  # two different eigenvalues, and one to see it


def test_more_classes_are_sampled(seed, monkeypatch) -> None:
    torch.manual_seed(seed)
    model, images = Odd(classes=12).double().eval(), torch.rand(16, 2, 7, 6, dtype=torch.float64)
    exact = sensitivity.row_scores("fisher", model, images)
    monkeypatch.setattr(derivatives, "EXACT_CLASSES", 11)
    errors = []
    for samples in (4, 256):
        monkeypatch.setattr(derivatives, "SAMPLES", samples)
        found = sensitivity.row_scores("fisher", model, images, seed=3)
        errors.append(max(float((found[n] / exact[n] - 1).abs().max()) for n in weighted(model)))
    assert errors[1] < 0.05 < errors[0]
    again = sensitivity.row_scores("fisher", model, images, seed=3)
    assert all(torch.equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("scale", [1, 1e-24])
def test_more_iterations_than_dimensions(seed, scale) -> None:
    torch.manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(5, 4, 4)).Q
    values = torch.tensor([[4.0, 3, 2, 1], [4, 4, 4, 4], [4, 4, 1, 0], [0, 0, 4, 0], [0, 0, 0, 0]])
    blocks = basis @ torch.diag_embed(values * scale) @ basis.mT
    found = sensitivity._lanczos(
        lambda v: (blocks @ v[..., None])[..., 0], torch.randn(5, 4), 20, -1
    )
    torch.testing.assert_close(found / scale, torch.tensor([4.0, 4, 4, 4, 0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("classes", [2, 5])
def test_factor_of_the_softmax_hessian(classes) -> None:
    logits = torch.tensor(
        [
            [0.0] * classes,
            [-200.0] * (classes - 1) + [0],
            [0] + [-200.0] * (classes - 1),
            list(range(classes)),
        ]
    )
    p = logits.softmax(1)
    factor = derivatives._cotangents(p, None, classes - 1)
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    torch.testing.assert_close(
        torch.einsum("cni,cnj->nij", factor, factor), expected, rtol=1e-5, atol=1e-7
    )


def test_quantised_model_is_measured_without_its_quantisers(odd) -> None:
    model, images = odd[0].float(), odd[1].float()
    expected = {kind: sensitivity.row_scores(kind, model, images) for kind in ("hessian", "fisher")}
    for name, layer in weighted(model).items():
        kind = QuantConv2d if isinstance(layer, nn.Conv2d) else QuantLinear
        setattr(model, name, kind.from_float(layer))
    model.train()
    for kind, scores in expected.items():
        found = sensitivity.row_scores(kind, model, images)
        assert all(torch.equal(found[name], scores[name]) for name in scores)
    assert model.training and all(layer.quantise for layer in quantised_layers(model).values())
    assert all(p.requires_grad for p in model.parameters())


def test_random_scores_are_seeded(odd) -> None:
    first, again, other = (sensitivity.row_scores("random", *odd, seed=s) for s in (1, 1, 2))
    assert [len(v) for v in first.values()] == [3, 5, 4, 6, 6, 6, 6, 6]
    assert all(
        torch.equal(first[n], again[n]) and not torch.equal(first[n], other[n]) for n in first
    )


def test_dead_row_has_eigenvalue_zero(odd) -> None:
    model, images = odd
    with torch.no_grad():
        model.stem.weight[0], model.stem.bias[0] = 0, -1  # its ReLU is never open
    assert sensitivity.row_eigenvalues(model, images)["stem"][0] == 0


def test_calls_of_one_layer_add_their_values(seed) -> None:
    """As those of two layers with the same weights."""
    torch.manual_seed(seed)
    shared, last = nn.Linear(3, 3), nn.Linear(3, 3)
    nets = [
        nn.Sequential(nn.Linear(3, 3), shared, nn.ReLU(), second, last).double()
        for second in (shared, copy.deepcopy(shared))
    ]
    nets[1][0] = nets[0][0]
    images = torch.rand(5, 3, dtype=torch.float64)
    for measure in (sensitivity.row_eigenvalues, sensitivity.row_traces):
        once, twice = (measure(model, images) for model in nets)
        assert torch.allclose(once["1"], twice["1"] + twice["3"])
        assert torch.allclose(once["0"], twice["0"])


def test_what_cannot_be_measured_is_refused(odd) -> None:
    model, images = odd
    with pytest.raises(ValueError, match="unknown score 'hesse'"):
        sensitivity.row_scores("hesse", model, images)
    model.forward = lambda x: model.fc(model.point(x.flatten(0, 1)).mean((2, 3)))
    with pytest.raises(ValueError, match="layer point does not have the batch"):
        sensitivity.row_eigenvalues(model, torch.rand(2, 3, 6, 4, 4, dtype=torch.float64))
