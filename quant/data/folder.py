# SPDX-License-Identifier: Apache-2.0
"""Images in files, decoded when a batch asks for them."""

import concurrent.futures
import math
import os
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ir.cli import require
from quant.data.splits import EVERYTHING, DatasetError, Split, labels_of

SCALE = (0.08, 1.0)  #: share of the image's area that a random crop takes
ASPECT = (3 / 4, 4 / 3)  #: width over height of a random crop
ATTEMPTS = 10  #: crops tried until one fits into the image
DRAWS = 4 * ATTEMPTS + 1  #: random numbers of one image: 4 for each crop, 1 for mirroring


class FolderSplit(Split):
    """Image files of any size, cut to ``size`` x ``size`` RGB.

    In training a random crop (8 to 100 % of the area, 3:4 to 4:3) is resized and mirrored at
    random. In evaluation the shorter side is resized to 8/7 of ``size`` (256 for 224) and the
    centre is cut out. Both as torchvision does it with Pillow's bilinear filter.
    """

    def __init__(
        self,
        *,
        paths: Sequence[str],
        labels: np.ndarray,
        size: int,
        device: str | torch.device = "cpu",
        threads: int | None = None,
    ) -> None:
        self.paths, self.labels = paths, labels.astype(np.int64)
        self.size, self.device = size, device
        self.threads = threads or os.cpu_count() or 1
        self.shape = (3, size, size)

    def to(self, device: str | torch.device) -> Self:
        """Same samples, giving their batches on ``device``."""
        return type(self)(
            paths=self.paths,
            labels=self.labels,
            size=self.size,
            device=device,
            threads=self.threads,
        )

    def first(self, count: int | None) -> Self:
        """Same samples, only the first ``count`` (all of them for None)."""
        return type(self)(
            paths=self.paths[:count],
            labels=self.labels[:count],
            size=self.size,
            device=self.device,
            threads=self.threads,
        )

    def batch(
        self, indices: Tensor, generator: torch.Generator | None = None, part: slice = EVERYTHING
    ) -> tuple[Tensor, Tensor]:
        """Images float32 (n, 3, size, size) in 0..1 and labels int64 (n,); see the base class."""
        chosen = indices[part].cpu()
        drawn = [None] * len(chosen)
        if generator is not None:
            drawn = torch.rand(len(indices), DRAWS, generator=generator, dtype=torch.float64)[
                part
            ].tolist()
        paths = [self.paths[i] for i in chosen.tolist()]
        pixels = np.empty((len(paths), *self.shape), np.uint8)
        # Threads, because Pillow lets others run while it decodes and resizes.
        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
            for k, image in enumerate(pool.map(self.decode, paths, drawn)):
                pixels[k] = image
        x = torch.from_numpy(pixels).to(self.device).float() / 255
        return x, labels_of(self, chosen, self.device)

    def decode(self, path: str, drawn: Sequence[float] | None) -> np.ndarray:
        """Image uint8 (3, size, size) of a file; raises DatasetError for one that is damaged.

        For training it is cropped by the random numbers ``drawn`` (0 to below 1), else for
        evaluation.
        """
        Image = require("PIL.Image")

        try:
            with Image.open(path) as file:
                image = to_rgb(file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DatasetError(f"{path} is no image or damaged: {error}") from error
        if drawn is None:
            image = centre(image, self.size)
        else:
            image = image.crop(random_box(image.width, image.height, drawn))
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
            if drawn[-1] < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image).transpose(2, 0, 1)


def to_rgb(image):
    """Pillow image of any mode as RGB with 8 bits; ValueError for values of unknown range.

    16 bits are scaled to 8, transparent pixels lie on white.
    """
    Image = require("PIL.Image")

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() >= 1 << 16:
            raise ValueError("its values are not those of 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def centre(image, size: int):
    """Centre of a Pillow image after its shorter side was resized to 8/7 of ``size``."""
    Image = require("PIL.Image")

    short = round(size * 8 / 7)
    width, height = (short * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def random_box(width: int, height: int, drawn: Sequence[float]) -> tuple[int, int, int, int]:
    """Box (left, top, right, bottom) of a random crop of an image of ``width`` x ``height``.

    Each attempt uses four of the numbers ``drawn`` (0 to below 1): area, logarithm of the aspect,
    top and left. When none of the crops fits it is the centre with the nearest allowed aspect.
    """
    for k in range(0, 4 * ATTEMPTS, 4):
        u, v, top, left = drawn[k : k + 4]
        area = width * height * (SCALE[0] + u * (SCALE[1] - SCALE[0]))
        aspect = math.exp(math.log(ASPECT[0]) + v * math.log(ASPECT[1] / ASPECT[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return x, y, x + w, y + h
    w, h = width, height
    if width / height < ASPECT[0]:
        h = round(width / ASPECT[0])
    elif width / height > ASPECT[1]:
        w = round(height * ASPECT[1])
    x, y = (width - w) // 2, (height - h) // 2
    return x, y, x + w, y + h
