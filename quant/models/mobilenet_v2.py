# SPDX-License-Identifier: Apache-2.0
"""MobileNet-v2 (Sandler et al., arXiv:1801.04381), with torchvision's state-dict names."""

from typing import cast

from torch import Tensor, nn

from quant.models.padding import conv, norm
from quant.models.weights import initialise

#: Expansion, channels, blocks and stride of the first block of each stage: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


def round_channels(channels: float) -> int:
    """Multiple of 8 nearest to ``channels``, at least 8 and at least 90 % of them."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _conv_bn_relu(
    channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, *, tf: bool
) -> nn.Sequential:
    return nn.Sequential(
        conv(channels, out_channels, kernel, stride, groups, tf=tf),
        norm(out_channels, tf=tf),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expansion (1x1), depthwise 3x3 and linear projection (1x1), and a shortcut where it fits."""

    def __init__(
        self, channels: int, out_channels: int, stride: int, expansion: int, *, tf: bool
    ) -> None:
        super().__init__()
        hidden = expansion * channels
        self.conv = nn.Sequential()
        if expansion > 1:
            self.conv.append(_conv_bn_relu(channels, hidden, 1, tf=tf))
        self.conv.append(_conv_bn_relu(hidden, hidden, 3, stride, hidden, tf=tf))
        self.conv.append(conv(hidden, out_channels, 1))
        self.conv.append(norm(out_channels, tf=tf))
        self.residual = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Stem, inverted residuals, 1x1 convolution, global average, dropout and classifier.

    Parameters
    ----------
    channels : of the image
    classes : outputs
    width_mult : factor of the paper's channel numbers, rounded to multiples of 8; the last
        convolution never has fewer than the paper's 1280
    stem : "imagenet", the paper's strides, or "cifar", without those of the stem and of the second
        stage, so that images of 32 pixels end at 4 instead of 1
    dropout : before the classifier, in training
    tf : padding and epsilon of weights that were trained in TensorFlow
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        classes: int = 1000,
        width_mult: float = 1.0,
        stem: str = "imagenet",
        dropout: float = 0.2,
        tf: bool = False,
    ) -> None:
        super().__init__()
        stem_stride = 2 if stem == "imagenet" else 1
        #: pixels of the image, in each direction, per pixel of the last stage
        self.reduction = 8 * stem_stride**2
        source = round_channels(STEM_CHANNELS * width_mult)
        self.features = nn.Sequential(_conv_bn_relu(channels, source, 3, stem_stride, tf=tf))
        for i, (expansion, outputs, blocks, stride) in enumerate(STAGES):
            width = round_channels(outputs * width_mult)
            for j in range(blocks):
                first = stem_stride if i == 1 else stride
                step = 1 if j else first
                self.features.append(InvertedResidual(source, width, step, expansion, tf=tf))
                source = width
        head = round_channels(HEAD_CHANNELS * max(1.0, width_mult))
        self.features.append(_conv_bn_relu(source, head, 1, tf=tf))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(head, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


def mobilenet_v2(
    channels: int = 3,
    classes: int = 1000,
    width: int = STEM_CHANNELS,
    stem: str = "imagenet",
    *,
    tf: bool = False,
) -> nn.Module:
    """MobileNet-v2 whose stem has ``width`` channels, rounded to a multiple of 8."""
    scale = width / STEM_CHANNELS
    model = initialise(
        MobileNetV2(channels=channels, classes=classes, width_mult=scale, stem=stem, tf=tf)
    )
    last = cast(nn.Linear, model.get_submodule("classifier.1"))
    nn.init.normal_(last.weight, 0, 0.01)
    nn.init.zeros_(last.bias)
    return model


def tf_mobilenet_v2(
    channels: int = 3, classes: int = 1000, width: int = STEM_CHANNELS, stem: str = "imagenet"
) -> nn.Module:
    """MobileNet-v2 with TensorFlow's padding and epsilon, as Hugging Face's checkpoints want."""
    return mobilenet_v2(channels, classes, width, stem, tf=True)
