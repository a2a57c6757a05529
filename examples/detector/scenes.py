# SPDX-License-Identifier: Apache-2.0
"""Scenes: real handwritten digits (scikit-learn) on a noisy canvas, with their boxes."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from quant.data import digits
from quant.data.splits import ArraySplit

SIDE = 48  #: pixels of a canvas, both ways
FACTORS = (1, 2)  #: of magnification: digits of 8 and of 16 pixels
MOST = 4  #: digits of a scene
NOISE = 24  #: brightest pixel of the background
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Scenes:
    """Pictures and what they show.

    Parameters
    ----------
    images : Tensor
        Float (N, 1, SIDE, SIDE) of 8-bit pixels, in 0..1.
    boxes : list of np.ndarray
        Of each picture, float64 (M, 4): left, top, right, bottom in pixels.
    labels : list of np.ndarray
        Of each picture, int64 (M,): the digit in each box.
    """

    images: Tensor
    boxes: list[np.ndarray]
    labels: list[np.ndarray]


def draw(count: int, *, held_out: bool, seed: int) -> Scenes:
    """``count`` scenes of one to MOST digits, which do not overlap.

    ``held_out`` takes the 360 digits that training never sees, which other people wrote.
    """
    data = digits.load(None)
    split = data.test if held_out else data.train
    assert isinstance(split, ArraySplit)
    rng = np.random.default_rng(seed)
    canvases, boxes, labels = [], [], []
    for _ in range(count):
        canvas = rng.integers(0, NOISE, (SIDE, SIDE))
        places: list[tuple[int, int, int, int]] = []
        shown = []
        for _ in range(rng.integers(1, MOST + 1)):
            chosen = int(rng.integers(len(split)))
            glyph = split.images[chosen, 0].repeat(factor := rng.choice(FACTORS), 0)
            glyph = glyph.repeat(factor, 1)
            size = len(glyph)
            left, top = (int(v) for v in rng.integers(0, SIDE - size + 1, 2))
            box = (left, top, left + size, top + size)
            if any(_meet(box, other) for other in places):
                continue
            patch = canvas[top : top + size, left : left + size]
            np.maximum(patch, glyph, out=patch)
            places.append(box)
            shown.append(int(split.labels[chosen]))
        canvases.append(canvas)
        boxes.append(np.array(places, np.float64))
        labels.append(np.array(shown, np.int64))
    images = torch.from_numpy(np.stack(canvases)[:, None]).float() / 255
    return Scenes(images, boxes, labels)


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
