# SPDX-License-Identifier: Apache-2.0
"""Halves of a data set, training and test, that give batches as the networks read them."""

import abc
import dataclasses
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ir.cli import UserError

EVERYTHING = slice(None)

#: What a network reads: images, or the several inputs of a text.
Inputs = Tensor | tuple[Tensor, ...]


class DatasetError(UserError):
    """Error of a data set that is not there or is damaged, with the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # libraries give reasons of many lines


class Split(abc.ABC):
    """Samples with labels. Samples are numbered from 0; ``labels`` cost no decoding."""

    labels: np.ndarray  #: int64 (N,)
    shape: tuple[int, ...]  #: of one input without the batch

    def __len__(self) -> int:
        return len(self.labels)

    @abc.abstractmethod
    def to(self, device: str | torch.device) -> Self:
        """Same samples, giving their batches on ``device``."""

    @abc.abstractmethod
    def first(self, count: int | None) -> Self:
        """Same samples, only the first ``count`` (all of them for None)."""

    @abc.abstractmethod
    def batch(
        self, indices: Tensor, generator: torch.Generator | None = None, part: slice = EVERYTHING
    ) -> tuple[Inputs, Tensor]:
        """Inputs and labels (int64 (n,)) of the samples ``indices[part]``.

        With a ``generator`` (of the CPU) the samples are changed at random, as training wants it.
        The random numbers of all ``indices`` are drawn before ``part`` is made, so that processes
        which share a batch get together what one process would get, and draw alike. Without a
        generator the samples are what evaluation wants.

        Images are float32 (n, C, H, W) in 0..1, the pixels divided by 255. Texts are three int64
        (n, L): tokens, 1 where there is one, and 1 where one belongs to a pair's second text.
        """


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random translation by up to ``shift`` pixels (zeros move in) and random mirroring."""

    shift: int = 0
    flip: bool = False

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random numbers for ``count`` images, int64 (count, 3): mirroring, row and column.

        The first is 1 for mirrored; the others, 0 to twice the shift, are where the image is cut
        out of its padded self.
        """
        drawn = torch.zeros(count, 3, dtype=torch.int64)
        if self.flip:
            drawn[:, 0] = torch.rand(count, generator=generator) < 0.5
        if self.shift:
            drawn[:, 1:] = torch.randint(2 * self.shift + 1, (count, 2), generator=generator)
        return drawn

    def __call__(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Images ``x`` (n, C, H, W) changed as ``drawn`` (n, 3) says."""
        n, channels, height, width = x.shape
        mirrored, row, column = drawn.to(x.device).split(1, dim=1)
        if self.flip:
            x = torch.where(mirrored[:, :, None, None] > 0, x.flip(3), x)
        if self.shift:
            padded = F.pad(x, [self.shift] * 4)
            rows = row + torch.arange(height, device=x.device)
            columns = column + torch.arange(width, device=x.device)
            x = padded[
                torch.arange(n, device=x.device)[:, None, None, None],
                torch.arange(channels, device=x.device)[:, None, None],
                rows[:, None, :, None],
                columns[:, None, None, :],
            ]
        return x


class ArraySplit(Split):
    """Images in memory, uint8 (N, C, H, W)."""

    def __init__(
        self, images: np.ndarray | Tensor, labels: np.ndarray, augment: Augment | None = None
    ) -> None:
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise DatasetError(
                f"images {tuple(images.shape)} and labels {labels.shape} do not belong together"
            )
        # A copy: arrays that stand for the bytes of a file cannot be shared with torch.
        self.pixels = images if isinstance(images, Tensor) else torch.tensor(images)
        self.labels = labels.astype(np.int64)
        self.augment = augment or Augment()  #: of training
        self.shape = tuple(images.shape[1:])

    @property
    def images(self) -> np.ndarray:
        """Pixels of all images, uint8 (N, C, H, W), as the accelerator reads them."""
        return self.pixels.cpu().numpy()

    def to(self, device: str | torch.device) -> Self:
        """Same samples, giving their batches on ``device``."""
        return type(self)(self.pixels.to(device), self.labels, self.augment)

    def first(self, count: int | None) -> Self:
        """Same samples, only the first ``count`` (all of them for None)."""
        return type(self)(self.pixels[:count], self.labels[:count], self.augment)

    def augmented(self, augment: Augment) -> Self:
        """Same samples, changed in training as ``augment`` says."""
        return type(self)(self.pixels, self.labels, augment)

    def batch(
        self, indices: Tensor, generator: torch.Generator | None = None, part: slice = EVERYTHING
    ) -> tuple[Tensor, Tensor]:
        """Images float32 (n, C, H, W) in 0..1 and int64 labels (n,), as the base class says."""
        drawn = None if generator is None else self.augment.draw(len(indices), generator)
        chosen = indices[part]
        x = self.pixels[chosen.to(self.pixels.device)].float() / 255
        if drawn is not None:
            x = self.augment(x, drawn[part])
        return x, labels_of(self, chosen, self.pixels.device)


def labels_of(split: Split, chosen: Tensor, device: str | torch.device) -> Tensor:
    """Labels of the samples ``chosen`` (n,), int64 (n,) on ``device``."""
    return torch.from_numpy(split.labels[chosen.cpu().numpy()]).to(device)


def _in_memory(split: Split) -> ArraySplit:
    if not isinstance(split, ArraySplit):
        raise TypeError(f"a {type(split).__name__} has no images in memory")
    return split


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Data set: samples to train on, and others to measure on."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in (self.train, self.test):
            if not len(part):
                raise DatasetError(f"{self.name} has no samples: its files are damaged")
            least, most = part.labels.min(), part.labels.max()
            if least < 0 or most >= len(self.class_names):
                raise DatasetError(
                    f"{self.name} has labels {least} to {most}, but "
                    f"{len(self.class_names)} classes: its files do not belong "
                    "together"
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: channels, height and width of an image, or tokens of a text."""
        return self.train.shape

    def subset(self, count: int | None) -> "Dataset":
        """Same data set with only the first ``count`` training samples (all of them for None)."""
        return dataclasses.replace(self, train=self.train.first(count))

    @property
    def train_images(self) -> np.ndarray:
        """Training images, uint8 (N, C, H, W); TypeError for a set that is not in memory."""
        return _in_memory(self.train).images

    @property
    def train_labels(self) -> np.ndarray:
        """Training labels, int64 (N,)."""
        return self.train.labels

    @property
    def test_images(self) -> np.ndarray:
        """Test images, uint8 (N, C, H, W); TypeError for a set that is not in memory."""
        return _in_memory(self.test).images

    @property
    def test_labels(self) -> np.ndarray:
        """Test labels, int64 (N,)."""
        return self.test.labels
