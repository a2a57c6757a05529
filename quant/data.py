# SPDX-License-Identifier: Apache-2.0
"""Data sets as unsigned 8-bit images, which is what the accelerator reads."""

import dataclasses
import gzip
import pathlib
import struct

import numpy as np

from quant.cli import UserError

FASHION_MNIST_PATH = pathlib.Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                         "sneaker", "bag", "ankle boot")


class DatasetError(UserError):
    """A data set that is not there or is damaged."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images uint8 (N, C, H, W), labels int64 (N,)."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.train_images.shape[1:]

    def subset(self, count: int | None) -> "Dataset":
        """The same with only the first ``count`` training images (all of them for None)."""
        return dataclasses.replace(self, train_images=self.train_images[:count],
                                   train_labels=self.train_labels[:count])


def load(name: str, directory: str | None = None) -> Dataset:
    """Load ``digits`` or ``fashion-mnist``; raises :class:`DatasetError` with the remedy."""
    if name == "digits":
        return digits()
    if name == "fashion-mnist":
        return fashion_mnist(pathlib.Path(directory) if directory else FASHION_MNIST_PATH)
    raise DatasetError(f"unknown dataset {name!r}")


def digits() -> Dataset:
    """Handwritten digits of scikit-learn, 8x8, pixels 0..16 stretched to 0..255.

    The last 360 images are held out. They come from other sittings than the first 1,437, which
    makes them harder than a random choice (98 % against 100 %).
    """
    from sklearn.datasets import load_digits  # here, because importing it takes a second

    images, labels = load_digits(return_X_y=True)
    images = (images.astype(np.int64) * 255 // 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = labels.astype(np.int64)
    return Dataset("digits", images[:-360], labels[:-360], images[-360:], labels[-360:],
                   tuple("0123456789"))


def fashion_mnist(directory: pathlib.Path) -> Dataset:
    """Fashion-MNIST from the four gzipped IDX files in ``directory``."""
    if not directory.is_dir():
        raise DatasetError(f"no Fashion-MNIST at {directory}: apt-get install "
                           "dataset-fashion-mnist, or name the folder of its files with --data")
    parts = []
    for part in ("train", "t10k"):
        images = read_idx(directory / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(directory / f"{part}-labels-idx1-ubyte.gz")
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DatasetError(f"{directory}: {part} images {images.shape} and labels "
                               f"{labels.shape} do not belong together")
        parts += [images[:, None], labels.astype(np.int64)]
    return Dataset("fashion-mnist", *parts, FASHION_MNIST_CLASSES)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """One gzipped IDX file of unsigned bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: apt-get install dataset-fashion-mnist, or name the "
                           "folder of its four files with --data") from error
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DatasetError(f"{path} is not an IDX file of bytes")
    dims = content[3]
    header = 4 + 4 * dims
    shape = struct.unpack_from(f">{dims}I", content, 4) if len(content) >= header else ()
    if len(content) - header != int(np.prod(shape)):
        raise DatasetError(f"{path} is truncated or damaged")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
