# SPDX-License-Identifier: Apache-2.0
"""CIFAR's pickles and folders of image files.

Mirrors no module: it is about every module that reads images.
"""

import io
import os
import pathlib
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quant import data
from quant.data import cifar, folder, imagenet
from quant.data.folder import to_rgb


def python2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A file as CIFAR has it: protocol 2 of Python 2, whose strings are bytes, and numpy 1."""
    raw = pixels.tobytes()
    return (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        b"U\x01b\x87R(K\x01K" + bytes([len(pixels)]) + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1"
        b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(raw))
        + raw
        + b"tbU\x06labels]("
        + b"".join(b"K" + bytes([label]) for label in labels)
        + b"eu."
    )


@pytest.fixture
def cifar10(tmp_path, seed):
    """Folder with CIFAR-10 of 2 images a file, and the images, training before test."""
    rng, path = np.random.default_rng(seed), tmp_path / "cifar-10-batches-py"
    path.mkdir()
    pixels = rng.integers(256, size=(12, 3072), dtype=np.uint8)
    for k, name in enumerate((*cifar.CIFAR10.train, *cifar.CIFAR10.test)):
        (path / name).write_bytes(python2_pickle(pixels[2 * k : 2 * k + 2], [k, 9 - k]))
    names = [b"airplane", *(b"class%d" % i for i in range(1, 10))]
    (path / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, 4))
    return path, pixels.reshape(-1, 3, 32, 32)


def check_cifar10(loaded: data.Dataset, images: np.ndarray) -> None:
    np.testing.assert_array_equal(loaded.train_images, images[:10])
    np.testing.assert_array_equal(loaded.test_images, images[10:])
    assert loaded.train_labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert loaded.test_labels.tolist() == [5, 4]
    assert loaded.class_names[:2] == ("airplane", "class1") and loaded.shape == (3, 32, 32)
    assert loaded.train.augment == data.Augment(4, flip=True)


def test_cifar10_in_folders(cifar10) -> None:
    path, images = cifar10
    check_cifar10(data.load("cifar10", str(path)), images)
    check_cifar10(data.load("cifar10", str(path.parent)), images)


@pytest.mark.parametrize("prefix", ["", "./"])
def test_cifar10_in_its_archive(cifar10, tmp_path, prefix) -> None:
    path, images = cifar10
    archive = tmp_path / "elsewhere" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(path, prefix + path.name)
    check_cifar10(data.load("cifar10", str(archive)), images)
    check_cifar10(data.load("cifar10", str(archive.parent)), images)


def test_damaged_archives_are_refused(cifar10, tmp_path) -> None:
    """Wherever the damage is; in the headers it makes files invisible."""
    (cifar10[0] / "data_batch_1").write_text("".join(map(str, range(9999))))  # can be compressed
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar10[0], cifar10[0].name)
    whole = archive.read_bytes()
    middle = range(0, len(whole) // 2, len(whole) // 50)
    for damaged in (
        b"",
        b"no archive",
        whole[:-3000],
        *(whole[:at] + b"\xff" * 20 + whole[at + 20 :] for at in middle),
    ):
        archive.write_bytes(damaged)
        with pytest.raises(data.DatasetError, match=r"(cannot be read|is missing).*with --data"):
            data.load("cifar10", str(archive))


def test_cifar10_archive_without_a_file(cifar10, tmp_path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar10[0] / "data_batch_1", "cifar-10-batches-py/data_batch_1")
    with pytest.raises(data.DatasetError, match=r"data_batch_2 in .*is missing: get"):
        data.load("cifar10", str(archive))


def test_cifar100_has_the_fine_labels(tmp_path, seed) -> None:
    pixels = np.random.default_rng(seed).integers(256, size=(3, 3072), dtype=np.uint8)
    for name in ("train", "test"):
        content = {b"data": pixels, b"fine_labels": [99, 0, 7], b"coarse_labels": [1, 1, 1]}
        (tmp_path / name).write_bytes(pickle.dumps(content, 4))
    names = [f"class{i}" for i in range(100)]
    meta = {b"fine_label_names": names, b"coarse_label_names": ["x"]}
    (tmp_path / "meta").write_bytes(pickle.dumps(meta))
    loaded = data.load("cifar100", str(tmp_path))
    assert loaded.train_labels.tolist() == [99, 0, 7] and loaded.class_names == tuple(names)
    np.testing.assert_array_equal(loaded.test_images, pixels.reshape(-1, 3, 32, 32))


def test_pickles_cannot_call_functions(cifar10, tmp_path) -> None:
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/sprung",)

    for content in (
        pickle.dumps({b"data": Trap()}),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
    ):
        (cifar10[0] / "data_batch_3").write_bytes(content)
        with pytest.raises(data.DatasetError, match=r"data_batch_3.*no part of an array"):
            data.load("cifar10", str(cifar10[0]))
    assert not (tmp_path / "sprung").exists()


def test_pickles_cannot_reserve_memory() -> None:
    """The code 150 of a bytearray would reserve what its length says."""
    with pytest.raises(data.DatasetError, match=r"damaged \(150\)"):
        cifar.unpickle(b"\x80\x05\x96" + (1).to_bytes(8, "little") + b"x.", "file")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:3000],
        lambda content: content[:-6],
        lambda content: b"no pickle",
        lambda content: pickle.dumps([1, 2], 4),
        lambda content: pickle.dumps({b"data": [1], b"labels": [1]}, 4),
        lambda content: python2_pickle(np.zeros((2, 3072), np.uint8), [1]),
        lambda content: pickle.dumps(
            {b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 1]}, 4
        ),
        lambda content: pickle.dumps({b"data": np.zeros((2, 3072), np.int8), b"labels": [1, 1]}, 4),
        lambda content: pickle.dumps(
            {b"data": np.zeros((2, 3072), np.uint8, "F"), b"labels": [1, 1]}, 4
        ),
        lambda content: python2_pickle(np.zeros((2, 3072), np.uint8), [1, 1, 1]).replace(
            b"K\x01K\x02M", b"K\x01K\x03M"
        ),
        lambda content: content.replace(b"M\x00\x0c\x86", b"M\x01\x0c\x86"),
        lambda content: content.replace(b"U\x02u1", b"U\x02O8"),
        lambda content: content.replace(b"tb\x89", b"\x89"),
        lambda content: pickle.dumps(
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, "1"]}, 4
        ),
    ],
)
def test_damaged_pickles_are_refused(cifar10, damage) -> None:
    file = cifar10[0] / "test_batch"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(data.DatasetError, match="download it again"):
        data.load("cifar10", str(cifar10[0]))


def test_missing_pickle_and_names(cifar10) -> None:
    (cifar10[0] / "batches.meta").write_bytes(pickle.dumps({}))
    with pytest.raises(data.DatasetError, match=r"batches.meta .*no class names"):
        data.load("cifar10", str(cifar10[0]))
    (cifar10[0] / "data_batch_2").unlink()
    with pytest.raises(data.DatasetError, match=r"data_batch_2 is missing: get cifar-10-python"):
        data.load("cifar10", str(cifar10[0]))


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A smooth coloured image with noise."""
    small = rng.integers(256, size=(4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path, seed) -> pathlib.Path:
    """Two classes with 3 and 2 training images and 1 test image each, all of different sizes."""
    rng = np.random.default_rng(seed)
    for name, sizes in {
        "train/n02": [(60, 40), (33, 81), (200, 30)],
        "train/n01": [(50, 50), (30, 200)],
        "val/n01": [(70, 64)],
        "val/n02": [(31, 90)],
    }.items():
        (tmp_path / name).mkdir(parents=True)
        for k, size in enumerate(sizes):
            picture(rng, *size).save(tmp_path / name / f"{k}.JPEG")
    return tmp_path


def test_folders_are_classes_in_turn(photos) -> None:
    (photos / "train" / "n01" / "Thumbs.db").write_bytes(b"")
    d = data.load("imagenet", str(photos), size=32)
    assert d.class_names == ("n01", "n02") and d.shape == (3, 32, 32)
    assert d.train.labels.tolist() == [0, 1, 0, 1, 1] and d.test.labels.tolist() == [0, 1]
    assert [pathlib.Path(p).parts[-2:] for p in d.train.paths] == [
        ("n01", "0.JPEG"),
        ("n02", "0.JPEG"),
        ("n01", "1.JPEG"),
        ("n02", "1.JPEG"),
        ("n02", "2.JPEG"),
    ]
    assert d.subset(2).train.labels.tolist() == [0, 1] and len(d.subset(2).test) == 2
    x, y = d.train.batch(torch.tensor([4, 0]))
    assert x.shape == (2, 3, 32, 32) and x.dtype == torch.float32 and y.tolist() == [1, 0]
    assert data.load("imagenet", str(photos)).shape == (3, 224, 224)


@pytest.mark.parametrize(
    "size, scaled, box",
    [
        ((512, 256), None, (144, 16, 368, 240)),
        ((256, 300), None, (16, 38, 240, 262)),
        ((100, 151), (256, 386), (16, 81, 240, 305)),
        ((151, 100), (386, 256), (81, 16, 305, 240)),
    ],
)
def test_evaluation_resizes_and_takes_the_centre(size, scaled, box, seed) -> None:
    image = picture(np.random.default_rng(seed), *size)
    expected = (image.resize(scaled, Image.Resampling.BILINEAR) if scaled else image).crop(box)
    np.testing.assert_array_equal(np.asarray(folder.centre(image, 224)), np.asarray(expected))


def test_random_boxes_cover_what_they_should(seed) -> None:
    drawn = np.random.default_rng(seed).random((2000, folder.DRAWS))
    boxes = np.array([folder.random_box(120, 90, row) for row in drawn])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all() and boxes[:, 2].max() == 120 and boxes[:, 3].max() == 90
    share, aspect = w * h / (120 * 90), w / h
    assert 0.075 < share.min() < 0.1 and 0.9 < share.max() <= 1
    assert 0.7 < aspect.min() < 0.79 and 1.27 < aspect.max() < 1.39
    assert abs(np.log(aspect).mean()) < 0.03 and len(np.unique(boxes, axis=0)) > 1900


@pytest.mark.parametrize("size, box", [((100, 10), (43, 0, 56, 10)), ((10, 100), (0, 43, 10, 56))])
def test_box_of_an_image_that_no_crop_fits(size, box) -> None:
    """A crop of the whole area with the aspect 1 does not fit into a long image."""
    drawn = [1 - 1e-9, 0.5, 0.3, 0.3] * folder.ATTEMPTS + [0]
    assert folder.random_box(*size, drawn) == box


def test_first_box_that_fits_counts() -> None:
    drawn = [1 - 1e-9, 0.5, 0, 0] + [(0.16 - 0.08) / 0.92, 0.5, 0.5, 0.99] + [0] * 33
    assert folder.random_box(100, 25, drawn) == (80, 3, 100, 23)


def test_training_crops_and_mirrors(photos, seed) -> None:
    d = data.load("imagenet", str(photos), size=16)
    path, drawn = d.train.paths[1], np.random.default_rng(seed).random(folder.DRAWS).tolist()
    image = Image.open(path).crop(folder.random_box(60, 40, drawn))
    image = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(d.train.decode(path, [*drawn[:-1], 0.5]), image)
    np.testing.assert_array_equal(d.train.decode(path, [*drawn[:-1], 0.49]), image[:, :, ::-1])


@pytest.mark.parametrize("threads", [1, 4])
def test_parts_and_threads_do_not_change_a_batch(photos, threads, seed) -> None:
    train = data.load("imagenet", str(photos), size=16).train
    indices = torch.tensor([4, 1, 1, 0, 3, 2])
    a, b, c = (torch.Generator().manual_seed(seed) for _ in range(3))
    whole, labels = train.batch(indices, a)
    train.threads = threads
    first, second = train.batch(indices, b, slice(0, 2)), train.batch(indices, c, slice(2, 6))
    assert torch.equal(torch.cat([first[0], second[0]]), whole)
    assert torch.equal(torch.cat([first[1], second[1]]), labels)
    assert torch.equal(a.get_state(), b.get_state()) and torch.equal(a.get_state(), c.get_state())
    assert not torch.equal(whole[1], whole[2])  # the same image, drawn twice


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_other_colour_modes_become_rgb(photos, mode, seed) -> None:
    image = picture(np.random.default_rng(seed), 20, 20).convert(mode)
    suffix = "JPEG" if mode in ("L", "CMYK") else "png"
    path = photos / "val" / "n01" / f"0.{suffix}"
    (photos / "val" / "n01" / "0.JPEG").unlink()
    image.save(path)
    x, _ = data.load("imagenet", str(photos), size=16).test.batch(torch.tensor([0]))
    assert x.shape == (1, 3, 16, 16) and x.std() > 0
    if mode == "L":
        assert torch.equal(x[0, 0], x[0, 1])


def test_damaged_image_is_named(photos) -> None:
    path = photos / "train" / "n02" / "1.JPEG"
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, "JPEG")
    train = data.load("imagenet", str(photos), size=16).train
    for damaged in (content.getvalue()[:900], b"", b"no image"):
        path.write_bytes(damaged)
        with pytest.raises(data.DatasetError, match=r"n02.1\.JPEG is no image or damaged"):
            train.batch(torch.arange(5))
    path.unlink()
    with pytest.raises(data.DatasetError, match=r"n02.1\.JPEG is no image or damaged"):
        train.batch(torch.arange(5))


def test_wrong_folders_say_what_to_do(photos, tmp_path) -> None:
    def problem(pattern: str, **options: object) -> None:
        with pytest.raises(data.DatasetError, match=pattern):
            data.load("imagenet", str(photos), **options)

    problem("at least 1", size=0)
    (photos / "val" / "n02" / "0.JPEG").unlink()
    problem(r"n02 holds no image")
    (photos / "val" / "n02").rmdir()
    problem(r"only one of train and val has a class n02")
    (photos / "val" / "n01" / "0.JPEG").rename(photos / "val" / "0.JPEG")
    (photos / "val" / "n01").rmdir()
    problem(r"val has no folders, one for each class: sort")
    (photos / "val" / "0.JPEG").unlink()
    (photos / "val").rmdir()
    problem(r"no folder .*val: name the folder that holds train/CLASS")


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("I;16", 256 * 128, (128,) * 3),
        ("I;16", 255, (1,) * 3),
        ("I", 65535, (255,) * 3),
        ("L", 77, (77,) * 3),
        ("1", 255, (255,) * 3),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (0, 127), (128, 128, 128)),
    ],
)
def test_images_of_any_mode(mode: str, pixel: Any, expected: tuple[int, int, int]) -> None:
    image = to_rgb(Image.new(mode, (2, 2), pixel))
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == expected


@pytest.mark.parametrize(("mode", "pixel"), [("F", 0.5), ("I", 65536), ("I", -1)])
def test_images_of_unknown_range_are_refused(mode: str, pixel: float) -> None:
    with pytest.raises(ValueError, match=r"range|16 bits"):
        to_rgb(Image.new(mode, (2, 2), pixel))


def test_files_that_are_no_images_are_counted(tmp_path: Path, capsys) -> None:
    (tmp_path / "cat" / "nested").mkdir(parents=True)
    for name in ("a.webp", "b.JPG", "notes.txt"):
        (tmp_path / "cat" / name).touch()
    paths, _ = imagenet.listing(tmp_path, ("cat",))
    assert [Path(path).name for path in paths] == ["a.webp", "b.JPG"]
    assert "2 files or folders" in capsys.readouterr().err
