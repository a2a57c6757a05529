# SPDX-License-Identifier: Apache-2.0
"""Files of data sets, for :mod:`bench.soak.files`."""

import functools
import gzip
import io
import pickle
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.soak.files import Files, Target
from bench.soak.mutations import Trap, mutated_bytes
from quant import data
from quant.data.splits import Dataset, DatasetError
from tests.helpers.texts import save_movies, save_tokenizer

IDX = {"train": 40, "t10k": 20}  #: images of each part


def _images(rng: np.random.Generator, count: int, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, 256, (count, *shape), np.uint8)


@functools.cache
def idx() -> Files:
    """Fashion-MNIST, smaller."""
    rng, files = np.random.default_rng(1), {}
    for part, count in IDX.items():
        pixels, labels = _images(rng, count, (28, 28)), rng.integers(0, 10, count).astype(np.uint8)
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            files[f"{part}-{name}-ubyte.gz"] = gzip.compress(head + array.tobytes())
    return files


def mutate_idx(rng: random.Random, files: Files) -> str:
    """Mutation of the content or of the compressed bytes of one file."""
    name = rng.choice(sorted(files))
    if rng.random() < 0.3:
        files[name], said = mutated_bytes(rng, files[name])
        return f"{name} {said}"
    inner = gzip.decompress(files[name])
    if rng.random() < 0.4:
        dims = rng.choice((0, 1, 3, 3, 200))
        sizes = [rng.choice((0, 1, 28, 40, (1 << 32) - 1)) for _ in range(dims)]
        inner = bytes((0, 0, 8, dims)) + struct.pack(f">{dims}I", *sizes) + inner[16:]
        files[name] = gzip.compress(inner)
        return f"{name} claims {sizes[:4]}"
    if rng.random() < 0.05:
        files[name] = gzip.compress(inner[:4] + bytes(1 << 26))
        return f"{name} is a bomb"
    inner, said = mutated_bytes(rng, inner)
    files[name] = gzip.compress(inner)
    return f"{name} {said}"


@functools.cache
def cifar() -> Files:
    """CIFAR-10, smaller."""
    rng = np.random.default_rng(1)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    files = {
        name: pickle.dumps({b"data": _images(rng, 4, (3072,)), b"labels": [0, 1, 2, 9]}, 4)
        for name in names
    }
    return files | {"batches.meta": pickle.dumps({b"label_names": [b"x"] * 10}, 4)}


def mutate_cifar(rng: random.Random, files: Files) -> str:
    """Mutation of the bytes of a pickle, or another pickle."""
    name, way = rng.choice(sorted(files)), rng.random()
    if way < 0.1:
        files[name] = pickle.dumps({b"data": Trap(), b"labels": [1]})
        return f"{name} calls a function"
    if way < 0.3:
        labels = rng.choice(([10**400], [-1], [True], ["1"], [0] * 5, None, 7, [11, 12, 13, 14]))
        pixels = np.zeros(rng.choice(((4, 3072), (4, 1), (0,))), rng.choice(("u1", "i8")))
        files[name] = pickle.dumps({b"data": pixels, b"labels": labels}, rng.choice((3, 4, 5)))
        return f"{name} has labels {str(labels)[:40]}"
    files[name], said = mutated_bytes(rng, files[name])
    return f"{name} {said}"


@functools.cache
def pictures() -> Files:
    """Folders of images in several formats."""
    rng, files = np.random.default_rng(1), {}
    for part in ("train", "val"):
        for label, kind in (("a", "PNG"), ("b", "JPEG"), ("c", "GIF"), ("d", "TIFF"), ("e", "BMP")):
            made = io.BytesIO()
            Image.fromarray(_images(rng, 1, (16, 20, 3))[0]).save(made, kind)
            files[f"{part}/{label}/1.{kind.lower()}"] = made.getvalue()
    return files


def mutate_pictures(rng: random.Random, files: Files) -> str:
    """Mutation of the bytes of an image."""
    name = rng.choice(sorted(files))
    files[name], said = mutated_bytes(rng, files[name])
    return f"{name} {said}"


SENTENCES = "".join(f"{i}\t{rating}\tgood film {i}\n" for i, rating in enumerate((1, -1) * 20))
ROWS = [("good film", 1), ("bad film", 0)] * 4


@functools.cache
def texts() -> Files:
    """Archive of rated sentences, tables of SST-2, and a tokenizer."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save_movies(folder / "vaderSentiment-0.5.zip", SENTENCES)
        save_tokenizer(folder / "tokenizer")
        for part in ("train", "dev"):
            lines = "".join(f"{text}\t{label}\n" for text, label in ROWS)
            (folder / f"{part}.tsv").write_text(f"sentence\tlabel\n{lines}")
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }


def mutate_texts(rng: random.Random, files: Files) -> str:
    """Mutation of the archive, its table, or a table of SST-2 in one of the formats."""
    way = rng.choice(("archive", "table", "tsv", "csv", "jsonl"))
    archive = "vaderSentiment-0.5.zip"
    if way == "archive":
        files[archive], said = mutated_bytes(rng, files[archive])
    elif way == "table":
        table, said = mutated_bytes(rng, SENTENCES.encode())
        with tempfile.TemporaryDirectory() as folder:
            save_movies(Path(folder) / archive, table.decode("utf-8", "replace"))
            files[archive] = (Path(folder) / archive).read_bytes()
    elif way == "jsonl":
        nested = b"[" * 100_000
        files["train.jsonl"] = rng.choice((b'{"sentence": 1}', b"7", b'{"label":[]}', nested))
        del files["train.tsv"]
        said = f"{files['train.jsonl'][:20]!r}"
    else:
        content, said = mutated_bytes(rng, files.pop("train.tsv"))
        files[f"train.{way}"] = content.replace(b"\t", b",") if way == "csv" else content
    return f"{way} {said}"


def use(name: str, **options: object) -> Callable[[Path], None]:
    """Loading of the data set ``name`` from a folder, and a batch of both parts."""

    def load(folder: Path) -> None:
        given = dict(options)
        if name in ("movies", "sst2"):
            given["tokenizer"] = str(folder / "tokenizer")
        _batches(data.load(name, str(folder), **given))

    return load


def use_texts(folder: Path) -> None:
    """Both data sets of texts."""
    refused = []
    for name in ("movies", "sst2"):
        try:
            use(name)(folder)
        except DatasetError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def _batches(dataset: Dataset) -> None:
    for split in (dataset.train, dataset.test):
        _, labels = split.batch(torch.arange(len(split)))
        assert len(labels) == len(split) > 0
        assert int(labels.min()) >= 0 and int(labels.max()) < len(dataset.class_names)


TARGETS = {
    "idx": Target(idx, mutate_idx, use("fashion-mnist"), (DatasetError,)),
    "cifar": Target(cifar, mutate_cifar, use("cifar10"), (DatasetError,)),
    "pictures": Target(pictures, mutate_pictures, use("imagenet", size=8), (DatasetError,)),
    "texts": Target(texts, mutate_texts, use_texts, (DatasetError,)),
}
