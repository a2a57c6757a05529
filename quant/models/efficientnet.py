# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 (Tan and Le, arXiv:1905.11946, without squeeze and swish), timm's names."""

from typing import cast

from torch import Tensor, nn

from quant.models.mobilenet_v2 import round_channels
from quant.models.padding import conv, norm
from quant.models.weights import initialise

#: Expansion, kernel, channels, blocks and stride of the first block of each stage.
STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class Separable(nn.Module):
    """Depthwise convolution and linear projection (1x1), and a shortcut where it fits."""

    def __init__(self, channels: int, outputs: int, kernel: int, stride: int, *, tf: bool) -> None:
        super().__init__()
        self.conv_dw = conv(channels, channels, kernel, stride, channels, tf=tf)
        self.bn1 = norm(channels, tf=tf)
        self.act1 = nn.ReLU6()
        self.conv_pw = conv(channels, outputs, 1)
        self.bn2 = norm(outputs, tf=tf)
        self.residual = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_dw(x)))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.residual else y


class Inverted(nn.Module):
    """Expansion (1x1), depthwise convolution and linear projection (1x1), and a shortcut."""

    def __init__(
        self, channels: int, outputs: int, kernel: int, stride: int, *, expansion: int, tf: bool
    ) -> None:
        super().__init__()
        hidden = expansion * channels
        self.conv_pw = conv(channels, hidden, 1)
        self.bn1 = norm(hidden, tf=tf)
        self.act1 = nn.ReLU6()
        self.conv_dw = conv(hidden, hidden, kernel, stride, hidden, tf=tf)
        self.bn2 = norm(hidden, tf=tf)
        self.act2 = nn.ReLU6()
        self.conv_pwl = conv(hidden, outputs, 1)
        self.bn3 = norm(outputs, tf=tf)
        self.residual = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv_pw(x)))
        y = self.act2(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Stem, stages of inverted residuals, 1x1 convolution, global average, dropout, classifier.

    Parameters
    ----------
    channels : of the image
    classes : outputs
    width : channels of the stem, which those of the stages scale with; the head keeps its own
    stem : "imagenet", the published strides, or "cifar", without those of the stem and of the
        second stage
    tf : padding and epsilon of the published weights, which were trained in TensorFlow
    """

    def __init__(self, *, channels: int, classes: int, width: int, stem: str, tf: bool) -> None:
        super().__init__()
        stem_stride = 2 if stem == "imagenet" else 1
        #: pixels of the image, in each direction, per pixel of the last stage
        self.reduction = 8 * stem_stride**2
        scale = width / STEM_CHANNELS
        source = round_channels(width)
        self.conv_stem = conv(channels, source, 3, stem_stride, tf=tf)
        self.bn1 = norm(source, tf=tf)
        self.act1 = nn.ReLU6()
        self.blocks = nn.Sequential()
        for i, (expansion, kernel, outputs, count, stride) in enumerate(STAGES):
            target, stage = round_channels(outputs * scale), nn.Sequential()
            for j in range(count):
                step = 1 if j else stem_stride if i == 1 else stride
                stage.append(
                    Separable(source, target, kernel, step, tf=tf)
                    if expansion == 1
                    else Inverted(source, target, kernel, step, expansion=expansion, tf=tf)
                )
                source = target
            self.blocks.append(stage)
        self.conv_head = conv(source, HEAD_CHANNELS, 1)
        self.bn2 = norm(HEAD_CHANNELS, tf=tf)
        self.act2 = nn.ReLU6()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(HEAD_CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv_stem(x))))
        x = self.act2(self.bn2(self.conv_head(x)))
        return self.classifier(self.dropout(self.flatten(self.avgpool(x))))


def efficientnet_lite0(
    channels: int = 3,
    classes: int = 1000,
    width: int = STEM_CHANNELS,
    stem: str = "imagenet",
    *,
    tf: bool = False,
) -> nn.Module:
    """EfficientNet-Lite0 whose stem has ``width`` channels, rounded to a multiple of 8."""
    model = initialise(
        EfficientNetLite(channels=channels, classes=classes, width=width, stem=stem, tf=tf)
    )
    last = cast(nn.Linear, model.get_submodule("classifier"))
    nn.init.normal_(last.weight, 0, 0.01)
    nn.init.zeros_(last.bias)
    return model


def tf_efficientnet_lite0(
    channels: int = 3, classes: int = 1000, width: int = STEM_CHANNELS, stem: str = "imagenet"
) -> nn.Module:
    """EfficientNet-Lite0 with TensorFlow's padding and epsilon, as its published weights want."""
    return efficientnet_lite0(channels, classes, width, stem, tf=True)
