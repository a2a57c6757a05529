# SPDX-License-Identifier: Apache-2.0
"""Activation functions by tables: captured whole, trained by their own gradient, exact."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ir import golden
from ir.graph import AvgPool, Conv
from ir.ratio import Ratio
from quant.capture.nodes import module_of
from quant.capture.trace import capture
from quant.capture.writer import UnsupportedLayer
from quant.lowering import verify
from quant.lowering.export import export
from quant.lowering.prepare import calibrate, prepare
from quant.nn.activations import ActQuantiser
from quant.nn.elementwise import Elementwise, TableQuantiser
from quant.nn.layers import QuantConv2d

RATIO = Ratio.parse("50:30:20")


class Fn(nn.Module):
    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


class Swish(nn.Module):
    """With a parameter that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


FUNCTIONS = {
    "leaky ReLU": nn.LeakyReLU(0.1),
    "PReLU of one slope": nn.PReLU(),
    "hard swish": nn.Hardswish(inplace=True),
    "hard swish by hand": Fn(lambda x: x * F.relu6(x + 3) / 6),
    "hard sigmoid": nn.Hardsigmoid(),
    "SiLU": nn.SiLU(inplace=True),
    "SiLU by hand": Fn(lambda x: x * torch.sigmoid(x)),
    "Swish": Swish(),
    "GELU": nn.GELU(),
    "GELU of tanh": nn.GELU("tanh"),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "ELU": nn.ELU(0.7),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(),
    "softplus": nn.Softplus(),
    "softsign": nn.Softsign(),
    "log sigmoid": nn.LogSigmoid(),
    "mish": nn.Mish(),
    "absolute value": Fn(torch.abs),
    "square": Fn(lambda x: x**2),
    "where": Fn(lambda x: torch.where(x > 0, x, 0.1 * x)),
    "maximum with a constant": Fn(lambda x: torch.maximum(x, torch.tensor(0.2) * x)),
    "in place": Fn(lambda x: x.clone().add_(1).mul_(0.5).tanh_()),
    "product with itself": Fn(lambda x: x * x),
    "mask": Fn(lambda x: (x > 0.1).float() * x),
    "hard tanh": nn.Hardtanh(),
    "randomised ReLU": nn.RReLU(),
    "threshold": nn.Threshold(0.1, 0.0),
    "two in a row": nn.Sequential(nn.SiLU(), nn.Tanh()),
}


def network(function: nn.Module, norm: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=not norm),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        function,
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def trained(model: nn.Module, seed: int, size: int = 6) -> tuple[nn.Module, np.ndarray]:
    """Prepared network after two steps, and images."""
    torch.manual_seed(seed)
    codes = torch.randint(256, (40, 3, size, size), dtype=torch.uint8)
    images = codes / 255
    prepared = prepare(model.eval(), images[:2])
    calibrate(prepared, images)
    optimiser = torch.optim.SGD(prepared.train().parameters(), 0.02)
    for _ in range(2):
        optimiser.zero_grad()
        prepared(images).square().mean().backward()
        optimiser.step()
    return prepared.eval(), codes.numpy()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_integers_are_those_of_the_trained_network(seed, name) -> None:
    torch.manual_seed(seed)
    model, codes = trained(network(FUNCTIONS[name], norm=seed % 2 == 1), seed)
    graph = export(model, torch.rand(1, 3, 6, 6), name="test", ratio=RATIO, tile_rows=8)
    logits = verify.verify(graph, codes)
    tensors, compared = golden.run(graph, codes), []

    def compare(name: str, out: Tensor) -> None:
        spec = graph.tensor(name)
        steps = out.detach().double() / spec.scale + spec.zero_point
        np.testing.assert_array_equal(steps.round().long().numpy(), tensors[name], name)
        compared.append(name)

    for at, module in model.named_modules():
        if isinstance(module, ActQuantiser) and at in tensors:
            module.register_forward_hook(lambda _m, _i, out, at=at: compare(at, out))
    with torch.no_grad():
        fake = model(torch.from_numpy(codes) / 255).double().numpy()
    assert len(compared) == 2
    flat = logits * graph.output.scale
    np.testing.assert_allclose(flat, fake, atol=1e-3 * max(fake.std(), 1e-3))
    tables = [n.table for n in graph.nodes if isinstance(n, Conv) and n.table]
    assert len(tables) == len(graph.tables) == 1, "a table, and no layer of its own"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_flat_graph_computes_the_same(seed, name) -> None:
    torch.manual_seed(seed)
    model, x = network(FUNCTIONS[name]).eval(), torch.rand(3, 3, 6, 6)
    flat = capture(model, x)
    torch.testing.assert_close(flat(x), model(x), rtol=1e-5, atol=1e-6)
    assert sum(isinstance(m, Elementwise) for m in flat.modules()) == 1
    buffer = io.BytesIO()
    torch.save(flat, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), flat(x))


def test_what_the_array_has_already_stays_as_it_is() -> None:
    kept = [nn.ReLU(), nn.ReLU6(), Fn(lambda x: x.clamp(0, 3)), Fn(lambda x: x.clamp_min(0))]
    for function in kept:
        flat = capture(network(function).eval(), torch.rand(2, 3, 6, 6))
        assert not any(isinstance(m, Elementwise) for m in flat.modules())


def test_gradient_is_the_functions_own(seed) -> None:
    torch.manual_seed(seed)
    for f in (F.silu, F.gelu, torch.tanh):
        prepared = prepare(network(Fn(f)), torch.rand(2, 3, 6, 6))
        calibrate(prepared, torch.rand(50, 3, 6, 6))
        quantiser = next(m for m in prepared.modules() if isinstance(m, TableQuantiser))
        grid = quantiser.arguments
        assert grid is not None
        inside = float(grid.clip.detach()) * torch.linspace(-0.2, 0.8, 30)
        x = inside.view(1, 1, 5, 6).requires_grad_()
        out = quantiser(x)
        out.sum().backward()
        rounded = grid(x).detach().requires_grad_()
        f(rounded).sum().backward()
        free = (out > quantiser.scale * quantiser.low) & (out < quantiser.scale * quantiser.high)
        assert free.sum() > 10
        torch.testing.assert_close(x.grad[free], rounded.grad[free])


def test_parameters_of_a_function_are_trained_under_their_name(seed) -> None:
    torch.manual_seed(seed)
    model = network(Swish())
    prepared, _ = trained(model, seed)
    assert prepared.get_parameter("2.beta").item() != 1.5
    assert model.state_dict().keys() <= prepared.state_dict().keys()


def test_values_that_two_read_take_a_layer(seed) -> None:
    """A sum that is read beside its function is stored; the function reads its codes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = F.silu(F.gelu(x) + self.a(x))
            return self.head(x.mean((2, 3)))

    model, codes = trained(Net(), seed)
    graph = export(model, torch.rand(1, 3, 6, 6), name="test", ratio=RATIO, tile_rows=8)
    verify.verify(graph, codes)
    kinds = {type(n): n.table for n in graph.nodes if getattr(n, "table", None)}
    assert kinds.keys() == {AvgPool, Conv}


def test_slopes_of_each_channel_are_a_depthwise_layer(seed) -> None:
    torch.manual_seed(seed)
    prelu = nn.PReLU(8)
    nn.init.uniform_(prelu.weight, -0.3, 1.2)
    model, codes = trained(network(prelu), seed)
    layer = model.get_submodule("2")
    assert isinstance(layer, QuantConv2d) and layer.groups == 8
    graph = export(model, torch.rand(1, 3, 6, 6), name="test", ratio=RATIO, tile_rows=8)
    verify.verify(graph, codes)
    # What the layer computes is the function, but for the steps of the grids.
    tensors = golden.run(graph, codes)
    codes_of = next(n for n in graph.nodes if n.name == "2")
    u, y = graph.tensor(codes_of.residual.tensor), graph.tensor(codes_of.output)
    real_u = torch.from_numpy((tensors[u.name] - u.zero_point) * u.scale)
    real_y = torch.from_numpy((tensors[y.name] - y.zero_point) * y.scale)
    slopes = 1 - layer.weight.detach().double().flatten()
    wanted = F.prelu(real_u, slopes)
    low, high = -y.zero_point * y.scale, (15 - y.zero_point) * y.scale
    error = (real_y - wanted.clamp(low, high)).abs().max().item()
    assert error < 0.5 * y.scale + 4 * u.scale


def test_functions_that_differ_per_channel_are_refused() -> None:
    limits = nn.Parameter(torch.rand(8, 1, 1))

    class Limit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.limits = limits

        def forward(self, x: Tensor) -> Tensor:
            return torch.minimum(x, self.limits)

    with pytest.raises(UnsupportedLayer, match="minimum"):
        prepare(network(Limit()), torch.rand(2, 3, 6, 6))


def test_slopes_of_vectors_are_refused() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 6), nn.PReLU(6), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)
    )
    with pytest.raises(UnsupportedLayer, match=r"'2'.*give it one slope for all channels"):
        prepare(model, torch.rand(2, 3, 2, 2))


def test_a_function_at_the_end_is_not_the_arrays() -> None:
    model = nn.Sequential(network(nn.ReLU()), nn.Sigmoid())
    captured = capture(model.eval(), torch.rand(2, 3, 6, 6))
    assert not any(isinstance(m, Elementwise) for m in captured.modules())


def test_functions_of_the_image_read_its_codes(seed) -> None:
    model = nn.Sequential(Fn(lambda x: torch.sqrt(x + 0.01)), network(nn.ReLU()))
    prepared, codes = trained(model, seed)
    graph = export(prepared, torch.rand(1, 3, 6, 6), name="test", ratio=RATIO, tile_rows=8)
    verify.verify(graph, codes)
    first = graph.nodes[0]
    assert isinstance(first, AvgPool) and first.input == graph.header.input
    table = graph.tables[first.table].astype(int)
    assert (np.diff(table) >= 0).all() and table[-1] > table[0]
    named = [n for n in prepared.graph.nodes if isinstance(module_of(n), TableQuantiser)]
    assert len(named) == 1


def test_a_relu_that_a_function_and_something_else_read(seed) -> None:
    """It is computed once for both; the function begins with what it reads."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = F.relu6(x)
            y = y * torch.tanh(x) + F.sigmoid(self.a(y))
            return self.head(y.mean((2, 3)))

    model, codes = trained(Net(), seed)
    graph = export(model, torch.rand(1, 3, 6, 6), name="test", ratio=RATIO, tile_rows=8)
    verify.verify(graph, codes)
