# SPDX-License-Identifier: Apache-2.0
"""Data sets and their files."""

import gzip
import struct

import numpy as np
import pytest

from quant import data


def write_idx(path, array: np.ndarray) -> None:
    head = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


@pytest.fixture
def fashion(tmp_path, seed):
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("train", 5), ("t10k", 3)):
        arrays[part] = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"{part}-images-idx3-ubyte.gz", arrays[part])
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    return tmp_path, arrays


def test_digits() -> None:
    d = data.load("digits")
    assert d.train_images.shape == (1437, 1, 8, 8) and d.test_images.shape == (360, 1, 8, 8)
    assert d.train_images.dtype == np.uint8 and d.train_labels.dtype == np.int64
    steps = {16 * 0, 255 * 1 // 16, 255 * 15 // 16, 255}
    assert steps <= set(np.unique(d.train_images).tolist())
    assert len(np.unique(d.train_images)) == 17
    assert set(d.test_labels) == set(range(10)) and d.class_names[3] == "3"


def test_fashion_mnist(fashion) -> None:
    path, arrays = fashion
    d = data.load("fashion-mnist", str(path))
    np.testing.assert_array_equal(d.train_images, arrays["train"][:, None])
    np.testing.assert_array_equal(d.test_images, arrays["t10k"][:, None])
    assert d.test_labels.tolist() == [0, 1, 2] and d.shape == (1, 28, 28)


def test_subset_keeps_the_test_set(fashion) -> None:
    d = data.load("fashion-mnist", str(fashion[0]))
    assert len(d.subset(2).train_images) == len(d.subset(2).train_labels) == 2
    assert len(d.subset(2).test_images) == 3
    assert len(d.subset(None).train_images) == 5


def test_missing_dataset_says_how_to_get_it(tmp_path) -> None:
    with pytest.raises(data.DatasetError, match="apt-get install dataset-fashion-mnist"):
        data.load("fashion-mnist", str(tmp_path / "nowhere"))
    with pytest.raises(data.DatasetError, match=r"train-images.*apt-get install"):
        data.load("fashion-mnist", str(tmp_path))


@pytest.mark.parametrize("damage", [
    lambda content: b"no gzip",
    lambda content: content[: len(content) // 2],
    lambda content: gzip.compress(gzip.decompress(content)[:-1]),
    lambda content: gzip.compress(gzip.decompress(content) + b"0"),
    lambda content: gzip.compress(gzip.decompress(content)[:9]),
    lambda content: gzip.compress(b"\0\0\x0d\x01" + bytes(4)),
    lambda content: gzip.compress(b""),
])
def test_damaged_file_is_refused(fashion, damage) -> None:
    file = fashion[0] / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(data.DatasetError, match="t10k-images"):
        data.load("fashion-mnist", str(fashion[0]))


def test_labels_of_another_set_are_refused(fashion) -> None:
    write_idx(fashion[0] / "train-labels-idx1-ubyte.gz", np.zeros(4, np.uint8))
    with pytest.raises(data.DatasetError, match="do not belong together"):
        data.load("fashion-mnist", str(fashion[0]))
