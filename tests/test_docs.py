# SPDX-License-Identifier: Apache-2.0
"""The generated pages are those of the code at hand, and the written ones point at what exists."""

import itertools
import re
from pathlib import Path

import pytest

from docs import generate
from quant import evaluate, train
from quant.assignment.methods import METHODS
from quant.models import MODELS
from quant.training.config import FLOAT32, PRESETS

DOCS = Path(generate.__file__).parent


@pytest.mark.parametrize("name", generate.pages())
def test_generated_page_is_current(name):
    assert (DOCS / name).read_text(encoding="utf-8") == generate.pages()[name], (
        "run `python -m docs.generate` and commit the result"
    )


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_tables_have_as_many_cells_in_every_line(page):
    lines = page.read_text(encoding="utf-8").split("\n")
    cells = [line.count("|") if line.startswith("|") else 0 for line in lines]
    for number, (one, two) in enumerate(itertools.pairwise(cells), 2):
        assert not (one and two) or one == two, f"line {number}"


def test_training_page_follows_the_command_line():
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    options = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
    known = {"--nproc-per-node"}  # of torchrun
    for command in (train, evaluate):
        known |= set(options.findall(command.parser().format_help()))
    assert set(options.findall(text)) <= known
    assert {FLOAT32, *METHODS, *PRESETS, *MODELS} <= set(re.findall(r"`([^`\n]+)`", text))


def test_decisions_are_dated_and_in_order():
    titles = re.findall(r"^## (.*)$", (DOCS / "decisions.md").read_text(encoding="utf-8"), re.M)
    dates = [re.fullmatch(r"(\d{4}-\d{2}-\d{2}) .+", title)[1] for title in titles]
    assert dates and dates == sorted(dates)
