# SPDX-License-Identifier: Apache-2.0
"""Rated sentences of film reviews, which pip can download: a stand-in for SST-2.

The source archive of vaderSentiment 0.5 on PyPI has 10,605 of them with mean ratings from -4 to 4
(Hutto and Gilbert, VADER, ICWSM 2014). Its sha256 was
5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a. Accuracies on these sentences are
not comparable with those on SST-2.
"""

import io
import pathlib
import tarfile
import zipfile
import zlib

import numpy as np

from quant.data.splits import Dataset, DatasetError
from quant.data.text import tokeniser

ARCHIVE = "vaderSentiment-0.5.zip"
CACHE = pathlib.Path("~/.cache/rmsmp")
INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
TABLE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
TEST_SHARE = 10  #: every so many sentences one is held out
SEED = 2014


def load(
    directory: pathlib.Path | None, tokenizer: str | None = None, max_length: int = 64
) -> Dataset:
    """Sentences of film reviews, negative or positive by the sign of their mean rating.

    ``directory`` is the archive or the folder that holds it.

    Sentences rated 0 and repeated ones are left out. The others are put into an order that a fixed
    seed decides, because the archive has most positive ones first, and a tenth of them is held out:
    of the archive's 10,605 that leaves 9,510 and 1,056. Raises DatasetError.
    """
    tokenise = tokeniser(tokenizer, max_length)
    texts, labels = parse(read(directory or CACHE.expanduser()))
    order = np.random.default_rng(SEED).permutation(len(texts))
    test_size = len(texts) // TEST_SHARE
    train, test = (
        tokenise([(texts[i],) for i in part], [labels[i] for i in part])
        for part in (order[test_size:], order[:test_size])
    )
    return Dataset("movies", train, test, ("negative", "positive"))


def read(path: pathlib.Path) -> str:
    """Text of the table in the archive inside the archive; raises DatasetError."""
    archive = path if path.is_file() else path / ARCHIVE
    remedy = (
        "pip download vaderSentiment==0.5 --no-binary :all: --no-deps -d DIR, then "
        f"name DIR with --data, or take {CACHE} as DIR and leave --data out"
    )
    try:
        with (
            zipfile.ZipFile(archive) as outer,
            tarfile.open(fileobj=io.BytesIO(outer.read(INNER))) as inner,
        ):
            table = inner.extractfile(TABLE)
            if table is None:
                raise KeyError(f"{TABLE} is no file")
            return table.read().decode("utf-8")
    except FileNotFoundError as error:
        raise DatasetError(f"no rated sentences at {archive}: {remedy}") from error
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        RuntimeError,
        zlib.error,
        zipfile.BadZipFile,
        tarfile.TarError,
    ) as error:
        raise DatasetError(
            f"{archive} is another archive or damaged ({error}): {remedy}"
        ) from error


def parse(table: str) -> tuple[list[str], list[int]]:
    """Texts and labels of a table of number, mean rating and text; raises DatasetError."""
    found: dict[str, int] = {}
    for number, line in enumerate(table.split("\n"), 1):
        if not line.strip():
            continue
        try:
            _, rating, text = line.split("\t")
            value = float(rating)
        except ValueError as error:
            raise DatasetError(f"line {number} of {TABLE} is damaged: download it again") from error
        if value:
            found.setdefault(text.strip(), int(value > 0))
    return list(found), list(found.values())
