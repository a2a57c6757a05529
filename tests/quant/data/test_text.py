# SPDX-License-Identifier: Apache-2.0
"""Sentences: formats of files and their tokens."""

import csv
import json
import pathlib
import sys
import zipfile

import numpy as np
import pytest
import torch

from ir.cli import UserError
from quant import data
from quant.data import glue, movies
from tests.helpers.texts import ID, save_movies, save_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    """Folder of a tokenizer like BERT's that knows ten words."""
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(path)
    return str(path)


SST2 = {
    "train": [
        {"sentence": '"the film was good', "label": 1},
        {"sentence": "bad", "label": 0},
        {"sentence": "very very bad", "label": 0},
    ],
    "validation": [{"sentence": "it is, not good", "label": 0}],
}


def write_tsv(path: pathlib.Path, rows: list[dict]) -> None:
    lines = [list(rows[0]), *(row.values() for row in rows)]
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))


def write_csv(path: pathlib.Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")


def write_parquet(path: pathlib.Path, rows: list[dict]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {".tsv": write_tsv, ".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}


def tokens(split: data.TextSplit) -> list[list[int]]:
    (ids, mask, second), _ = split.batch(torch.arange(len(split)))
    assert ids.dtype == mask.dtype == second.dtype == torch.int64
    assert ids[mask == 0].tolist() == [0] * int((mask == 0).sum())
    return [row[:length].tolist() for row, length in zip(ids, mask.sum(1), strict=True)]


def words(text: str) -> list[int]:
    return [2, *(ID.get(word, 1) for word in text.split()), 3]


@pytest.mark.parametrize("suffix", WRITERS)
def test_sst2_in_each_format(tmp_path, tokenizer, suffix) -> None:
    for name, rows in SST2.items():
        WRITERS[suffix](tmp_path / f"{name}-00000-of-00001{suffix}", rows)
    d = data.load("sst2", str(tmp_path), tokenizer=tokenizer, max_length=8)
    assert tokens(d.train) == [words('" the film was good'), words("bad"), words("very very bad")]
    assert tokens(d.test) == [words("it is , not good")]
    assert d.train.labels.tolist() == [1, 0, 0] and d.test.labels.tolist() == [0]
    assert d.class_names == ("negative", "positive") and d.shape == (8,)
    assert tokens(d.subset(1).train) == tokens(d.train)[:1] and len(d.subset(1).test) == 1


def test_several_files_are_one_set(tmp_path, tokenizer) -> None:
    for k, row in enumerate(SST2["train"]):
        write_parquet(tmp_path / f"train-{k}.parquet", [row])
    write_parquet(tmp_path / "validation.parquet", SST2["validation"])
    d = data.load("sst2", str(tmp_path), tokenizer=tokenizer)
    assert d.train.labels.tolist() == [1, 0, 0] and d.shape == (64,)


def test_glue_archives_of_sst2(tmp_path, tokenizer) -> None:
    (tmp_path / "SST-2").mkdir()
    write_tsv(tmp_path / "SST-2" / "train.tsv", SST2["train"])
    write_tsv(tmp_path / "SST-2" / "dev.tsv", SST2["validation"])
    d = data.load("sst2", str(tmp_path), tokenizer=tokenizer)
    assert len(d.train) == 3 and tokens(d.test) == [words("it is , not good")]


@pytest.fixture
def mnli(tmp_path) -> pathlib.Path:
    """MNLI in the columns of GLUE's own files, with a matched half that must not be read."""
    (tmp_path / "MNLI").mkdir()

    def row(one: str, two: str, label: str) -> dict:
        return {
            "index": 0,
            "genre": "x",
            "sentence1_parse": "( )",
            "sentence1": one,
            "sentence2": two,
            "label1": "neutral",
            "gold_label": label,
        }

    write_tsv(
        tmp_path / "MNLI" / "train.tsv",
        [row("film was good", "it was bad", "contradiction"), row("good", "bad", "neutral")],
    )
    write_tsv(tmp_path / "MNLI" / "dev_matched.tsv", [row("a", "a", "neutral")])
    write_tsv(tmp_path / "MNLI" / "dev_mismatched.tsv", [row("the film", "a film", "entailment")])
    return tmp_path


def test_glue_archives_of_mnli(mnli, tokenizer) -> None:
    d = data.load("mnli", str(mnli), tokenizer=tokenizer)
    assert tokens(d.train)[0] == words("film was good") + words("it was bad")[1:]
    assert tokens(d.test) == [words("the film") + words("a film")[1:]]
    assert d.train.labels.tolist() == [2, 1] and d.test.labels.tolist() == [0]
    assert d.class_names == ("entailment", "neutral", "contradiction") and d.shape == (128,)


def test_mnli_in_the_columns_of_the_hub(tmp_path, tokenizer) -> None:
    for label, name in enumerate(("train", "validation_matched", "validation_mismatched")):
        write_parquet(
            tmp_path / f"{name}-0.parquet",
            [{"premise": "good", "hypothesis": "excellent", "label": label, "idx": 0}],
        )
    d = data.load("mnli", str(tmp_path), tokenizer=tokenizer)
    assert d.test.labels.tolist() == [2] and tokens(d.test) == [[*words("good"), 1, 3]]


def test_second_texts_are_told_apart_as_the_tokenizer_does(tmp_path, tokenizer) -> None:
    import transformers

    pairs = [("the film was good", "it is"), ("bad", "very very bad"), ("a " * 9, "the " * 9)]
    for name in ("train", "validation_mismatched"):
        write_jsonl(
            tmp_path / f"{name}.jsonl",
            [{"premise": a, "hypothesis": b, "label": 0} for a, b in pairs],
        )
    d = data.load("mnli", str(tmp_path), tokenizer=tokenizer, max_length=12)
    inner = transformers.AutoTokenizer.from_pretrained(tokenizer, padding_side="right")
    made = inner(
        *zip(*pairs, strict=True),
        padding="max_length",
        truncation=True,
        max_length=12,
        return_token_type_ids=True,
        return_tensors="pt",
    )
    inputs, _ = d.train.batch(torch.arange(3))
    for ours, name in zip(inputs, ("input_ids", "attention_mask", "token_type_ids"), strict=True):
        assert torch.equal(ours, made[name])
    assert inputs[2][0].tolist() == [0] * 6 + [1] * 3 + [0] * 3
    assert inputs[2].sum(1).tolist() == [3, 4, 6] and len(d.subset(1).train.borders) == 1


def test_single_texts_have_no_second(tmp_path, tokenizer) -> None:
    for name, rows in SST2.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    train = data.load("sst2", str(tmp_path), tokenizer=tokenizer).train
    assert not train.batch(torch.arange(3))[0][2].any()


def test_long_texts_are_cut(tmp_path, tokenizer) -> None:
    rows = [{"sentence": "good " * 50, "label": 1}]
    for name in SST2:
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    d = data.load("sst2", str(tmp_path), tokenizer=tokenizer, max_length=10)
    assert tokens(d.train) == [words("good " * 8)]


def test_chunks_do_not_change_the_tokens(tmp_path, tokenizer, monkeypatch) -> None:
    for name, rows in SST2.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    whole = data.load("sst2", str(tmp_path), tokenizer=tokenizer)
    monkeypatch.setattr("quant.data.text.CHUNK", 2)
    chunks = data.load("sst2", str(tmp_path), tokenizer=tokenizer)
    np.testing.assert_array_equal(whole.train.tokens, chunks.train.tokens)
    np.testing.assert_array_equal(whole.train.lengths, chunks.train.lengths)


def test_parts_of_a_batch_draw_nothing(mnli, tokenizer, seed) -> None:
    train = data.load("mnli", str(mnli), tokenizer=tokenizer).train
    generator = torch.Generator().manual_seed(seed)
    before = generator.get_state()
    inputs, labels = train.batch(torch.tensor([1, 0, 1]), generator, slice(1, 3))
    all_inputs, all_labels = train.batch(torch.tensor([1, 0, 1]))
    assert all(map(torch.equal, inputs, (x[1:] for x in all_inputs)))
    assert torch.equal(labels, all_labels[1:]) and torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    "suffix, content, problem",
    [
        (".tsv", "sentence\tlabel\ngood\t1\nbad", r"train.tsv: row 2 needs text"),
        (".tsv", "sentence\tlabel\n", r"train.tsv is empty"),
        (".tsv", "text\tlabel\ngood\t1\n", r"row 1 needs text in sentence and one of negative"),
        (".csv", "sentence,label\ngood,2\n", r"in label, it has '2'"),
        (".csv", 'sentence,label\n"good,2\n', r"train.csv cannot be read"),
        (".jsonl", '{"sentence": "good", "la', r"train.jsonl cannot be read"),
        (".jsonl", "[1]\n", r"row 1 is no table row"),
        (".jsonl", '{"sentence": 3, "label": 1}\n', r"row 1 needs text"),
        (".parquet", "PAR1", r"train.parquet cannot be read"),
        (".jsonl", b"\xff\xfe", r"train.jsonl cannot be read"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, tokenizer, suffix, content, problem) -> None:
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / f"train{suffix}").write_bytes(content)
    with pytest.raises(data.DatasetError, match=problem):
        data.load("sst2", str(tmp_path), tokenizer=tokenizer)


def test_missing_half_says_what_is_wanted(tmp_path, tokenizer) -> None:
    write_jsonl(tmp_path / "train.jsonl", SST2["train"])
    with pytest.raises(data.DatasetError, match=r"no validation or dev of sst2 in .*with --data"):
        data.load("sst2", str(tmp_path), tokenizer=tokenizer)


def test_hub_without_internet(tokenizer, monkeypatch) -> None:
    import datasets

    def unreachable(*args, **options):
        raise ConnectionError("Couldn't reach it\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(data.DatasetError, match=r"Couldn't reach it and more\): with --data name"):
        data.load("sst2", tokenizer=tokenizer)


def test_hub_gives_train_and_mismatched(tokenizer, monkeypatch) -> None:
    import datasets

    asked = []

    def fake(*args, split):
        asked.append((*args, split))
        return datasets.Dataset.from_list([{"premise": "a", "hypothesis": "the", "label": 1}])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    d = data.load("mnli", tokenizer=tokenizer)
    assert asked == [(glue.HUB, "mnli", "train"), (glue.HUB, "mnli", "validation_mismatched")]
    assert tokens(d.train) == [words("a") + words("the")[1:]]


def test_missing_packages_are_named(tokenizer, monkeypatch, tmp_path) -> None:
    for package in ("datasets", "pyarrow", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"transformers.*pip install 'rmsmp\[text\]'"):
        data.load("sst2", tokenizer=tokenizer)
    with pytest.raises(data.DatasetError, match=r"datasets is missing: pip install 'rmsmp\[te"):
        glue.from_hub(glue.SST2, "train")
    with pytest.raises(data.DatasetError, match=r"pyarrow: pip install 'rmsmp\[text\]'"):
        glue.read(tmp_path / "train.parquet")


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, "texts need a tokenizer"),
        ({"tokenizer": "/nowhere"}, r"no tokenizer /nowhere .*tokenizer.json or vocab.txt"),
        ({"tokenizer": "good", "max_length": 7}, "at least 8"),
    ],
)
def test_wrong_tokenizers_say_what_to_do(tmp_path, options, problem) -> None:
    with pytest.raises(data.DatasetError, match=problem) as caught:
        data.load("sst2", str(tmp_path), **options)
    assert "\n" not in str(caught.value)


def test_empty_folder_is_no_tokenizer(tmp_path) -> None:
    with pytest.raises(data.DatasetError, match="no tokenizer"):
        data.load("sst2", str(tmp_path), tokenizer=str(tmp_path))


@pytest.fixture
def reviews(tmp_path) -> pathlib.Path:
    """Forty sentences; every fourth is good, the first is repeated and one is rated 0."""
    lines = [
        f"{i}\t{2.5 if i % 4 == 0 else -0.1}\t{'good ' * (i % 4 == 0)}{'film ' * i}"
        for i in range(40)
    ]
    save_movies(
        tmp_path / movies.ARCHIVE, "\r\n".join([*lines, "40\t-2\tgood", "41\t0.0\tnot good"])
    )
    return tmp_path


def test_movies_are_split_the_same_each_time(reviews, tokenizer) -> None:
    d = data.load("movies", str(reviews), tokenizer=tokenizer)
    again = data.load("movies", str(reviews / movies.ARCHIVE), tokenizer=tokenizer)
    train, test = tokens(d.train), tokens(d.test)
    assert (len(train), len(test)) == (36, 4) and tokens(again.test) == test
    assert len({tuple(row) for row in train + test}) == 40
    for split, rows in ((d.train, train), (d.test, test)):
        assert split.labels.tolist() == [int(ID["good"] in row) for row in rows]
    assert d.class_names == ("negative", "positive") and d.shape == (64,)


def test_first_movies_are_of_both_classes(tmp_path, tokenizer) -> None:
    """The archive has those of one class first."""
    save_movies(
        tmp_path / movies.ARCHIVE,
        "".join(f"{i}\t{1 if i < 100 else -1}\t{'good ' * i}\n" for i in range(1, 200)),
    )
    d = data.load("movies", str(tmp_path), tokenizer=tokenizer)
    for labels in (d.subset(50).train.labels, d.test.labels):
        assert 0.25 < labels.mean() < 0.75
    texts = tokens(data.load("movies", str(tmp_path), tokenizer=tokenizer, max_length=256).train)
    assert len({tuple(row) for row in texts}) == 180


def test_missing_and_damaged_reviews(reviews, tokenizer, monkeypatch) -> None:
    def problem(pattern: str, place: pathlib.Path | None) -> None:
        with pytest.raises(data.DatasetError, match=pattern):
            data.load("movies", place and str(place), tokenizer=tokenizer)

    monkeypatch.setattr(movies, "CACHE", reviews / "empty")
    problem(r"no rated sentences at .*empty.*pip download vaderSentiment==0.5", None)
    archive = reviews / movies.ARCHIVE
    whole = archive.read_bytes()
    for damaged in (
        b"",
        whole[:200],
        whole[:-60] + b"-" * 60,
        whole[:110] + b"\xff" * 20 + whole[130:],
    ):
        archive.write_bytes(damaged)
        problem("is another archive or damaged", reviews)
    with zipfile.ZipFile(archive, "w") as outer:
        outer.writestr("README", "")
    problem("is another archive or damaged", reviews)
    save_movies(archive, "1\t2.5\tgood\n2\tbad\n")
    problem("line 2 of .* is damaged", reviews)
