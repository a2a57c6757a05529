# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by the names of timm, Hugging Face and EfficientNet-PyTorch.

Hugging Face's networks are asked themselves; names of the others are written down here, in the
order of their state dicts.
"""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from ir.cli import UserError
from quant.models import build, load_pretrained
from quant.models.names import SCHEMES

SHAPE = (3, 64, 64)
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
MOBILENET, LITE = (1, 2, 3, 4, 3, 3, 1), (1, 2, 2, 3, 3, 4, 1)


def layers(prefix: str, *pairs: tuple[str, str]) -> list[str]:
    """Names of convolutions without bias, each with its batch-norm."""
    return [
        name
        for conv, norm in pairs
        for name in (f"{prefix}{conv}.weight", *(f"{prefix}{norm}.{leaf}" for leaf in NORM))
    ]


def timm(counts: tuple[int, ...]) -> list[str]:
    """Names of timm's mobilenetv2_100 and efficientnet_lite0, by the blocks of their stages."""
    names = layers("", ("conv_stem", "bn1"))
    names += layers("blocks.0.0.", ("conv_dw", "bn1"), ("conv_pw", "bn2"))
    for stage, count in list(enumerate(counts))[1:]:
        for block in range(count):
            parts = ("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")
            names += layers(f"blocks.{stage}.{block}.", *parts)
    return [*names, *layers("", ("conv_head", "bn2")), "classifier.weight", "classifier.bias"]


def lite() -> list[str]:
    """Names of efficientnet-lite0 in EfficientNet-PyTorch and its relatives."""
    names = layers("", ("_conv_stem", "_bn0"))
    last = ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")
    for number in range(sum(LITE)):
        first = [("_expand_conv", "_bn0")] if number else []
        names += layers(f"_blocks.{number}.", *first, *last)
    return [*names, *layers("", ("_conv_head", "_bn1")), "_fc.weight", "_fc.bias"]


def random(model: nn.Module, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("mobilenet_v2", timm(MOBILENET)),
        ("efficientnet_lite0", timm(LITE)),
        ("tf_efficientnet_lite0", lite()),
    ],
    ids=["timm-mobilenet", "timm-lite", "lite"],
)
def test_names_written_down(name: str, names: list[str], tmp_path: Path, seed: int) -> None:
    model, other = (build(name, shape=SHAPE, classes=5, width=8) for _ in range(2))
    state = random(model, seed).state_dict()
    torch.save(dict(zip(names, state.values(), strict=True)), tmp_path / "other.pt")
    assert load_pretrained(other, tmp_path / "other.pt") == []
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key]), key


HUGGING_FACE = {
    "resnet18": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16, 32, 64],
            depths=[2, 2, 2, 2],
            layer_type="basic",
            num_labels=5,
        )
    ),
    "resnet50": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[32, 64, 128, 256], num_labels=5
        )
    ),
    "tf_mobilenet_v2": lambda: transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(depth_multiplier=0.25, num_labels=5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGGING_FACE)
@pytest.mark.parametrize("size", [64, 65])
def test_hugging_face_computes_the_same(name: str, size: int, tmp_path: Path, seed: int) -> None:
    other = random(HUGGING_FACE[name](), seed)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    model = build(name, shape=(3, size, size), classes=5, width=8, stem="imagenet")
    assert load_pretrained(model, tmp_path / "other.pt") == []
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        logits = other(images).logits
        torch.testing.assert_close(model.eval()(images), logits, rtol=1e-5, atol=1e-6)
    assert logits.std() > 1e-4


def test_padding_of_another_framework_is_no_detail(tmp_path: Path, seed: int) -> None:
    """What PyTorch's borders make of the same weights."""
    other = random(HUGGING_FACE["tf_mobilenet_v2"](), seed)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    model = build("mobilenet_v2", shape=SHAPE, classes=5, width=8, stem="imagenet").eval()
    assert load_pretrained(model, tmp_path / "other.pt") == []
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        assert not torch.allclose(model(images), other(images).logits, rtol=1e-3)


def test_wrong_network_is_told_with_its_own_names(tmp_path: Path) -> None:
    torch.save(build("efficientnet_lite0", shape=SHAPE, classes=5).state_dict(), tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt lacks features\.6\.conv\.0\.0\.weight"):
        load_pretrained(build("mobilenet_v2", shape=SHAPE, classes=5), tmp_path / "a.pt")
    state = {next(iter(SCHEMES)): torch.zeros(1), "classifier.9.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"b\.pt lacks bn1\.weight"):
        load_pretrained(build("resnet18", shape=SHAPE, classes=5, width=4), tmp_path / "b.pt")
