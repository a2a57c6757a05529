# SPDX-License-Identifier: Apache-2.0
"""The door's way from a float network to a graph, as users take and mistake it.

Mirrors no module: it uses the door as a whole.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import rmsmp
from ir import golden
from ir.arrays import ExportError
from ir.graph import IntGraph
from ir.vectors import Vectors, beside

CLASSES = 4
SHAPE = (3, 8, 8)


@pytest.fixture
def net(seed) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


@pytest.fixture
def images(seed) -> Tensor:
    return torch.randint(256, (16, *SHAPE), generator=torch.Generator().manual_seed(seed)) / 255


LABELS = torch.arange(16) % CLASSES


def decisions(graph: IntGraph, images: Tensor) -> Tensor:
    codes = images.mul(255).round().to(torch.int64).numpy()
    logits = golden.run(graph, codes)[graph.output.name]
    return torch.from_numpy(logits).flatten(1).argmax(1)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda q: pickle.loads(pickle.dumps(q)),
        copy.deepcopy,
        lambda q: copy.deepcopy(pickle.loads(pickle.dumps(q))),
        nn.DataParallel,
        AveragedModel,
        lambda q: torch.compile(q, backend="eager"),
    ],
)
def test_copies_and_wrappers_are_exported_alike(net, images, tmp_path, wrap) -> None:
    quantised = rmsmp.quantise(net, images)
    expected = rmsmp.export(copy.deepcopy(quantised), tmp_path / "a.safetensors")
    graph = rmsmp.export(wrap(quantised), tmp_path / "a.safetensors", images=images)
    assert graph.digest == expected.digest


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel])
def test_a_wrapped_network_is_quantised(net, images, wrap) -> None:
    names = rmsmp.quantise(wrap(net), images).state_dict()
    assert set(net.state_dict()) <= set(names)


@pytest.mark.parametrize("training", [True, False])
def test_export_keeps_the_mode(net, images, tmp_path, training) -> None:
    """A loop of the user's own goes on training its batch-norms."""
    quantised = rmsmp.quantise(net, images).train(training)
    rmsmp.export(quantised, tmp_path / "a.safetensors", images=images)
    assert all(module.training == training for module in quantised.modules())


@pytest.mark.parametrize("quantised", [True, False])
def test_frozen_batch_norm_stays_frozen(net, images, quantised) -> None:
    model = rmsmp.quantise(net, images) if quantised else net
    norm = model.train().get_submodule("1").eval()
    before = copy.deepcopy(norm.state_dict())
    rmsmp.evaluate(model, images, LABELS)
    assert model.training and not norm.training
    rmsmp.train(model, images, LABELS, batch_size=8, quiet=True)
    assert all(torch.equal(norm.state_dict()[k], v) for k, v in before.items() if "running" in k)


def test_a_network_in_evaluation_mode_is_trained(net, images) -> None:
    wrapped = nn.Sequential(net.eval())
    before = net[1].running_mean.clone()
    rmsmp.train(wrapped, images, LABELS, batch_size=8, quiet=True)
    assert not torch.equal(net[1].running_mean, before)


def test_float_checkpoint_after_quantise(net, images, tmp_path) -> None:
    """Scales of other weights are never computed with."""
    weights = {k: v * 4 if v.is_floating_point() else v for k, v in net.state_dict().items()}
    quantised = rmsmp.quantise(net, images)
    quantised.load_state_dict(weights, strict=False)
    for use in (
        lambda: quantised(images),
        lambda: rmsmp.evaluate(quantised, images, LABELS),
        lambda: rmsmp.train(quantised, images, LABELS, quiet=True),
        lambda: rmsmp.export(quantised, tmp_path / "a.safetensors"),
    ):
        with pytest.raises((ValueError, ExportError), match="checkpoint without scales"):
            use()
    other = rmsmp.quantise(net, images)
    quantised.load_state_dict(other.state_dict())
    assert torch.equal(quantised.eval()(images), other.eval()(images))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_quantise_without_gradients_around_it(net, images, tmp_path, mode) -> None:
    with mode():
        quantised = rmsmp.quantise(net, images + 0)
    F.cross_entropy(quantised.train()(images), LABELS).backward()
    graph = rmsmp.export(quantised, tmp_path / "a.safetensors", images=images)
    assert torch.equal(decisions(graph, images), quantised.eval()(images).argmax(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 2 - 1, "leave their normalisation out"),
        (lambda x: x * 255, "divide them by 255"),
        (lambda x: (x * 255).to(torch.uint8), "images are uint8"),
        (lambda x: x.where(x < 0.9, torch.nan), "not finite"),
        (lambda x: x[:0], "must be a batch"),
        (lambda x: torch.cat([x, x], 1), r"for \(N, 3, 8, 8\)|expected input"),
        (list, "must be a tensor"),
        (lambda x: x.numpy(), "must be a tensor"),
        (lambda x: (x,), "must be a tensor"),
    ],
)
def test_images_of_another_kind(net, images, tmp_path, change, message) -> None:
    quantised, wrong = rmsmp.quantise(net, images), change(images)
    labels = LABELS[: len(wrong)]
    for use in (
        lambda: rmsmp.quantise(net, wrong),
        lambda: rmsmp.train(quantised, wrong, labels, quiet=True),
        lambda: rmsmp.train(net, wrong, labels, quiet=True),
        lambda: rmsmp.evaluate(quantised, wrong, labels),
        lambda: rmsmp.export(quantised, tmp_path / "a.safetensors", images=wrong),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            use()
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_all_images_are_looked_at(net, images) -> None:
    many = torch.cat([images] * 17 + [images * 2 - 1])
    with pytest.raises(ValueError, match="images lie in"):
        rmsmp.quantise(net, many)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS + 1, r"labels lie in 1\.\.4, the network has 4 classes"),
        (LABELS - 1, r"labels lie in -1\.\.2"),
        (LABELS + 0.5, "whole numbers"),
        (LABELS * torch.nan, "whole numbers"),
        (F.one_hot(LABELS), "as many labels"),
        (LABELS[1:], "16 images need as many labels"),
        ([str(int(label)) for label in LABELS], "whole numbers"),
    ],
)
def test_labels_of_another_kind(net, images, tmp_path, labels, message) -> None:
    quantised, path = rmsmp.quantise(net, images), tmp_path / "a.safetensors"
    rmsmp.export(quantised, path, images=images)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for use in (
        lambda: rmsmp.train(quantised, images, labels, quiet=True),
        lambda: rmsmp.evaluate(net, images, labels),
        lambda: rmsmp.export(quantised, path, images=images, labels=labels),
    ):
        with pytest.raises(ValueError, match=message):
            use()
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": -1},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"batch_size": -1},
        {"optimiser": "SGD"},
        {"optimiser": "adam"},
    ],
)
def test_training_options_that_make_no_sense(net, images, options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        rmsmp.train(net, images, LABELS, quiet=True, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"tile_rows": 0},
        {"tile_rows": -1},
        {"tile_rows": 16.0},
        {"ratio": (65, 30, 5)},
        {"act_bits": 4.0},
    ],
)
def test_quantising_options_that_make_no_sense(net, images, options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        rmsmp.quantise(net, images, **options)


@pytest.mark.parametrize("model", [None, {}, nn.Module, lambda x: x])
def test_what_is_no_network(model, images) -> None:
    with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module"):
        rmsmp.quantise(model, images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": LABELS}, "without their images"),
        ({"class_names": ["a", "b"]}, "2 class names for a network of 4 classes"),
        ({"class_names": "abcd"}, "list of strings"),
        ({"class_names": [0, 1, 2, 3]}, "list of strings"),
        ({"name": 3}, "name must be a string"),
    ],
)
def test_export_options_that_make_no_sense(net, images, tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        rmsmp.export(rmsmp.quantise(net, images), tmp_path / "a.safetensors", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_refused(net, images, tmp_path, kind) -> None:
    with pytest.raises(ValueError, match=r"the network is .*float"):
        rmsmp.quantise(copy.deepcopy(net).to(kind), images)
    with pytest.raises(ValueError, match=r"call model\.float\(\)"):
        rmsmp.export(rmsmp.quantise(net, images).to(kind), tmp_path / "a.safetensors")


class Heads(nn.Module):
    """Classes and boxes, from the normalised image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.classes, self.boxes = nn.Linear(8, CLASSES), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body((x - 0.45) / 0.225)
        boxes = self.boxes(y).permute(0, 2, 3, 1).reshape(x.size(0), -1, 6)
        return {"classes": self.classes(y.mean((2, 3))), "boxes": boxes.sigmoid()}


def test_several_results_at_every_door(images, tmp_path, seed) -> None:
    torch.manual_seed(seed)
    model = rmsmp.quantise(Heads(), images)
    history = rmsmp.train(model, images, LABELS, epochs=2, batch_size=4, quiet=True)
    assert len(history) == 2 and 0 <= rmsmp.evaluate(model, images, LABELS) <= 1
    again = pickle.loads(pickle.dumps(model))
    graph = rmsmp.export(again, tmp_path / "own.safetensors", images=images, labels=LABELS)
    vectors = Vectors.load(beside(tmp_path / "own.safetensors"), graph)
    assert graph.header.border == (115,) * 3
    assert [output.name for output in graph.header.outputs] == ["classes", "boxes"]
    assert vectors.logits.shape == (16, CLASSES)
    assert [a.shape for a in vectors.outputs.values()] == [(16, 6, 8, 8)]
    tensors = golden.run(graph, vectors.images)
    with torch.no_grad():
        fake = again.eval()(images)
    for found, name in zip(golden.results(graph, tensors), ("classes", "boxes"), strict=True):
        np.testing.assert_allclose(found, fake[name].numpy(), atol=2e-3 * float(fake[name].std()))
