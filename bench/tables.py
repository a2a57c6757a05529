# SPDX-License-Identifier: Apache-2.0
"""Accuracy tables as JSON and Markdown, with the paper's figures beside ours."""

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence

from bench.experiments import FLOAT, Table
from bench.statistics import CONFIDENCE, Estimate, estimate, paired

PAPER = pathlib.Path(__file__).parent / "paper"
#: Rows that the others are compared with.
REFERENCES = (FLOAT, "fixed4", "pot4", "rmsmp")

Measured = Mapping[str, Mapping[int, Mapping[str, float]]]


def paper_accuracies(dataset: str, model: str) -> dict[str, float]:
    """Top-1 of the paper's Table 1 by method; "<method> w8a8" are its bracketed figures."""
    with (PAPER / "table1.csv").open() as file:
        lines = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            row["method"] + (" w8a8" if row["first_last"] == "w8a8" else ""): float(row["top1"])
            for row in lines
            if (row["dataset"], row["model"]) == (dataset, model)
        }


def report(chosen: Sequence[Table], measured: Mapping[str, Measured]) -> dict[str, object]:
    """Everything that the tables show."""
    return {
        "confidence": CONFIDENCE,
        "command": "python -m bench.accuracy",
        "tables": [_table(table, measured[table.name]) for table in chosen],
    }


def _table(table: Table, measured: Measured) -> dict[str, object]:
    paper = paper_accuracies(*table.paper) if table.paper else {}
    accuracy = {
        label: {seed: v["accuracy"] for seed, v in seeds.items()}
        for label, seeds in measured.items()
    }
    rows = []
    for label, seeds in measured.items():
        row: dict[str, object] = {
            "label": label,
            "accuracy": _entry(estimate(list(accuracy[label].values()))),
            "by_seed": accuracy[label],
            "paper": paper.get(_paper_name(table, label)),
        }
        integer, agreement = (
            [v[key] for v in seeds.values() if key in v] for key in ("integer", "agreement")
        )
        row["integer"] = estimate(integer).mean if integer else None
        row["agreement"] = min(agreement, default=None)  # of the worst seed
        row["against"] = {
            reference: _entry(paired(accuracy[label], accuracy[reference]))
            for reference in REFERENCES
            if reference in accuracy and reference != label
        }
        rows.append(row)
    return {
        "name": table.name,
        "title": table.title,
        "paper": table.paper,
        "rows": rows,
        "settings": table.settings | table.float_settings,
    }


def _paper_name(table: Table, label: str) -> str | None:
    if label == FLOAT:
        return FLOAT
    name = next((row.paper for row in table.rows if row.label == label), None)
    if name is None and label.endswith("w8a8"):
        return f"{label.partition(',')[0]} w8a8"
    return name


def _entry(value: Estimate | None) -> dict[str, object] | None:
    if value is None:
        return None
    width = value.half_width if value.count > 1 else None
    return {
        "mean": value.mean,
        "half_width": width,
        "seeds": value.count,
        "clear": value.count > 1 and value.clear,
    }


def save(content: dict[str, object], folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "accuracy.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "accuracy.md").write_text(markdown(content))


def markdown(content: dict[str, object]) -> str:
    """The tables for people."""
    parts = [
        f"Measured by `{content['command']}`. Percent of the test set, mean over seeds; "
        "integers compute all of it, too; differences are paired "
        f"by seed, with their {content['confidence']:.0%} confidence interval, bold where it "
        "excludes zero. Rows of other seeds are compared by their differences only: their "
        "means are of other networks."
    ]
    return "\n\n".join(parts + [_markdown_table(t) for t in content["tables"]]) + "\n"


def _markdown_table(table: dict[str, object]) -> str:
    rows = table["rows"]
    references = [r for r in REFERENCES if any(r in row["against"] for row in rows)]
    beside = f"paper ({' '.join(table['paper'])})" if table["paper"] else None
    heads = [
        "method",
        "seeds",
        "accuracy",
        "integers",
        "agreement, least",
        *(f"less {r}" for r in references),
        *([beside] if beside else []),
    ]
    lines = [
        f"### {table['title']}",
        "",
        _line(heads),
        _line(["---"] + ["---:"] * (len(heads) - 1)),
    ]
    for row in rows:
        mean, seeds = (row["accuracy"][key] for key in ("mean", "seeds"))
        cells = [
            row["label"],
            str(seeds),
            _number(mean),
            _number(row["integer"]),
            _number(row["agreement"], 3),
            *(_difference(row["against"].get(r)) for r in references),
            *([_number(row["paper"])] if beside else []),
        ]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _difference(entry: dict[str, object] | None) -> str:
    if entry is None:
        return ""
    if entry["half_width"] is None:
        return f"{entry['mean']:+.2f}"
    text = f"{entry['mean']:+.2f} ± {entry['half_width']:.2f}"
    return f"**{text}**" if entry["clear"] else text
