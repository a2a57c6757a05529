# SPDX-License-Identifier: Apache-2.0
"""Well-known networks as float modules, most with random weights and written small.

They are those of their papers in layers and shapes; names of modules are our own, so no published
checkpoint fits them. EfficientNet-Lite0 comes with its weights from its packages, ResNet-20 with
option-A shortcuts fits common checkpoints of CIFAR-10, and those of Hugging Face are built by their
library.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import calibration
from ir import cli
from quant.models import build


class Network(NamedTuple):
    """Network of the zoo.

    make : for images of a size
    size : its own, in pixels
    trained : it comes with weights
    """

    make: Callable[[int], nn.Module]
    size: int = 224
    trained: bool = False


def _conv(i: int, o: int, k: int = 1, s: int = 1, groups: int = 1, act: bool = True) -> nn.Module:
    layers = [nn.Conv2d(i, o, k, s, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


def _head(channels: int, classes: int = 1000) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Fire(nn.Module):
    """Squeeze to few channels, expand by 1x1 and 3x3 (SqueezeNet 1.1)."""

    def __init__(self, i: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(i, squeeze, 1)
        self.one = nn.Conv2d(squeeze, expand, 1)
        self.three = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 2 expand, H, W)."""
        x = self.squeeze(x).relu()
        return torch.cat([self.one(x).relu(), self.three(x).relu()], 1)


def squeezenet(size: int) -> nn.Module:
    """SqueezeNet 1.1."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)
    fires = [Fire(64, 16, 64), Fire(128, 16, 64), pool, Fire(128, 32, 128), Fire(256, 32, 128)]
    fires += [pool, Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
    end = [nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, *fires, *end)


def vgg16(size: int, width: int = 64) -> nn.Module:
    """VGG-16 with batch-norm, and its classifier of 123 million weights; narrower with less than
    64 channels in front."""
    layers: list[nn.Module] = []
    before = 3
    for times, count in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(count):
            layers.append(_conv(before, times * width, 3))
            before = times * width
        layers.append(nn.MaxPool2d(2))
    area, inner = (size // 32) ** 2, 64 * width
    end = [nn.Linear(before * area, inner), nn.ReLU(), nn.Linear(inner, inner), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), *end, nn.Linear(inner, 1000))


class Dense(nn.Module):
    """Layer of a dense block: batch-norm, ReLU, 1x1, then 3x3, beside what comes (DenseNet)."""

    def __init__(self, i: int, growth: int = 32) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(i), nn.ReLU())
        self.one = _conv(i, 4 * growth)
        self.three = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C + growth, H, W)."""
        return torch.cat([x, self.three(self.one(self.before(x)))], 1)


def densenet121(size: int, blocks: Sequence[int] = (6, 12, 24, 16)) -> nn.Module:
    """DenseNet-121, or one with fewer layers in its blocks."""
    layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for index, count in enumerate(blocks):
        for _ in range(count):
            layers.append(Dense(channels))
            channels += 32
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if index < len(blocks) - 1:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, _head(channels))


class Shuffle(nn.Module):
    """Unit of ShuffleNet-v2: half of the channels pass by, or both halves are strided."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, o // 2
        inner = i if stride == 2 else i // 2
        middle = _conv(half, half, 3, stride, half, act=False)
        self.right = nn.Sequential(_conv(inner, half), middle, _conv(half, half))
        self.left = (
            nn.Sequential(_conv(i, i, 3, 2, i, act=False), _conv(i, half))
            if stride == 2
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, O, H', W')."""
        left, right = (x, x) if self.stride == 2 else x.chunk(2, 1)
        return F.channel_shuffle(torch.cat([self.left(left), self.right(right)], 1), 2)


def shufflenet_v2(size: int) -> nn.Module:
    """ShuffleNet-v2 1x."""
    layers, before = [_conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)], 24
    for channels, count in ((116, 4), (232, 8), (464, 4)):
        for index in range(count):
            layers.append(Shuffle(before, channels, 1 if index else 2))
            before = channels
    return nn.Sequential(*layers, _conv(before, 1024), _head(1024))


class SqueezeExcite(nn.Module):
    """Product of a map with hard sigmoids of its means."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W)."""
        scale = self.up(self.down(F.adaptive_avg_pool2d(x, 1)).relu())
        return x * F.hardsigmoid(scale)


class Inverted(nn.Module):
    """Inverted residual of MobileNet-v3."""

    def __init__(
        self, i: int, k: int, wide: int, o: int, *, se: int, hard: int, stride: int
    ) -> None:
        super().__init__()
        act = nn.Hardswish if hard else nn.ReLU
        self.sums = stride == 1 and i == o
        layers = [] if wide == i else [_conv(i, wide, act=False), act()]
        layers += [_conv(wide, wide, k, stride, wide, act=False), act()]
        layers += [SqueezeExcite(wide, max(8, wide // 32 * 8))] if se else []
        self.layers = nn.Sequential(*layers, _conv(wide, o, act=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, O, H', W')."""
        return x + self.layers(x) if self.sums else self.layers(x)


#: Kernel, wide channels, outputs, squeeze-and-excitation, hard swish, stride.
_V3 = (
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)


def mobilenet_v3_small(size: int) -> nn.Module:
    """MobileNet-v3-small."""
    layers, before = [_conv(3, 16, 3, 2, act=False), nn.Hardswish()], 16
    for k, wide, o, se, hard, stride in _V3:
        layers.append(Inverted(before, k, wide, o, se=se, hard=hard, stride=stride))
        before = o
    layers += [_conv(96, 576, act=False), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 1000))


class UNet(nn.Module):
    """U-Net of four levels with batch-norm; a map of 2 classes."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        c = [width << level for level in range(4)]
        self.down = nn.ModuleList(
            nn.Sequential(_conv(i, o, 3), _conv(o, o, 3))
            for i, o in zip((3, *c[:-1]), c, strict=True)
        )
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * o, o, 2, 2) for o in c[:-1])
        self.join = nn.ModuleList(nn.Sequential(_conv(2 * o, o, 3), _conv(o, o, 3)) for o in c[:-1])
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 2, H, W)."""
        kept = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for level in reversed(range(len(self.up))):
            x = self.join[level](torch.cat([kept[level], self.up[level](x)], 1))
        return self.last(x)


class YoloV3Tiny(nn.Module):
    """YOLOv3-tiny with both heads of 255 channels; leaky ReLUs; 16 channels in front."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def leaky(i: int, o: int, k: int = 3) -> nn.Module:
            return nn.Sequential(_conv(i, o, k, act=False), nn.LeakyReLU(0.1))

        c = (3, *(width << level for level in range(7)))
        self.body = nn.ModuleList(leaky(i, o) for i, o in itertools.pairwise(c[:6]))
        self.deep = nn.Sequential(leaky(c[5], c[6]), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1))
        self.deeper = nn.Sequential(leaky(c[6], c[7]), leaky(c[7], c[5], 1))
        self.coarse = nn.Sequential(leaky(c[5], c[6]), nn.Conv2d(c[6], 255, 1))
        self.side = leaky(c[5], c[4], 1)
        self.fine = nn.Sequential(leaky(c[4] + c[5], c[5]), nn.Conv2d(c[5], 255, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (N, 255, H/32, W/32) and (N, 255, H/16, W/16)."""
        for index, block in enumerate(self.body):
            x = block(F.max_pool2d(x, 2) if index else x)
        deep = self.deeper(self.deep(F.max_pool2d(x, 2)))
        fine = torch.cat([F.interpolate(self.side(deep), scale_factor=2), x], 1)
        return self.coarse(deep), self.fine(fine)


class Logits(nn.Module):
    """Network of Hugging Face, which returns a record, by its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.model(x).logits


def hf_mobilenet_v1(size: int, width: float = 1.0) -> nn.Module:
    """MobileNet-v1 as google/mobilenet_v1_1.0_224 has it, or narrower by a factor."""
    hub = cli.require("transformers")
    config = hub.MobileNetV1Config(num_labels=1000, depth_multiplier=width)
    return Logits(hub.MobileNetV1ForImageClassification(config))


def hf_regnet_x(size: int, depths: Sequence[int] = (1, 2, 7, 12)) -> nn.Module:
    """RegNet-X of 400 MMAC as facebook/regnet-x-004 has it, or with fewer layers."""
    hub = cli.require("transformers")
    config = hub.RegNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 160, 384],
        depths=list(depths),
        groups_width=16,
        layer_type="x",
        num_labels=1000,
    )
    return Logits(hub.RegNetForImageClassification(config))


def _of_quant(name: str) -> Network:
    return Network(lambda size: build(name, shape=(3, size, size), classes=1000))


NETWORKS = {
    **{name: _of_quant(name) for name in ("resnet18", "resnet50", "mobilenet_v2")},
    "squeezenet": Network(squeezenet),
    "shufflenet_v2": Network(shufflenet_v2),
    "mobilenet_v3_small": Network(mobilenet_v3_small),
    "densenet121": Network(densenet121),
    "unet": Network(lambda size: UNet(), 256),
    "yolov3_tiny": Network(lambda size: YoloV3Tiny(), 416),
    "vgg16": Network(vgg16),
    "resnet20_option_a": Network(lambda size: calibration.ResNet20(), 32),
    "efficientnet_lite0": Network(lambda size: calibration.efficientnet_lite0_network(), 224, True),
    "hf_mobilenet_v1": Network(hf_mobilenet_v1),
    "hf_regnet_x": Network(hf_regnet_x),
}
