# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 and CIFAR-100: 50,000 training and 10,000 test images, 32x32, in Python pickles."""

import dataclasses
import io
import math
import pathlib
import pickle
import struct
import tarfile
import zlib

import numpy as np

from quant.data.splits import ArraySplit, Augment, Dataset, DatasetError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Layout of a set's archive and files."""

    name: str
    folder: str  #: in the archive, which has the name ``archive``
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: bytes  #: key of the labels in the files of images
    meta: str
    class_names: bytes  #: key of the names in ``meta``


CIFAR10 = Layout(
    name="cifar10",
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test=("test_batch",),
    labels=b"labels",
    meta="batches.meta",
    class_names=b"label_names",
)
CIFAR100 = Layout(
    name="cifar100",
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train=("train",),
    test=("test",),
    labels=b"fine_labels",
    meta="meta",
    class_names=b"fine_label_names",
)


def cifar10(directory: pathlib.Path | None) -> Dataset:
    """CIFAR-10 from its archive or its unpacked folder; raises DatasetError."""
    return load(CIFAR10, directory)


def cifar100(directory: pathlib.Path | None) -> Dataset:
    """CIFAR-100, 100 fine labels, from its archive or its unpacked folder; raises DatasetError."""
    return load(CIFAR100, directory)


def load(layout: Layout, path: pathlib.Path | None) -> Dataset:
    """Data set ``layout`` from ``path``: the archive, the folder in it or around one of them.

    Training moves images by up to 4 pixels and mirrors them. Raises DatasetError with the remedy.
    """
    files = {name: unpickle(content, name) for name, content in read(layout, path).items()}
    names = files[layout.meta].get(layout.class_names)
    if not isinstance(names, list) or not all(isinstance(n, bytes | str) for n in names):
        raise DatasetError(f"{layout.meta} of {layout.name} has no class names: download it again")
    return Dataset(
        layout.name,
        split(layout, [files[name] for name in layout.train], Augment(4, flip=True)),
        split(layout, [files[name] for name in layout.test], None),
        tuple(n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names),
    )


def read(layout: Layout, path: pathlib.Path | None) -> dict[str, bytes]:
    """Content of all files of a set, by name; raises DatasetError with the remedy."""
    wanted = (*layout.train, *layout.test, layout.meta)
    remedy = (
        f"get {layout.archive} from https://www.cs.toronto.edu/~kriz/cifar.html and name it "
        "or its folder with --data"
    )
    if path is None:
        raise DatasetError(f"no place given for {layout.name}: {remedy}")
    archive = path / layout.archive if path.is_dir() else path
    folder = path / layout.folder if (path / layout.folder).is_dir() else path
    try:
        if (folder / layout.meta).is_file():
            return {name: (folder / name).read_bytes() for name in wanted}
        if archive.is_file():
            return read_archive(archive, layout.folder, wanted)
    except FileNotFoundError as error:
        raise DatasetError(f"{error.filename} is missing: {remedy}") from error
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): {remedy}") from error
    raise DatasetError(f"no {layout.name} at {path}: {remedy}")


def read_archive(path: pathlib.Path, folder: str, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Files of ``folder`` in an archive, read in the order in which it holds them.

    Raises FileNotFoundError for one of ``wanted`` that is missing.
    """
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            parent, _, name = member.name.removeprefix("./").rpartition("/")
            if parent != folder or name not in wanted or not member.isfile():
                continue
            if content := archive.extractfile(member):
                found[name] = content.read()
    for name in wanted:
        if name not in found:
            raise FileNotFoundError(None, None, f"{folder}/{name} in {path}")
    return found


def split(layout: Layout, files: list[dict], augment: Augment | None) -> ArraySplit:
    """Images uint8 (N, 3, 32, 32) of the unpickled ``files``; raises DatasetError for others."""
    images, labels = [], []
    for file in files:
        data, classes = file.get(b"data"), file.get(layout.labels)
        pixels = None
        if not isinstance(classes, list):
            classes = []
        elif isinstance(data, PickledArray):
            pixels = data.bytes_of((len(classes), 3072))
        if pixels is None or not all(type(c) is int for c in classes):
            raise DatasetError(
                f"a file of {layout.name} does not hold 32x32 images with "
                f"{layout.labels.decode()}: download it again"
            )
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels += classes
    return ArraySplit(np.concatenate(images), np.array(labels), augment)


class PickledArray:
    """Claims of a pickle about a numpy array or its type.

    numpy itself believes every word: damaged files made it read memory that is not there.
    """

    def __init__(self, *said: object) -> None:
        self.said, self.state = said, ()

    def __setstate__(self, state: object) -> None:
        self.state = state

    def bytes_of(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Array of unsigned bytes with that ``shape``, or None where it is another."""
        match self.state:
            case [_, found, PickledArray(said=["u1" | b"u1", *_]), False, bytes(raw)] if (
                found == shape and len(raw) == math.prod(shape)
            ):
                return np.frombuffer(raw, np.uint8).reshape(shape)
        return None


class ArrayUnpickler(pickle._Unpickler):
    """Unpickler of containers, numbers, strings and arrays, and of nothing else.

    These files come from the internet, and a pickle may name any function to be called.

    It is the implementation in Python, because the one in C reserves as much memory as a damaged
    file says, 4 GiB for one of nine bytes. For the same reason it knows no bytearray.
    """

    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code != pickle.BYTEARRAY8[0]
    }

    ALLOWED = (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),  # of numpy 1
        ("numpy._core.multiarray", "_reconstruct"),
    )  # of numpy 2

    def find_class(self, module: str, name: str) -> object:
        """Stand-in for a part of an array; raises UnpicklingError for everything else."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, no part of an array")
        return PickledArray


def unpickle(content: bytes, name: str) -> dict:
    """Dictionary in a pickle; strings of Python 2 become bytes. Raises DatasetError."""
    try:
        found = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ImportError,
        LookupError,
        TypeError,
        ValueError,
        OverflowError,
        MemoryError,
        struct.error,
    ) as error:
        raise DatasetError(
            f"{name} is truncated or damaged ({error}): download it again"
        ) from error
    if not isinstance(found, dict):
        raise DatasetError(f"{name} holds no dictionary: download it again")
    return found
