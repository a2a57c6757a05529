# SPDX-License-Identifier: Apache-2.0
"""Data sets and their files."""

import gzip
import struct

import numpy as np
import pytest
import torch

from quant import data
from quant.data.splits import ArraySplit, Augment


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"no gzip",
        lambda content: content[: len(content) // 2],
        lambda content: gzip.compress(bytes(range(99)) * 99)[:40] + b"\xff" * 99,
        lambda content: gzip.compress(gzip.decompress(content)[:-1]),
        lambda content: gzip.compress(gzip.decompress(content) + b"0"),
        lambda content: gzip.compress(gzip.decompress(content)[:9]),
        lambda content: gzip.compress(b"\0\0\x0d\x01" + bytes(4)),
        lambda content: gzip.compress(b""),
    ],
)
def test_damaged_file_is_refused(fashion, damage) -> None:
    file = fashion[0] / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(data.DatasetError, match="t10k-images"):
        data.load("fashion-mnist", str(fashion[0]))


@pytest.mark.parametrize("labels", [np.zeros(4, np.uint8), np.full(5, 10, np.uint8)])
def test_labels_of_another_set_are_refused(fashion, labels) -> None:
    write_idx(fashion[0] / "train-labels-idx1-ubyte.gz", labels)
    with pytest.raises(data.DatasetError, match="do not belong together"):
        data.load("fashion-mnist", str(fashion[0]))


def test_set_without_samples_is_refused(fashion) -> None:
    write_idx(fashion[0] / "train-images-idx3-ubyte.gz", np.zeros((0, 28, 28), np.uint8))
    write_idx(fashion[0] / "train-labels-idx1-ubyte.gz", np.zeros(0, np.uint8))
    with pytest.raises(data.DatasetError, match="no samples"):
        data.load("fashion-mnist", str(fashion[0]))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(data.DatasetError, match="known are digits, fashion-mnist, cifar10"):
        data.load("mnist")


def test_options_of_other_sets_are_refused() -> None:
    with pytest.raises(data.DatasetError, match="digits has no option --max-length"):
        data.load("digits", max_length=64)
    with pytest.raises(data.DatasetError, match="leave --data out"):
        data.load("digits", "folder")
    assert data.load("digits", max_length=None).name == "digits"


@pytest.mark.parametrize("name", sorted(set(data.DATASETS) - {"digits"}))
def test_every_missing_set_says_how_to_get_it(name, tmp_path) -> None:
    with pytest.raises(data.DatasetError, match=r"with --(data|tokenizer)") as caught:
        data.load(name, str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.fixture
def split(seed) -> ArraySplit:
    images = np.random.default_rng(seed).integers(256, size=(9, 2, 5, 7), dtype=np.uint8)
    return ArraySplit(images, np.arange(9), Augment(shift=2, flip=True))


def test_batch_for_evaluation_is_pixels_over_255(split) -> None:
    x, y = split.batch(torch.tensor([7, 0, 7]))
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and y.tolist() == [7, 0, 7]
    torch.testing.assert_close(x, torch.tensor(split.images[[7, 0, 7]]) / 255, rtol=0, atol=0)
    np.testing.assert_array_equal((x * 255).round().numpy(), split.images[[7, 0, 7]])


def test_augmented_images_are_moved_and_mirrored(split, seed) -> None:
    """Each is one of the fifty that shift and mirror can make, and most kinds occur."""
    split = split.augmented(Augment(shift=2, flip=True))
    x, _ = split.batch(torch.zeros(600, dtype=torch.int64), torch.Generator().manual_seed(seed))
    padded = np.pad(split.images[0], ((0, 0), (2, 2), (2, 2)))
    mirrored = np.pad(split.images[0][..., ::-1], ((0, 0), (2, 2), (2, 2)))
    possible = {
        p[:, r : r + 5, c : c + 7].tobytes()
        for p in (padded, mirrored)
        for r in range(5)
        for c in range(5)
    }
    made = {image.tobytes() for image in (x * 255).round().to(torch.uint8).numpy()}
    assert len(possible) == 50 and made == possible


def test_without_augmentation_training_sees_the_images(split, seed) -> None:
    plain, generator = split.augmented(Augment()), torch.Generator().manual_seed(seed)
    assert torch.equal(plain.batch(torch.arange(9), generator)[0], split.batch(torch.arange(9))[0])


@pytest.mark.parametrize("augment", [Augment(2, True), Augment(2), Augment(0, True), Augment()])
def test_parts_of_a_batch_are_what_the_whole_batch_has(split, augment, seed) -> None:
    split, indices = split.augmented(augment), torch.tensor([3, 8, 0, 3, 5])
    a, b, c = (torch.Generator().manual_seed(seed) for _ in range(3))
    whole, labels = split.batch(indices, a)
    first, second = split.batch(indices, b, slice(0, 2)), split.batch(indices, c, slice(2, 5))
    assert torch.equal(torch.cat([first[0], second[0]]), whole)
    assert torch.equal(torch.cat([first[1], second[1]]), labels)
    assert torch.equal(a.get_state(), b.get_state()) and torch.equal(a.get_state(), c.get_state())


def test_first_and_to_keep_the_augmentation(split) -> None:
    fewer = split.first(4).to("cpu")
    assert len(fewer) == 4 and fewer.augment == split.augment and fewer.shape == (2, 5, 7)
    assert len(split.first(None)) == 9
