# SPDX-License-Identifier: Apache-2.0
"""SST-2 and MNLI of the GLUE benchmark, from files or from the Hugging Face hub."""

import csv
import dataclasses
import json
import pathlib

from quant.data.splits import Dataset, DatasetError
from quant.data.text import TextSplit, Tokenise, tokeniser

HUB = "nyu-mll/glue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Task of GLUE. Columns have one name on the hub and another in GLUE's own files."""

    name: str  #: on the hub
    folder: str  #: in GLUE's own archive
    columns: tuple[tuple[str, ...], ...]  #: of the sentences, in the order of preference
    labels: tuple[str, ...]  #: names of the label's column
    test: tuple[str, ...]  #: how names of files begin that are tested on
    class_names: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """Advice where the task's files are missing."""
        return (
            f"with --data name a folder that has train and {self.test[0]} as .parquet, .tsv, "
            f".csv or .jsonl, or GLUE's own; or leave --data out on a machine with internet "
            f"and datasets installed, to have {HUB} downloaded"
        )


SST2 = Task(
    name="sst2",
    folder="SST-2",
    columns=(("sentence",),),
    labels=("label",),
    test=("validation", "dev"),
    class_names=("negative", "positive"),
)
#: Tested on the genres that are not in the training set, as it is usually reported.
MNLI = Task(
    name="mnli",
    folder="MNLI",
    columns=(("premise", "hypothesis"), ("sentence1", "sentence2")),
    labels=("gold_label", "label"),
    test=("validation_mismatched", "dev_mismatched"),
    class_names=("entailment", "neutral", "contradiction"),
)


def sst2(
    directory: pathlib.Path | None, tokenizer: str | None = None, max_length: int = 64
) -> Dataset:
    """SST-2: sentences of film reviews, negative or positive. Raises DatasetError."""
    return load(SST2, directory, tokeniser(tokenizer, max_length))


def mnli(
    directory: pathlib.Path | None, tokenizer: str | None = None, max_length: int = 128
) -> Dataset:
    """MNLI: pairs of sentences; the second follows from the first, contradicts it, or neither.

    The test set is the mismatched half of the validation set. Raises DatasetError.
    """
    return load(MNLI, directory, tokeniser(tokenizer, max_length))


def load(task: Task, directory: pathlib.Path | None, tokenise: Tokenise) -> Dataset:
    """Data set of ``task`` from ``directory``, or from the hub; raises DatasetError."""
    parts = []
    for beginnings in (("train",), task.test):
        if directory is None:
            rows, source = from_hub(task, beginnings[0]), f"{HUB} {task.name}"
        else:
            files = find(task, directory, beginnings)
            rows, source = [row for file in files for row in read(file)], str(files[0])
        parts.append(convert(task, rows, source, tokenise))
    train, test = parts
    return Dataset(task.name, train, test, task.class_names)


def from_hub(task: Task, split: str) -> list[dict]:
    """Records of a task's split; raises DatasetError."""
    try:
        import datasets

        return datasets.load_dataset(HUB, task.name, split=split).to_list()
    except ImportError as error:
        raise DatasetError(
            f"the package datasets is missing: pip install 'rmsmp[text]'; or {task.remedy}"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"no {task.name} from the hub ({error}): {task.remedy}") from error


def find(task: Task, directory: pathlib.Path, beginnings: tuple[str, ...]) -> list[pathlib.Path]:
    """Files whose names begin with one of ``beginnings``, in ``directory`` or its task's folder.

    All are of the first format that there is. Raises DatasetError where there are none.
    """
    for folder in (directory, directory / task.name, directory / task.folder):
        for suffix in READERS:
            for beginning in beginnings:
                if found := sorted(folder.glob(f"{beginning}*{suffix}")):
                    return found
    raise DatasetError(f"no {' or '.join(beginnings)} of {task.name} in {directory}: {task.remedy}")


def read(path: pathlib.Path) -> list[dict]:
    """Rows of a table, by column; raises DatasetError for a damaged file."""
    try:
        return READERS[path.suffix](path)
    except ImportError as error:
        raise DatasetError("reading .parquet needs pyarrow: pip install 'rmsmp[text]'") from error
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DatasetError(f"{path} cannot be read, get it again: {error}") from error


def read_tsv(path: pathlib.Path) -> list[dict]:
    """Rows of a table of tab-separated values, without quotes."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def read_csv(path: pathlib.Path) -> list[dict]:
    """Rows of a table of comma-separated values."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def read_jsonl(path: pathlib.Path) -> list[dict]:
    """Rows of a file with one JSON object a line."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def read_parquet(path: pathlib.Path) -> list[dict]:
    """Rows of a Parquet file; needs pyarrow."""
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


READERS = {".parquet": read_parquet, ".tsv": read_tsv, ".csv": read_csv, ".jsonl": read_jsonl}


def convert(task: Task, rows: list[dict], source: str, tokenise: Tokenise) -> TextSplit:
    """Samples of ``rows`` with texts and labels, numbers or class names; raises DatasetError."""
    known = {name: i for i, name in enumerate(task.class_names)}
    known |= {str(i): i for i in known.values()}
    texts, labels = [], []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DatasetError(f"{source}: row {number} is no table row; get the file again")
        columns = next((names for names in task.columns if names[0] in row), task.columns[0])
        text = tuple(row.get(name) for name in columns)
        label = next((row[name] for name in task.labels if name in row), None)
        if not all(isinstance(part, str) for part in text) or str(label) not in known:
            raise DatasetError(
                f"{source}: row {number} needs text in {' and '.join(columns)} and one of "
                f"{', '.join(known)} in {task.labels[-1]}, it has {label!r}; get the file again"
            )
        texts.append(text)
        labels.append(known[str(label)])
    if not rows:
        raise DatasetError(f"{source} is empty; get the file again")
    return tokenise(texts, labels)
