# SPDX-License-Identifier: Apache-2.0
"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28, in IDX files."""

import gzip
import pathlib
import struct
import zlib

import numpy as np

from quant.data.splits import ArraySplit, Augment, Dataset, DatasetError

PATH = pathlib.Path("/usr/share/datasets/fashion-mnist")  #: of the Debian package
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
REMEDY = "apt-get install dataset-fashion-mnist, or name the folder of its four files with --data"


def load(directory: pathlib.Path | None) -> Dataset:
    """Fashion-MNIST from the four gzipped IDX files in ``directory``; raises DatasetError."""
    directory = directory or PATH
    if not directory.is_dir():
        raise DatasetError(f"no Fashion-MNIST at {directory}: {REMEDY}")
    parts = {}
    for part, augment in (("train", Augment(flip=True)), ("t10k", None)):
        images = read_idx(directory / f"{part}-images-idx3-ubyte.gz")
        labels = read_idx(directory / f"{part}-labels-idx1-ubyte.gz")
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DatasetError(
                f"{directory}: {part} images {images.shape} and labels "
                f"{labels.shape} do not belong together"
            )
        parts[part] = ArraySplit(images[:, None], labels, augment)
    return Dataset("fashion-mnist", parts["train"], parts["t10k"], CLASSES)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Array, uint8, in a gzipped IDX file of bytes; raises DatasetError for another file."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: {REMEDY}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DatasetError(f"{path} is not an IDX file of bytes")
    dims = content[3]
    header = 4 + 4 * dims
    shape = struct.unpack_from(f">{dims}I", content, 4) if len(content) >= header else ()
    if len(content) - header != int(np.prod(shape)):
        raise DatasetError(f"{path} is truncated or damaged")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
