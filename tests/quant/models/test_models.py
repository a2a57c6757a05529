# SPDX-License-Identifier: Apache-2.0
"""Architectures against published figures and names, and loading of checkpoints."""

import copy
import itertools
import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from ir.cli import UserError
from quant.models import MODELS, build, load_pretrained
from quant.models.mobilenet_v2 import round_channels
from quant.models.weights import IMAGENET_MEAN, IMAGENET_STD, normalise

LARGE, SMALL = (3, 224, 224), (3, 32, 32)
NARROW = {"tiny": 4, "resnet20": 4, "resnet18": 4, "resnet50": 4, "mobilenet_v2": 8}


def norm(path: str) -> list[str]:
    return [
        f"{path}.{leaf}"
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]


def resnet_names(blocks: tuple[int, ...], convs: int) -> list[str]:
    """torchvision's names; blocks of three convolutions widen already in the first stage."""
    names = ["conv1.weight", *norm("bn1"), "fc.weight", "fc.bias"]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            path = f"layer{stage}.{block}"
            for conv in range(1, convs + 1):
                names += [f"{path}.conv{conv}.weight", *norm(f"{path}.bn{conv}")]
            if block == 0 and (stage > 1 or convs == 3):
                names += [f"{path}.downsample.0.weight", *norm(f"{path}.downsample.1")]
    return names


def mobilenet_names() -> list[str]:
    names = ["classifier.1.weight", "classifier.1.bias"]
    for path in ("features.0", "features.18"):
        names += [f"{path}.0.weight", *norm(f"{path}.1")]
    for block in range(1, 18):
        path = f"features.{block}.conv"
        inner = 1 if block == 1 else 2  # the first block does not expand
        for i in range(inner):
            names += [f"{path}.{i}.0.weight", *norm(f"{path}.{i}.1")]
        names += [f"{path}.{inner}.weight", *norm(f"{path}.{inner + 1}")]
    return names


@pytest.mark.parametrize(
    ("name", "parameters", "names", "entries"),
    [
        ("resnet18", 11_689_512, resnet_names((2, 2, 2, 2), 2), 122),
        ("resnet50", 25_557_032, resnet_names((3, 4, 6, 3), 3), 320),
        ("mobilenet_v2", 3_504_872, mobilenet_names(), 314),
        ("tf_mobilenet_v2", 3_504_872, mobilenet_names(), 314),
    ],
)
def test_published_size_and_names(name, parameters, names, entries) -> None:
    with torch.device("meta"):
        model = build(name, shape=LARGE, classes=1000)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sorted(model.state_dict()) == sorted(names)
    assert len(names) == entries


def test_sizes_of_small_networks() -> None:
    """ResNet-20: 0.27 million, with option B 2,752 more than the 269,722 of option A."""
    model = build("resnet20", shape=SMALL, classes=10)
    assert sum(p.numel() for p in model.parameters()) == 269_722 + 2_752
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 19 + 2
    model = build("tiny", shape=(1, 8, 8), classes=10)
    assert sum(p.numel() for p in model.parameters()) == 77_754


@pytest.mark.parametrize(
    ("name", "shape", "stem", "size"),
    [
        ("tiny", (1, 28, 28), "auto", 7),
        ("tiny", LARGE, "auto", 56),
        ("resnet20", SMALL, "auto", 8),
        ("resnet18", SMALL, "auto", 4),
        ("resnet18", (3, 64, 64), "auto", 8),
        ("resnet18", (3, 65, 65), "auto", 3),
        ("resnet18", (3, 64, 64), "imagenet", 2),
        ("resnet50", LARGE, "auto", 7),
        ("resnet50", SMALL, "cifar", 4),
        ("mobilenet_v2", SMALL, "auto", 4),
        ("mobilenet_v2", LARGE, "auto", 7),
    ],
)
def test_stem_decides_the_size_of_the_last_stage(name, shape, stem, size) -> None:
    sizes = []
    with torch.device("meta"):
        model = build(name, shape=shape, classes=7, stem=stem)
        model.avgpool.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[2:]))
        assert model.eval()(torch.empty(2, *shape)).shape == (2, 7)
    assert sizes == [(size, size)]


def test_stride_is_in_the_3x3_convolution() -> None:
    with torch.device("meta"):
        model = build("resnet50", shape=LARGE, classes=10)
    strided = [
        n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)
    ]
    assert strided == [
        "conv1",
        *(f"layer{i}.0.{conv}" for i in (2, 3, 4) for conv in ("conv2", "downsample.0")),
    ]


def test_mobilenet_width() -> None:
    assert [round_channels(c) for c in (1, 11.9, 12, 16.5, 18, 33.6)] == [8, 16, 16, 16, 24, 32]
    with torch.device("meta"):
        narrow = build("mobilenet_v2", shape=LARGE, classes=10, width=16)
        wide = build("mobilenet_v2", shape=LARGE, classes=10, width=48)
    assert [m.features[i].conv[-2].out_channels for m in (narrow, wide) for i in (1, 17)] == [
        8,
        160,
        24,
        480,
    ]
    assert (narrow.classifier[1].in_features, wide.classifier[1].in_features) == (1280, 1920)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stem"), [(n, s) for n in NARROW for s in MODELS[n].stems])
def test_exports_with_any_batch_size(seed, name, stem) -> None:
    torch.manual_seed(seed)
    shape = (1, 32, 48)
    model = build(name, shape=shape, classes=5, width=NARROW[name], stem=stem).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (torch.rand(2, *shape),), dynamic_shapes=({0: batch},))
    x = torch.rand(3, *shape)
    torch.testing.assert_close(program.module()(x), model(x))


def test_initialisation(seed) -> None:
    torch.manual_seed(seed)
    for name in ("resnet18", "mobilenet_v2"):
        for module in build(name, shape=SMALL, classes=10).modules():
            if isinstance(module, nn.Conv2d):
                wanted = (2 / (module.weight[0, 0].numel() * module.out_channels)) ** 0.5
                if module.weight.numel() >= 2000:  # else the estimate is too rough
                    assert module.weight.std().item() == pytest.approx(wanted, rel=0.1)
            elif isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all() and (module.bias == 0).all()
    linear = build("mobilenet_v2", shape=SMALL, classes=10).classifier[1]
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.1) and (linear.bias == 0).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"name": "resnet"},
            "unknown model 'resnet'; known are tiny, resnet20, resnet18, resnet50",
        ),
        ({"stem": "small"}, "model 'resnet18' has no stem 'small'; it has cifar, imagenet"),
        ({"name": "tiny", "stem": "imagenet"}, "has no stem 'imagenet'; it has cifar"),
        ({"shape": (32, 32)}, r"need a shape \(channels, height, width\), not \(32, 32\)"),
        ({"shape": (0, 32, 32)}, r"not \(0, 32, 32\)"),
        (
            {"shape": (3, 32, 7)},
            "32x7 pixels are too small for 'resnet18' with the cifar stem, which needs 8x8",
        ),
        ({"shape": (3, 31, 90)}, "the imagenet stem, which needs 32x32"),
        ({"classes": 0}, "classes must be at least 1"),
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(given, message) -> None:
    arguments = {"name": "resnet18", "shape": SMALL, "classes": 10, "width": 1} | given
    with pytest.raises(ValueError, match=message):
        build(arguments.pop("name"), **arguments)


def test_names_are_known_without_torch() -> None:
    code = "import sys, quant.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def narrow(
    channels: int = 3,
    classes: int = 4,
    width: int = 2,
    stem: str = "imagenet",
    name: str = "resnet18",
) -> nn.Module:
    return build(name, shape=(channels, 96, 96), classes=classes, width=width, stem=stem)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("suffix", "wrapper", "prefix"),
    [
        (".safetensors", None, ""),
        (".safetensors", None, "module."),
        *itertools.product((".pth", ".pt"), (None, "state_dict", "model"), ("", "module.")),
    ],
)
def test_checkpoint_is_loaded(tmp_path, seed, suffix, wrapper, prefix) -> None:
    torch.manual_seed(seed)
    source, model, path = narrow(), narrow(), tmp_path / f"checkpoint{suffix}"
    state = {prefix + name: value for name, value in source.state_dict().items()}
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    assert load_pretrained(model, path) == []
    assert same(model.state_dict(), source.state_dict())


def test_classifier_of_other_classes_is_left(tmp_path, seed) -> None:
    torch.manual_seed(seed)
    for source, model, left in (
        (narrow(classes=9), narrow(), ["fc.weight", "fc.bias"]),
        (
            narrow(classes=9, width=8, name="mobilenet_v2"),
            narrow(width=8, name="mobilenet_v2"),
            ["classifier.1.weight", "classifier.1.bias"],
        ),
    ):
        torch.save(source.state_dict(), tmp_path / "other.pth")
        before = {name: model.state_dict()[name].clone() for name in left}
        assert load_pretrained(model, tmp_path / "other.pth") == left
        assert same(model.state_dict(), source.state_dict() | before)


def test_checkpoint_without_batch_counters_is_loaded(tmp_path) -> None:
    source, model = narrow(), narrow()
    state = {n: v for n, v in source.state_dict().items() if "num_batches" not in n}
    torch.save(state, tmp_path / "old.pth")
    assert load_pretrained(model, tmp_path / "old.pth") == []
    assert same(model.state_dict(), source.state_dict())


def wrong(change) -> dict[str, torch.Tensor]:
    state = narrow().state_dict()
    change(state)
    return state


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: narrow(stem="cifar").state_dict(),
            r"conv1.weight is \(2, 3, 3, 3\), the model needs \(2, 3, 7, 7\): "
            "its stem is another one",
        ),
        (lambda: narrow(channels=1).state_dict(), "it was trained on images of 1 channels"),
        (lambda: narrow(width=3).state_dict(), "conv1.weight is .* its width is another one"),
        (
            lambda: wrong(lambda s: s.pop("bn1.bias")),
            "lacks bn1.bias: it belongs to another network",
        ),
        (
            lambda: narrow(name="mobilenet_v2", width=8).state_dict(),
            "lacks conv1.weight, bn1.weight, bn1.bias and .* more",
        ),
        (lambda: wrong(lambda s: s.update(extra=torch.ones(1))), "has unexpected extra"),
        (lambda: wrong(lambda s: s["bn1.bias"].fill_(float("nan"))), "bn1.bias is not finite"),
        (lambda: {1: torch.ones(1)}, "holds no state_dict"),
        (
            lambda: {"epoch": 3},
            "holds no state_dict, neither alone nor under 'state_dict' or 'model'",
        ),
        (lambda: torch.ones(3), "holds no state_dict"),
        (lambda: {"model": nn.ReLU()}, "holds more than tensors"),
    ],
)
def test_wrong_checkpoint_is_named_and_changes_nothing(tmp_path, content, message) -> None:
    path, model = tmp_path / "wrong.pth", narrow()
    torch.save(content(), path)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(model, path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert same(model.state_dict(), before)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "no checkpoint at .*none.pth"),
        ("net.onnx", b"x", "checkpoints end in .pth, .pt or .safetensors"),
        ("empty.pth", b"", "is not a complete checkpoint"),
        ("noise.pth", bytes(range(200)), "damaged"),
        ("text.pth", b"hello", "is not a complete checkpoint"),
        ("half.pth", "torch", "is not a complete checkpoint"),
        ("noise.safetensors", b"\xff" * 40, "is not a complete checkpoint"),
        ("half.safetensors", "safetensors", "is not a complete checkpoint"),
    ],
)
def test_damaged_file(tmp_path, name, content, message) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        save = torch.save if content == "torch" else safetensors.torch.save_file
        save(narrow().state_dict(), path)
        content = path.read_bytes()[:-1000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_pretrained(narrow(), path)
    assert "\n" not in str(error.value)


def test_normalised_network_takes_pixels(seed) -> None:
    torch.manual_seed(seed)
    model = narrow(name="resnet18", width=8).eval()
    x, names = torch.rand(2, 3, 32, 32), list(model.state_dict())
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = model((x - mean) / std)
    normalise(model, IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(model(x), expected)
    double = copy.deepcopy(model).double()(x.double())
    torch.testing.assert_close(double.float(), expected)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0, 0, 0), (1, 1, 1), "images of 1 channels cannot take 3 means"),
        ((0,), (0,), "must be positive"),
        ((0,), (1, 1), "must be positive, one a mean"),
    ],
)
def test_normalisation_that_makes_no_sense(mean, std, message) -> None:
    with pytest.raises(ValueError, match=message):
        normalise(nn.Conv2d(1, 2, 3), mean, std)
