# SPDX-License-Identifier: Apache-2.0
"""Residual networks (He et al., arXiv:1512.03385), with torchvision's state-dict names."""

from collections.abc import Sequence

from torch import Tensor, nn

from quant.models.weights import initialise


def _shortcut(channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Option B: a 1x1 convolution where the shape changes; None where it does not."""
    if stride == 1 and channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes."""

    expansion = 1  #: output channels per channel of the 3x3 convolutions

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution and a shortcut.

    The stride is in the 3x3 convolution, as in torchvision's "v1.5"; the paper has it in the first
    1x1, which needs fewer operations and is less accurate.
    """

    expansion = 4  #: output channels per channel of the 3x3 convolution

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu3 = nn.ReLU()
        self.downsample = _shortcut(channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.relu3(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global average, classifier.

    Parameters
    ----------
    block : BasicBlock or Bottleneck
    blocks : blocks of each stage; every stage but the first halves the image and doubles the width
    channels : of the image
    classes : outputs
    width : channels of the stem and of the first stage's 3x3 convolutions
    stem : "imagenet", 7x7 convolution with stride 2 and 3x3 maximum with stride 2, or "cifar", a
        3x3 convolution with stride 1
    """

    def __init__(
        self,
        *,
        block: type[BasicBlock | Bottleneck],
        blocks: Sequence[int],
        channels: int,
        classes: int,
        width: int,
        stem: str,
    ) -> None:
        super().__init__()
        large = stem == "imagenet"
        #: pixels of the image, in each direction, per pixel of the last stage
        self.reduction = (4 if large else 1) << (len(blocks) - 1)
        kernel, stride, padding = (7, 2, 3) if large else (3, 1, 1)
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else None
        self.stages = tuple(f"layer{i + 1}" for i in range(len(blocks)))
        source = width
        for i, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            stage = nn.Sequential()
            for j in range(count):
                stage.append(block(source, width << i, 2 if i and not j else 1))
                source = block.expansion * width << i
            self.add_module(name, stage)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(source, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(self.flatten(self.avgpool(x)))


class TinyResNet(ResNet):
    """Ten layers with weights: stem, three blocks of 1, 2 and 4 times ``width``, classifier.

    Keeps PyTorch's default initialisation, which trained it well.
    """

    def __init__(self, in_channels: int = 1, classes: int = 10, width: int = 16) -> None:
        super().__init__(
            block=BasicBlock,
            blocks=(1, 1, 1),
            channels=in_channels,
            classes=classes,
            width=width,
            stem="cifar",
        )


def resnet20(channels: int = 3, classes: int = 10, width: int = 16) -> nn.Module:
    """ResNet-20, the CIFAR network of the paper's section 4.2 with n = 3 and option-B shortcuts."""
    return initialise(
        ResNet(
            block=BasicBlock,
            blocks=(3, 3, 3),
            channels=channels,
            classes=classes,
            width=width,
            stem="cifar",
        )
    )


def resnet18(
    channels: int = 3, classes: int = 1000, width: int = 64, stem: str = "imagenet"
) -> nn.Module:
    """ResNet-18 (He et al., arXiv:1512.03385) with an ImageNet or a CIFAR stem."""
    return initialise(
        ResNet(
            block=BasicBlock,
            blocks=(2, 2, 2, 2),
            channels=channels,
            classes=classes,
            width=width,
            stem=stem,
        )
    )


def resnet50(
    channels: int = 3, classes: int = 1000, width: int = 64, stem: str = "imagenet"
) -> nn.Module:
    """ResNet-50 (He et al., arXiv:1512.03385) with an ImageNet or a CIFAR stem."""
    return initialise(
        ResNet(
            block=Bottleneck,
            blocks=(3, 4, 6, 3),
            channels=channels,
            classes=classes,
            width=width,
            stem=stem,
        )
    )
