# SPDX-License-Identifier: Apache-2.0
"""Whole networks, ours and others', from float weights to integers that equal the golden model.

Mirrors no module: whole networks, from capture to the golden model.
"""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from bench import zoo
from ir.cli import UserError
from ir.graph import IntGraph
from quant.capture.writer import UnsupportedLayer
from quant.lowering import verify
from quant.lowering.export import export
from quant.lowering.prepare import prepare
from quant.models import MODELS, build

CLASSES = 5
NARROW = {"tiny": 4, "resnet20": 4, "resnet18": 4, "resnet50": 4, "mobilenet_v2": 8}


def quantise(
    model: nn.Module, shape: tuple[int, int, int], seed: int, correlation: float
) -> IntGraph:
    """The graph of ``model`` after two steps of training.

    All tensors equal the golden model's on four images, and logits follow fake quantisation, from
    which integers differ at rounding ties.
    """
    rng = np.random.default_rng(seed)
    pixels = rng.integers(256, size=(12, *shape), dtype=np.uint8)
    images = torch.from_numpy(pixels) / 255
    for module in model.modules():  # channels of both signs, and with an offset
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.uniform_(module.bias, -0.5, 1)
    zoo.warm_norms(model, images)
    model = zoo.quantised(
        model, images, CLASSES, steps=2, generator=torch.Generator().manual_seed(seed)
    )
    graph = export(model, images[:2], name="test", ratio=zoo.RATIO, tile_rows=zoo.TILE_ROWS)
    logits = verify.verify(graph, pixels[:4]) * graph.output.scale
    with torch.no_grad():
        fake = model(images[:4]).double().numpy()
    assert logits.shape == (4, CLASSES)
    assert fake.std() > 1e-3
    assert np.corrcoef(logits.ravel(), fake.ravel())[0, 1] >= correlation
    return graph


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stem"), [(n, s) for n in NARROW for s in MODELS[n].stems])
def test_our_networks(seed, name, stem) -> None:
    torch.manual_seed(seed)
    shape = (3, 32, 32) if stem == "imagenet" else (1, 16, 16)
    model = build(name, shape=shape, classes=CLASSES, width=NARROW[name], stem=stem)
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    assert len(quantise(model, shape, seed, 0.95).layers) == layers


class Odd(nn.Module):
    """Functions instead of modules, in-place addition, layers without batch-norm, a tensor that
    three read, a residual block with a convolution in both branches, a head of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, (3, 5), padding=(1, 2))
        self.left = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.right = nn.Conv2d(8, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.third = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.hidden = nn.Linear(8, 11)
        self.head = nn.Linear(11, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        total = self.norm(self.left(x))
        total += self.right(x)
        total = F.relu(total)
        total = (self.third(x) + total).relu_()
        x = total.mean((2, 3)).view(x.size(0), -1)
        return self.head(F.relu(self.hidden(x)))


def test_functions_and_shared_tensors(seed) -> None:
    torch.manual_seed(seed)
    graph = quantise(Odd(), (2, 9, 14), seed, 0.99)
    assert set(graph.layers) == {"stem", "left", "right", "third", "hidden", "head"}
    readers = [n.name for n in graph.nodes if n.input == graph.nodes[1].output]
    assert sorted(readers) == ["left", "right", "third"]


def hugging_face(layer_type: str) -> nn.Module:
    return transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            num_channels=3,
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 2],
            layer_type=layer_type,
            num_labels=CLASSES,
        )
    )


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
def test_network_of_another_library(seed, layer_type) -> None:
    torch.manual_seed(seed)

    class Logits(nn.Module):  # the library returns a record
        def __init__(self) -> None:
            super().__init__()
            self.net = hugging_face(layer_type)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).logits

    quantise(Logits(), (3, 32, 24), seed, 0.95)


class Calls(nn.Module):
    """Convolution, ``function`` and linear layer."""

    def __init__(self, function, channels: int = 8) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(channels, CLASSES)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.function(self.conv(x).relu()).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(12, 6, batch_first=True), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.lstm(x)[0].mean(1))


IMAGE, SEQUENCE = (1, 12, 12), (7, 12)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (Calls(lambda x: torch.cat((x, x), 2)), IMAGE, "cat is not supported"),
        (
            Calls(nn.MaxPool2d(3, dilation=2)),
            IMAGE,
            "'function' .*the windows of a dilated pooling",
        ),
        (Calls(nn.FractionalMaxPool2d(2, 4)), IMAGE, "'function' .*rand is not supported"),
        (Calls(nn.GroupNorm(2, 8)), IMAGE, "'function' .*group_norm is not supported"),
        (Recurrent(), SEQUENCE, "layer 'lstm'.* is not supported"),
    ],
)
def test_unsupported_operation_is_named(model, shape, message) -> None:
    with pytest.raises(UnsupportedLayer, match=message) as error:
        prepare(model, torch.rand(2, *shape))
    assert "\n" not in str(error.value)


def test_command(capsys, seed) -> None:
    assert zoo.main(["tiny", "--images", "5", "--size", "9", "--seed", str(seed), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    widths = (
        (3, 16, 9),
        (16, 16, 9),
        (16, 16, 9),
        (16, 32, 5),
        (32, 32, 5),
        (32, 64, 3),
        (64, 64, 3),
    )
    macs = sum(9 * a * b * size * size for a, b, size in widths)
    macs += 16 * 32 * 25 + 32 * 64 * 9 + 64 * 1000  # shortcuts and classifier
    assert (row["model"], row["layers"], row["macs"], row["images_equal"]) == ("tiny", 10, macs, 5)


def test_command_names_what_fails(capsys, monkeypatch) -> None:
    def differ(*args: object) -> None:
        raise verify.Mismatch("tensor 'fc' at (0, 0)")

    monkeypatch.setattr(verify, "verify", differ)
    assert zoo.main(["tiny", "--images", "4", "--size", "8"]) == 1
    printed = capsys.readouterr()
    assert "error: tiny: tensor 'fc' at (0, 0)" in printed.err and "tiny" not in printed.out
    with pytest.raises(UserError, match="unknown model 'large'"):
        zoo.main(["large"])
