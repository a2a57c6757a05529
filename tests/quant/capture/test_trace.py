# SPDX-License-Identifier: Apache-2.0
"""Any module becomes a flat graph of standard modules that computes the same."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant.capture.trace import capture
from quant.capture.writer import UnsupportedLayer


class Functional(nn.Module):
    """The same operations in the many ways that people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict(
            {
                "a": nn.Conv2d(2, 4, 3, padding="same"),
                "b": nn.Conv2d(4, 4, 3, padding="valid", groups=2),
            }
        )
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.act = nn.ReLU(inplace=True)  # one module, called three times

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.body["a"](x)))
        y = F.pad(x, (1, 1, 0, 2))
        y = self.act(self.body["b"](y)).clone().contiguous()
        y = F.relu6(F.max_pool2d(y, 2, stride=1))
        y = self.act(F.avg_pool2d(y, (2, 3)))
        y = F.dropout(y.mean((-1, -2)), 0.3, self.training)
        return self.head(y.view(y.size(0), -1).detach())


def test_captured_module_computes_the_same(seed) -> None:
    torch.manual_seed(seed)
    model = Functional().eval()
    nn.init.normal_(model.norm.running_mean)
    captured = capture(model, torch.rand(1, 2, 6, 7))
    for batch in (1, 2, 5):
        x = torch.rand(batch, 2, 6, 7)
        assert torch.equal(captured(x), model(x))


def test_names_stay_and_the_model_is_left_alone(seed) -> None:
    torch.manual_seed(seed)
    model = Functional()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    captured = capture(model, torch.rand(2, 2, 6, 7))
    assert captured.training and model.training
    assert set(captured.state_dict()) == set(before)
    captured.load_state_dict(before)  # a checkpoint of the model fits
    with torch.no_grad():
        for value in captured.state_dict().values():
            value.fill_(7)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_every_call_of_a_shared_activation_is_its_own() -> None:
    captured = capture(Functional(), torch.rand(2, 2, 6, 7))
    names = {n for n, m in captured.named_modules() if isinstance(m, nn.ReLU | nn.Hardtanh)}
    assert len(names) == 4 and "act" in names


class Block(nn.Module):
    """A residual block with one activation, as nearly every ResNet has it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.b(self.relu(self.a(x))) + x)


class SharesAll(nn.Module):
    """Every module without weights is used more than once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(2, 4, 1), Block()
        self.relu, self.pool, self.average = nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2)
        self.drop, self.same, self.flat = nn.Dropout(0.2), nn.Identity(), nn.Flatten()
        self.pad, self.conv = nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3)
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.drop(self.relu(self.stem(self.same(self.pad(x))))))
        x = self.pool(self.same(self.block(self.pad(x))))
        x = self.average(self.average(self.relu(self.conv(self.pad(self.drop(x))))))
        x = self.relu(self.hidden(self.flat(self.same(x))))
        return self.head(self.flat(self.drop(x)))


def test_calls_of_one_module_become_siblings(seed) -> None:
    torch.manual_seed(seed)
    model = SharesAll().eval()
    captured = capture(model, torch.rand(2, 2, 14, 14))
    x = torch.rand(3, 2, 14, 14)
    assert torch.equal(captured(x), model(x))
    leaves = [node.target for node in captured.graph.nodes if node.op == "call_module"]
    assert {"relu", "relu_2", "relu_3", "block.relu", "block.relu_2", "average_2"} < set(leaves)
    assert len(leaves) == len(set(leaves)) == 22
    for name in leaves:
        assert not list(captured.get_submodule(name).children()), name
    assert set(captured.state_dict()) == set(model.state_dict())


class Padded(nn.Conv2d):
    """A convolution that holds modules of its own, with and without weights."""

    def __init__(self) -> None:
        super().__init__(2, 4, 3)
        self.pad, self.before, self.act = nn.ZeroPad2d((1, 1, 1, 1)), nn.Conv2d(2, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pad(self.act(self.before(x))))


def test_a_layer_may_hold_modules(seed) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(Padded(), nn.ReLU())
    captured = capture(model, torch.rand(2, 2, 5, 5))
    x = torch.rand(3, 2, 5, 5)
    assert torch.equal(captured(x), model(x))
    assert set(captured.state_dict()) == set(model.state_dict())
    assert type(captured.get_submodule("0.before")) is nn.Conv2d


class Act(nn.Module):
    """Parts and an operation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.pool = nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.pool(self.inner(x)))


def test_containers_stay_containers() -> None:
    shared = Act()
    model = nn.Sequential(nn.Conv2d(2, 4, 1), shared, nn.Conv2d(4, 2, 1), shared)
    leaves = [n.target for n in capture(model, torch.rand(2, 2, 8, 8)).graph.nodes]
    expected = "0 1.inner 1.pool 1.relu6 2 3.inner 3.pool 3.relu6"
    assert [n for n in leaves if n[0] in "0123"] == expected.split()


class Named(nn.Module):
    """A layer called ``name``."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.name, self.other = name, nn.Conv2d(2, 2, 1)
        self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self._modules[self.name](self.other(x))


@pytest.mark.parametrize("name", "graph code meta recompile _code print_readable in self".split())
@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Conv2d(2, 3, 1)], ids=["relu", "conv"])
def test_names_that_a_graph_has_for_itself(name, layer) -> None:
    model = Named(name, layer)
    captured = capture(model, torch.rand(2, 2, 5, 5))
    x = torch.rand(3, 2, 5, 5)
    assert torch.equal(captured(x), model(x))
    assert captured.get_submodule(f"{name}_") is not None
    nested = capture(nn.Sequential(model), torch.rand(2, 2, 5, 5))
    assert torch.equal(nested(x), model(x))


@pytest.mark.parametrize("momentum", [None, 0.03, 0.1])
def test_batch_norm_keeps_its_momentum(seed, momentum) -> None:
    """Statistics move as in the user's model."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, momentum=momentum, eps=1e-3))
    captured = capture(model, torch.rand(2, 2, 5, 5))
    for offset in range(3):
        x = torch.rand(8, 2, 5, 5, generator=torch.Generator().manual_seed(seed + offset))
        assert torch.equal(captured(x), model(x))
    assert captured.get_submodule("1").momentum == momentum
    for name, value in model.state_dict().items():
        assert torch.equal(captured.state_dict()[name], value), name


class KeepsFrozen(nn.Sequential):
    """Keeps its batch-norm in evaluation mode by itself."""

    def train(self, mode: bool = True) -> "KeepsFrozen":
        super().train(mode)
        self[1].eval()
        return self


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
@pytest.mark.parametrize("own", [True, False])
def test_frozen_batch_norm_stays_frozen(seed, kind, own, training) -> None:
    torch.manual_seed(seed)
    planar = kind is nn.BatchNorm2d
    layer, shape = (nn.Conv2d(2, 4, 1), (2, 5, 5)) if planar else (nn.Linear(6, 4), (6,))
    model = (KeepsFrozen if own else nn.Sequential)(layer, kind(4), nn.ReLU()).train(training)
    frozen = own or training
    if not own:
        model[1].eval()  # in a model that is evaluated this says nothing
    model[1].weight.requires_grad_(False)
    captured = capture(model, torch.rand(2, *shape))
    assert not captured.get_submodule("1").weight.requires_grad
    before = {k: v.clone() for k, v in captured.state_dict().items()}
    for _ in range(2):
        captured.train()(torch.rand(8, *shape))
    moved = [k for k, v in captured.state_dict().items() if not torch.equal(v, before[k])]
    assert (moved == []) == frozen
    assert captured.training and captured.get_submodule("1").training != frozen


def test_batch_norm_that_trains_on_batches_only(seed) -> None:
    """``track_running_stats`` switched off later keeps statistics, and does not train with them."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
    model[1].track_running_stats = False
    captured, x = capture(model, torch.rand(2, 2, 5, 5)), torch.rand(8, 2, 5, 5)
    assert torch.equal(captured(x), model(x))
    assert torch.equal(captured.eval()(x), model.eval()(x))
    for name, value in model.state_dict().items():
        assert torch.equal(captured.state_dict()[name], value), name


def test_weights_that_are_no_parameters(seed: int) -> None:
    """As those of a layer whose training is over: they stay as they are."""
    torch.manual_seed(seed)
    layer = nn.Conv2d(2, 4, 1)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    x = torch.rand(2, 2, 5, 5)
    flat = capture(nn.Sequential(layer), x)
    assert torch.equal(flat(x), layer(x))
    assert [n for n, p in flat.named_parameters() if p.requires_grad] == ["0.bias"]


@pytest.mark.parametrize(
    "example", [[torch.rand(2, 2, 5, 5)], torch.rand(0, 2, 5, 5), torch.tensor(1.0), (), "x"]
)
def test_examples_that_are_no_batch(example) -> None:
    with pytest.raises(TypeError, match="the example must be a batch"):
        capture(nn.Conv2d(2, 2, 1), example)


def test_nodes_know_shape_and_place() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Sequential(nn.ReLU()))
    nodes = {n.target: n for n in capture(model, torch.rand(2, 1, 5, 6)).graph.nodes}
    assert tuple(nodes["0"].meta["shape"][1:]) == (3, 3, 4)
    assert nodes["1.0"].meta["path"] == "1.0"


class Branches(nn.Module):
    """Control flow that depends on values, which no graph holds."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Reshaped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)


class Partly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(torch.cat([x, x], 1))
        y[:, 1:].add_(1)
        return y


class Mapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(8, 8)


class Spread(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.mean((2, 3), keepdim=True)


def net(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3)), *layers)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            net(nn.Upsample(scale_factor=2, mode="bicubic")),
            r"'1' of class Upsample: upsample_bicubic2d is not supported",
        ),
        (net(nn.GroupNorm(2, 4)), "'1' .*group_norm .*use batch-norm"),
        (net(nn.InstanceNorm2d(4)), "'1' .*instance_norm .*use batch-norm"),
        (net(nn.LayerNorm([4, 6, 6])), "'1' .*layer_norm .*use batch-norm"),
        (net(nn.Conv2d(4, 1, 3, padding=1, padding_mode="reflect")), "'1' .*pad .*only zeros"),
        (net(nn.BatchNorm2d(4, track_running_stats=False)), "'1' .*batch_norm .*its own batch"),
        (net(nn.MaxPool2d(2, dilation=2)), "'1' .*max_pool2d .*dilated pooling"),
        (net(nn.Flatten(2), nn.Linear(36, 2), nn.ReLU()), "more than a choice of channels"),
        (net(nn.Unflatten(1, (2, 2))), "'1' .*"),
        (Partly(), "add_ .*in place on a view of what is read again"),
        (Mapped(), "add .*differs between pixels"),
        (Spread(), "add .*only a constant can be spread"),
        (Branches(), "Branches is not supported: torch.export cannot follow"),
        (
            nn.Linear(8, 2),
            "layer '.model.' of class Linear: linear .*along the last axis of a map",
        ),
        (nn.LSTM(8, 2), "LSTM"),
        (Reshaped(), r"part of a shape: use flatten\(1\)"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(model, message) -> None:
    x = torch.rand(2, 1, 8, 8) if not isinstance(model, nn.LSTM) else torch.rand(2, 4, 8)
    with pytest.raises(UnsupportedLayer, match=message) as error:
        capture(model, x)
    assert "\n" not in str(error.value)


def test_torch_adds_no_traceback_of_its_own(caplog) -> None:
    """It logs the place in its own files where shapes do not fit."""
    with pytest.raises(UnsupportedLayer, match="cannot follow it"):
        capture(net(nn.Flatten(), nn.Linear(3, 1)), torch.rand(2, 1, 8, 8))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", ["padding", "stride", "groups", "alpha", "scheme", "quantise"])
def test_a_module_in_a_layer_may_have_the_name_of_an_attribute(seed, name) -> None:
    """As ``padding`` of a layer written out with its own weight."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
            self.add_module(name, nn.ZeroPad2d(1))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(self.get_submodule(name)(x), self.weight)

    torch.manual_seed(seed)
    model, x = nn.Sequential(Layer(), nn.Flatten(), nn.Linear(256, 2)), torch.rand(2, 3, 8, 8)
    assert torch.equal(capture(model, x)(x), model(x))
