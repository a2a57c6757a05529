# SPDX-License-Identifier: Apache-2.0
"""ImageNet, or any other set of images with one folder for each class."""

import os
import pathlib

import numpy as np

from ir.cli import say
from quant.data.folder import FolderSplit
from quant.data.splits import Dataset, DatasetError

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
REMEDY = (
    "name the folder that holds train/CLASS/*.JPEG and val/CLASS/*.JPEG with --data; "
    "ImageNet's files are at https://image-net.org after registration"
)


def load(directory: pathlib.Path | None, size: int = 224) -> Dataset:
    """Images of ``size`` x ``size`` pixels from ``directory``/train and ``directory``/val.

    The names of the folders, sorted, are the class names. The first n images are of all classes
    in turn. Raises DatasetError.
    """
    if size < 1:
        raise DatasetError(f"images cannot be {size} pixels wide: give at least 1")
    if directory is None:
        raise DatasetError(f"no place given for the images: {REMEDY}")
    class_names = classes(directory / "train")
    held_out = classes(directory / "val")
    if odd := sorted(set(class_names) ^ set(held_out)):
        raise DatasetError(
            f"{directory}: only one of train and val has a class {odd[0]}; "
            "give both the same folders"
        )

    def split(part: str) -> FolderSplit:
        paths, labels = listing(directory / part, class_names)
        return FolderSplit(paths=paths, labels=labels, size=size)

    train, test = split("train"), split("val")
    return Dataset("imagenet", train, test, class_names)


def classes(folder: pathlib.Path) -> tuple[str, ...]:
    """Sorted names of the folders in ``folder``, one a class; raises DatasetError for none."""
    if not folder.is_dir():
        raise DatasetError(f"no folder {folder}: {REMEDY}")
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")
        )
    if not names:
        raise DatasetError(
            f"{folder} has no folders, one for each class: sort its images into "
            "them, for ImageNet's val by the synsets of its development kit"
        )
    return tuple(names)


def listing(folder: pathlib.Path, class_names: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """Paths of all N images and their labels (N,), int64.

    The first image of every class comes before the second of any. Raises DatasetError for a class
    without images.
    """
    found, left_out = [], 0
    for label, name in enumerate(class_names):
        with os.scandir(folder / name) as entries:
            names = sorted((entry.name, entry.path) for entry in entries)
        paths = [path for file, path in names if file.lower().endswith(SUFFIXES)]
        left_out += len(names) - len(paths)
        if not paths:
            raise DatasetError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}): fill or remove it"
            )
        found += [(turn, label, path) for turn, path in enumerate(paths)]
    if left_out:
        say(f"{left_out} files or folders in {folder} left out: no {', '.join(SUFFIXES)}")
    found.sort()
    return [path for *_, path in found], np.array([label for _, label, _ in found])
