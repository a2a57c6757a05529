# SPDX-License-Identifier: Apache-2.0
"""Data sets by name. None of them is downloaded here: every error says how to get the files."""

import dataclasses
import pathlib
from collections.abc import Callable

from quant.data import cifar, digits, fashion, glue, imagenet, movies
from quant.data.folder import FolderSplit
from quant.data.splits import ArraySplit, Augment, Dataset, DatasetError, Split
from quant.data.text import TextSplit

__all__ = [
    "DATASETS",
    "ArraySplit",
    "Augment",
    "Dataset",
    "DatasetError",
    "FolderSplit",
    "Split",
    "TextSplit",
    "load",
]


@dataclasses.dataclass(frozen=True)
class Loader:
    """Loader of a data set, and its options besides the folder of its files."""

    load: Callable[..., Dataset]
    options: tuple[str, ...] = ()


DATASETS = {
    "digits": Loader(digits.load),
    "fashion-mnist": Loader(fashion.load),
    "cifar10": Loader(cifar.cifar10),
    "cifar100": Loader(cifar.cifar100),
    "imagenet": Loader(imagenet.load, ("size",)),
    "sst2": Loader(glue.sst2, ("tokenizer", "max_length")),
    "mnli": Loader(glue.mnli, ("tokenizer", "max_length")),
    "movies": Loader(movies.load, ("tokenizer", "max_length")),
}


def load(name: str, directory: str | None = None, **options: object) -> Dataset:
    """Data set ``name`` of :data:`DATASETS` from the files in ``directory``.

    Options of None are as good as not given. Raises :class:`DatasetError` with the remedy.
    """
    if name not in DATASETS:
        raise DatasetError(f"unknown dataset {name!r}; known are {', '.join(DATASETS)}")
    source = DATASETS[name]
    options = {key: value for key, value in options.items() if value is not None}
    for key in options:
        if key not in source.options:
            raise DatasetError(f"{name} has no option --{key.replace('_', '-')}: leave it out")
    return source.load(pathlib.Path(directory) if directory else None, **options)
