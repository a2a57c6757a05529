# SPDX-License-Identifier: Apache-2.0
"""Handwritten digits, 8x8, that come with scikit-learn."""

import pathlib

import numpy as np

from quant.data.splits import ArraySplit, Augment, Dataset, DatasetError


def load(directory: pathlib.Path | None) -> Dataset:
    """Digits of scikit-learn: 1,437 training and 360 test images, uint8 (N, 1, 8, 8).

    Pixels 0..16 are stretched to 0..255. The last 360 images are held out. They come from other
    sittings than the first 1,437, which makes them harder than a random choice (98 % against
    100 %). Raises DatasetError for a ``directory``.
    """
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    if directory is not None:
        raise DatasetError("the digits come with scikit-learn: leave --data out")
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    images = (images.astype(np.int64) * 255 // 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Dataset(
        "digits",
        ArraySplit(images[:-360], labels[:-360], Augment(shift=1)),
        ArraySplit(images[-360:], labels[-360:]),
        tuple("0123456789"),
    )
