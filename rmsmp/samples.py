# SPDX-License-Identifier: Apache-2.0
"""Images and labels of the user's own, checked before anything is computed with them."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from quant.data.splits import EVERYTHING, Split, labels_of
from quant.lowering.inputs import check_range, check_type
from quant.nn.modes import evaluating
from quant.training.loop import forward


class Samples(Split):
    """Images in memory, float (N, C, H, W) in 0..1, with labels (N,).

    Methods are those of :class:`quant.data.splits.Split`. Raises ValueError for images or
    labels that are something else.
    """

    def __init__(self, images: Tensor, labels: Tensor | Sequence[int] | np.ndarray) -> None:
        self.images = checked_images(images)
        self.labels = checked_labels(labels, len(images))
        self.shape = tuple(images.shape[1:])

    def to(self, device: str | torch.device) -> Self:
        """Same samples, giving their batches on ``device``."""
        return type(self)(self.images.to(device), self.labels)

    def first(self, count: int | None) -> Self:
        """Same samples, only the first ``count`` (all of them for None)."""
        return type(self)(self.images[:count], self.labels[:count])

    def batch(
        self, indices: Tensor, generator: torch.Generator | None = None, part: slice = EVERYTHING
    ) -> tuple[Tensor, Tensor]:
        """Images float (n, C, H, W) and int64 labels (n,) of the samples ``indices[part]``.

        Nothing is drawn: ``generator`` is not used.
        """
        chosen = indices[part]
        return self.images[chosen], labels_of(self, chosen, self.images.device)

    def check_fit(self, model: nn.Module) -> None:
        """Check that ``model`` maps the images to a logit for each class: ValueError if not."""
        check_type(model, self.images)
        with evaluating(model), torch.no_grad():
            try:
                logits = forward(model, self.images[:2])
            except RuntimeError as error:
                reason = str(error).strip().partition("\n")[0]
                raise ValueError(
                    f"the network cannot take images of shape {self.shape}: {reason}"
                ) from error
        if logits.dim() != 2:
            raise ValueError(
                f"the network gives {tuple(logits.shape[1:])} for an image, not one logit a class"
            )
        check_classes(self.labels, logits.shape[1])


def checked_images(images: object) -> Tensor:
    """``images``, checked: ValueError unless they are float (N, C, H, W) with values in 0..1."""
    if not isinstance(images, Tensor):
        raise ValueError(f"images must be a tensor (N, C, H, W), not {type(images).__name__}")
    if images.dim() < 2 or not images.numel():
        raise ValueError(f"images must be a batch (N, C, H, W), not {tuple(images.shape)}")
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise ValueError(f"images are {kind}: give pixels as float in 0..1, x.float() / 255")
    check_range(images)
    return images


def checked_labels(labels: object, count: int) -> np.ndarray:
    """Labels as int64 (count,); ValueError unless they are that many whole numbers."""
    try:
        given = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    except (TypeError, ValueError) as error:
        raise ValueError(f"labels must be one class for each image: {error}") from error
    if given.shape != (count,):
        raise ValueError(f"{count} images need as many labels, not labels {given.shape}")
    if given.dtype.kind not in "biuf" or not np.array_equal(given, np.floor(given)):
        raise ValueError("labels must be whole numbers, 0..classes - 1")
    return given.astype(np.int64)


def check_classes(labels: np.ndarray, classes: int) -> None:
    """Check that ``labels`` lie in 0..``classes`` - 1: ValueError otherwise."""
    least, most = labels.min(), labels.max()
    if least < 0 or most >= classes:
        raise ValueError(f"labels lie in {least}..{most}, the network has {classes} classes")
