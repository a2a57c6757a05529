# SPDX-License-Identifier: Apache-2.0
"""The training loop: schedule, decay, what it does when training goes wrong, precision."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ir.cli import UserError
from quant.data import ArraySplit, Augment
from quant.lowering.prepare import calibrate, prepare
from quant.models.resnet import TinyResNet
from quant.nn import layers
from quant.nn.activations import ActQuantiser
from quant.training import loop
from quant.training.config import TrainConfig
from quant.training.device import memory_format, setup_torch

OPTIONS = {"epochs": 4, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.0, "seed": 1}


def nothing(loss: float, accuracy: float) -> None:
    """Nobody wants to know."""


@pytest.fixture
def data(seed) -> ArraySplit:
    rng = np.random.default_rng(seed)
    return ArraySplit(
        rng.integers(0, 256, (16, 1, 8, 8), dtype=np.uint8), np.arange(16) % 10, Augment(shift=1)
    )


@pytest.fixture
def model(seed, data) -> nn.Module:
    torch.manual_seed(seed)
    prepared = prepare(TinyResNet(width=2), data.batch(torch.arange(2))[0])
    calibrate(prepared, data.batch(torch.arange(16))[0])
    return prepared


def test_decay_spares_scales_and_training_keeps_them_positive(model, data) -> None:
    trainer = loop.Trainer(model, data, **OPTIONS | {"lr": 50.0, "weight_decay": 0.1})
    decay = {id(p): g["weight_decay"] for g in trainer.optimiser.param_groups for p in g["params"]}
    clips = [m for m in model.modules() if isinstance(m, ActQuantiser)]
    assert decay[id(model.conv1.weight)] == 0.1
    assert decay[id(model.conv1.alpha)] == decay[id(clips[0].clip)] == 0
    for _ in range(4):  # a step far too long
        try:
            trainer.epoch(nothing)
        except loop.Diverged:
            break
        assert all((m.alpha > 0).all() for m in layers.quantised_layers(model).values())
        assert all(m.clip > 0 for m in clips)


@pytest.mark.parametrize(
    ("width", "expected"), [(7, torch.contiguous_format), (8, torch.channels_last)]
)
def test_layout_avoids_torchs_overrun(width, expected) -> None:
    """torch 2.13 on CPUs: backward of a strided pointwise convolution of few channels, channels
    last, kills the process. Images of one channel must not bring that layout in, either."""
    model = TinyResNet(width=width)
    assert memory_format(model, "cpu") == expected
    assert memory_format(model, "cuda") == torch.channels_last
    images = Augment(shift=1)(torch.rand(2, 1, 8, 8), torch.ones(2, 3, dtype=torch.int64))
    assert images.stride() == (64, 64, 8, 1)


def test_learning_rate_warms_up_and_ends_at_zero(data) -> None:
    trainer = loop.Trainer(TinyResNet(width=1), data, **OPTIONS | {"epochs": 25, "lr": 0.2})
    rates = [trainer.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.04) and max(rates) == rates[4] > 0.19
    assert rates[100] == pytest.approx(0)
    trainer.epoch(nothing)
    assert [group["lr"] for group in trainer.optimiser.param_groups] == [rates[3]] * 2


@pytest.mark.parametrize(
    ("optimiser", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)]
)
def test_optimiser(optimiser, kind, model, data) -> None:
    trainer = loop.Trainer(model, data, optimiser=optimiser, **OPTIONS | {"lr": 1e-3})
    assert type(trainer.optimiser) is kind
    before = model.fc.bias.detach().clone()  # which learns, whatever ReLUs are dead at the start
    first = trainer.epoch(nothing)
    assert 0 < first.loss < 10 and not torch.equal(before, model.fc.bias)


def test_means_of_the_epoch(data) -> None:
    class Fixed(nn.Module):
        """Says class 0 of two with odds of e^1, whatever it sees."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.scale * torch.tensor([1.0, 0.0])).expand(len(x), 2)

    labels = np.array([0] * 12 + [1] * 4)
    split = ArraySplit(data.images, labels)
    seen = []
    result = loop.Trainer(Fixed(), split, **OPTIONS | {"lr": 1e-12}).epoch(
        lambda loss, accuracy: seen.append((loss, accuracy))
    )
    expected = 0.75 * np.log1p(np.exp(-1)) + 0.25 * np.log1p(np.exp(1))
    assert result.accuracy == 0.75 and result.loss == pytest.approx(expected)
    assert len(seen) == 4 and seen[-1] == (result.loss, result.accuracy)
    assert loop.accuracy(Fixed(), split) == 0.75


def test_several_inputs(data) -> None:
    """As texts have: tokens and where there are some."""

    class Twice(ArraySplit):
        def batch(self, *given, **options) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
            x, y = super().batch(*given, **options)
            return (x, -x), y

    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 10)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.fc((a - b).flatten(1))

    split = Twice(data.images, data.labels)
    model = Difference()
    trainer = loop.Trainer(model, split, **OPTIONS | {"lr": 0.05, "epochs": 30})
    losses = [trainer.epoch(nothing).loss for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    expected = model.fc(2 * split.batch(torch.arange(16))[0][0].flatten(1)).argmax(1)
    assert torch.equal(loop.predict(model, split), expected)


def test_state_continues_bit_for_bit(seed, data) -> None:
    """An epoch after loading is the epoch that follows saving, dropout included."""

    def make() -> tuple[nn.Module, loop.Trainer]:
        model = nn.Sequential(TinyResNet(width=2), nn.Dropout(0.5))
        return model, loop.Trainer(model, data, optimiser="adamw", **OPTIONS)

    torch.manual_seed(seed)
    model, trainer = make()
    trainer.epoch(nothing)
    state = copy.deepcopy((trainer.state_dict(), model.state_dict()))
    expected = trainer.epoch(nothing)
    torch.manual_seed(seed + 1)
    again, other = make()
    other.load_state_dict(state[0])
    again.load_state_dict(state[1])
    result = other.epoch(nothing)
    assert (result.loss, result.accuracy, result.lr) == (
        expected.loss,
        expected.accuracy,
        expected.lr,
    )
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_infinite_loss_stops_before_the_step(model, data) -> None:
    with torch.no_grad():
        model.fc.bias[0] = torch.inf
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(loop.Diverged, match=r"batch 1: the loss is (nan|inf)"):
        loop.Trainer(model, data, **OPTIONS).epoch(nothing)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


def test_loss_far_above_guessing_stops_after_a_while(model, data, monkeypatch) -> None:
    monkeypatch.setattr(loop, "PATIENCE", 6)
    trainer = loop.Trainer(model, data, **OPTIONS | {"lr": 1e-9})
    with torch.no_grad():
        model.fc.bias[9] = 100.0  # sure of a class that is nearly always wrong
    trainer.epoch(nothing)  # 4 batches
    with pytest.raises(
        loop.Diverged,
        match="batch 2: the loss has been above 3 times that of guessing for 6 batches",
    ):
        trainer.epoch(nothing)


def test_batches_far_above_guessing_are_counted_over_a_checkpoint(model, data, monkeypatch) -> None:
    monkeypatch.setattr(loop, "PATIENCE", 6)
    with torch.no_grad():
        model.fc.bias[9] = 100.0
    options = OPTIONS | {"lr": 1e-9}
    trainer = loop.Trainer(model, data, **options)
    trainer.epoch(nothing)  # 4 batches
    resumed = loop.Trainer(model, data, **options)
    resumed.load_state_dict(trainer.state_dict())
    with pytest.raises(loop.Diverged, match=r"batch 2: .* for 6 batches"):
        resumed.epoch(nothing)


def test_exploding_clip_stops(model, data) -> None:
    quantiser = next(m for m in model.modules() if isinstance(m, ActQuantiser))

    trainer = loop.Trainer(model, data, **OPTIONS | {"lr": 1e-9})
    trainer.optimiser.register_step_post_hook(lambda *_: quantiser.clip.data.mul_(10))
    with pytest.raises(loop.Diverged, match=r"last batch: the clip of .* grew from"):
        trainer.epoch(nothing)


def test_weights_that_the_last_step_broke(model, data) -> None:
    trainer = loop.Trainer(model, data, **OPTIONS)

    def smash(*_: object) -> None:
        if trainer.step == trainer.batches - 1:
            model.conv1.weight.data[0] = torch.nan

    trainer.optimiser.register_step_post_hook(smash)
    with pytest.raises(loop.Diverged, match=r"last batch: conv1\.weight is not finite"):
        trainer.epoch(nothing)


def test_mixed_precision_computes_in_bfloat16(model, data) -> None:
    kinds = []
    model.conv1.register_forward_hook(lambda layer, given, result: kinds.append(result.dtype))
    trainer = loop.Trainer(model, data, amp=True, **OPTIONS)
    assert 0 < trainer.epoch(nothing).loss < 10
    assert set(kinds) == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    loop.accuracy(model, data)
    assert kinds[-1] == torch.float32  # evaluation is what is exported


def test_a_torch_that_compiles_wrongly_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.11.0+cu130")
    setup_torch(TrainConfig())
    with pytest.raises(UserError, match=r"^torch 2.11.0\+cu130 compiles to wrong grad.* 2.12 or"):
        setup_torch(TrainConfig(compile=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
def test_compiled_step_is_the_same_step(data, monkeypatch) -> None:
    """With a compiler that takes seconds, not minutes."""
    plain = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10)
    )
    model = prepare(plain, data.batch(torch.arange(2))[0])
    calibrate(model, data.batch(torch.arange(16))[0])
    calls, original = [], torch.compile

    def compile_quickly(module: nn.Module) -> nn.Module:
        calls.append(module)
        return original(module, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile_quickly)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    expected = loop.Trainer(model, data, **OPTIONS).epoch(nothing)
    model.load_state_dict(state)
    result = loop.Trainer(model, data, compiled=True, **OPTIONS).epoch(nothing)
    assert calls == [model]
    assert result.loss == pytest.approx(expected.loss, rel=1e-4)


def test_batches_are_made_ahead_in_order(data, monkeypatch) -> None:
    """Where a GPU computes, a thread makes the next batch; the same ones as without."""
    made = {}
    for kind in ("cpu", "cuda"):
        trainer = loop.Trainer(TinyResNet(width=1), data, **OPTIONS)
        monkeypatch.setattr(trainer.processes, "device", torch.device(kind))
        parts = torch.arange(16).split(4)
        made[kind] = list(trainer._batches(parts))
        assert list(trainer._batches(())) == []
    for ours, others in zip(made["cpu"], made["cuda"], strict=True):
        assert all(map(torch.equal, ours, others))


def test_batch_norm_settles_on_the_data(data, model, monkeypatch) -> None:
    """Means over equal batches of what each layer sees under the final weights."""
    losses = iter([2.0, 1.0])
    monkeypatch.setattr(loop, "_mean_loss", lambda *_: next(losses))
    monkeypatch.setattr(loop, "EVALUATED", 8)
    plain = ArraySplit(data.images, data.labels)
    norm, seen = model.bn1, []
    model.conv1.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    before = copy.deepcopy(model.fc.state_dict())
    norm.running_mean.fill_(100.0)
    assert loop.reestimate_batch_norm(model, plain)
    assert [len(x) for x in seen] == [8, 8]
    expected = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, expected)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.momentum == 0.1 and model.training
    assert all(torch.equal(v, before[k]) for k, v in model.fc.state_dict().items())


def test_frozen_statistics_are_not_estimated(data, monkeypatch) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten())
    net.append(nn.Linear(72, 10))
    net[1].eval()
    frozen = prepare(net, data.batch(torch.arange(2))[0])
    before = copy.deepcopy(frozen.get_submodule("1").state_dict())
    losses = iter([2.0, 1.0])
    monkeypatch.setattr(loop, "_mean_loss", lambda *_: next(losses))
    assert loop.reestimate_batch_norm(frozen, data)
    loop.Trainer(frozen, data, **OPTIONS | {"lr": 0.0}).epoch(nothing)
    after = frozen.get_submodule("1").state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_statistics_that_fit_better_stay(data, model, monkeypatch) -> None:
    losses = iter([1.0, 1.0])
    monkeypatch.setattr(loop, "_mean_loss", lambda *_: next(losses))
    before = copy.deepcopy(model.state_dict())
    assert not loop.reestimate_batch_norm(model, data)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_networks_without_batch_norm_have_nothing_to_reestimate(data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.register_forward_hook(lambda *_: pytest.fail("the network was run"))
    assert not loop.reestimate_batch_norm(model, data)


def test_mean_loss_is_that_of_the_named_samples_as_they_are(data, model) -> None:
    x, y = data.batch(torch.tensor([3, 5, 9]))  # without augmentation
    expected = torch.nn.functional.cross_entropy(model.eval()(x), y).item()
    assert loop._mean_loss(model.train(), data, torch.tensor([3, 5, 9])) == pytest.approx(expected)
