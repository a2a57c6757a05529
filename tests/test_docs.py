# SPDX-License-Identifier: Apache-2.0
"""Pages are those of the code at hand: what they name exists, what they show runs.

Mirrors no module: it is about pages.
"""

import argparse
import ast
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

import rmsmp
import rmsmp.cli
from docs import flow, generate, notebooks
from ir.cli import UserError
from quant import calibrate, evaluate, train
from quant.assignment.methods import METHODS
from quant.models import MODELS
from quant.training.config import FLOAT32, PRESETS
from tests.helpers import pages
from tests.helpers.pages import PAGES, ROOT, Command

DOCS = ROOT / "docs"
README = ROOT / "README.md"
FILES = ("rmsmp.dts",)  #: look like names of modules
OURS = ("ir", "rmsmp", "quant", "gateware", "sim", "boards", "bench", "examples", "tests", "docs")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.mark.parametrize("name", generate.pages())
def test_generated_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generate.pages()[name], (
        "run `python -m docs.generate` and commit the result"
    )


# Links and names.


@each_page
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in pages.links(page):
        target, _, anchor = link.partition("#")
        place = page.parent / target if target else page
        assert place.exists(), link
        if anchor:
            assert anchor in pages.anchors(place), link


@each_page
def test_tables_have_as_many_cells_in_every_line(page: Path) -> None:
    lines = pages.prose(page).split("\n")
    cells = [line.count("|") if line.lstrip().startswith("|") else 0 for line in lines]
    for number, (one, two) in enumerate(itertools.pairwise(cells), 2):
        assert not (one and two) or one == two, f"line {number}"


def exists(name: str) -> bool:
    """Whether a dotted name is a module of ours, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:count])
        file = place.with_suffix(".py") if count > 1 else place / "__init__.py"
        if not file.exists():
            file = place / "__init__.py"
        if file.exists():
            source = file.read_text(encoding="utf-8")
            return all(re.search(rf"\b{part}\b", source) for part in parts[count:])
        if count == len(parts) and place.is_dir():
            return True
    return False


@each_page
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        pytest.skip("its tables also have the names of former versions")
    for span in pages.spans(page):
        if re.search("NAME", span):
            continue  # the reader's own
        if re.fullmatch(rf"({'|'.join(OURS)})/[\w./]+", span):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(rf"({'|'.join(OURS)})(\.\w+)+", span) and span not in FILES:
            assert exists(span), span


def test_names_are_looked_up() -> None:
    assert exists("ir.numerics.Scheme") and exists("gateware.rtl") and exists("boards.driver")
    assert not exists("quant.numerics") and not exists("ir.numerics.Nothing")
    assert pages.links(DOCS / "resnet18.md")[-1] == "resnet18_xc7z045.png"


# Commands.


class Parsed(Exception):
    """The command line was understood; the command itself is not run."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Sequence[str] | None) -> None:
        parse(self, *args)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """Module and arguments of a Python command."""
    if words[0] == "rmsmp":
        return rmsmp.cli.COMMANDS[words[1]][0], words[2:]
    name = {"driver": "boards.driver"}.get(words[2], words[2])
    is_package = (ROOT / name.replace(".", "/") / "__main__.py").is_file()
    return f"{name}.__main__" if is_package else name, words[3:]


def make_targets() -> set[str]:
    return set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def understood(command: Command) -> None:
    """Fails where a command of a page would not be understood."""
    words = command.words
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= make_targets()
    elif words[0] == "pytest":
        paths = [word for word in words[1:] if "/" in word]
        assert all((ROOT / path.partition("::")[0]).exists() for path in paths)
    elif words[0] == "rmsmp" and words[1].startswith("-"):
        with pytest.raises(Parsed):
            rmsmp.cli.main(words[1:])
    else:
        name, arguments = module_of(words)
        main = importlib.import_module(name).main
        if (command.whole and main.__code__.co_argcount) or arguments:
            with pytest.raises(Parsed if command.whole else (Parsed, UserError)) as raised:
                main(arguments)
            assert isinstance(raised.value, Parsed) or "are required" in str(raised.value)


COMMANDS = sorted({command for page in PAGES for command in pages.commands(page)}, key=str)


@pytest.mark.usefixtures("parse_only")
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_of_a_page(command: Command) -> None:
    if command.line != "rmsmp":  # the command's name, in a sentence
        understood(command)


@pytest.mark.usefixtures("parse_only")
@pytest.mark.parametrize(
    "line",
    [
        "python -m quant.train --no-such-option",
        "python -m gateware.build --bord zc706",
        "rmsmp sim --images many",
        "rmsmp --no-such-option",
        "make everything",
        "pytest sim/test_nothing.py",
        "python -m quant.nothing",
    ],
)
def test_command_that_is_not_understood(line: str) -> None:
    with pytest.raises((UserError, AssertionError, ModuleNotFoundError)):
        test_command_of_a_page(Command("a page", line))


def test_commands_are_found() -> None:
    lines = {command.line for command in COMMANDS}
    assert {"make demo", "python -m bench.table6", "pytest sim/test_formal.py"} <= lines
    assert any(line.startswith("rmsmp build --board") for line in lines)
    assert {command.page for command in COMMANDS} >= {"digits.ipynb", "training.md", "README.md"}


@each_page
def test_python_of_a_page_compiles(page: Path) -> None:
    for code in pages.blocks(page, "python"):
        ast.parse(re.sub(r"^!(.*\\\n)*.*", "pass", code, flags=re.M))  # the shell's, in notebooks


# Single pages.


def test_readme_is_short_and_begins_with_the_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    assert [c.line for c in pages.commands(README)][:2] == ["make demo", "make test"]
    assert text.index("PIP_ARGS=") < text.index("import rmsmp")


@pytest.mark.slow
def test_readme_code_runs(tmp_path: Path) -> None:
    [code] = pages.blocks(README, "python")
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.NOTEBOOKS)
def test_notebook_runs(name: str, tmp_path: Path) -> None:
    done = run_python("-m", "docs.notebooks", name, "--out", str(tmp_path), cwd=ROOT)
    assert done.returncode == 0, done.stderr


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Python in a process of its own, which finds this checkout from any folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", notebooks.NOTEBOOKS)
def test_notebook_is_kept_with_what_it_printed(name: str) -> None:
    file = ROOT / "examples" / f"{name}.ipynb"
    cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and not any(output["output_type"] == "error" for output in outputs)
    assert file.stat().st_size < 50_000


def test_training_page_follows_the_command_line() -> None:
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    options = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
    known = {"--nproc-per-node"}  # of torchrun
    for command in (train, calibrate, evaluate):
        known |= set(options.findall(command.parser().format_help()))
    assert set(options.findall(text)) <= known
    assert {FLOAT32, *METHODS, *PRESETS, *MODELS} <= set(re.findall(r"`([^`\n]+)`", text))


def test_decisions_are_dated_and_in_order() -> None:
    titles = re.findall(r"^## (.*)$", (DOCS / "decisions.md").read_text(encoding="utf-8"), re.M)
    dates = [re.fullmatch(r"(\d{4}-\d{2}-\d{2}) .+", title)[1] for title in titles]
    assert dates and dates == sorted(dates)


def test_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert re.search(r"^## ([\d.]+)", changelog, re.M)[1] == rmsmp.__version__
    assert citation["version"] == rmsmp.__version__


def test_workflow_calls_the_makefile() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    made = {step["run"].split()[1] for step in steps if step.get("run", "").startswith("make ")}
    assert made == {"quick", "test", "demo"} and made <= make_targets()


# The picture.


def test_picture_has_the_folders_of_the_code() -> None:
    for band in itertools.chain(*flow.BANDS):
        for folder in band.folders:
            assert flow.files(band.package, folder), f"{band.package}/{folder}"


def test_words_of_the_picture_lie_inside() -> None:
    """Letters of Helvetica are half as wide as high, on average."""
    centred = r'<text x="([\d.]+)" y="[\d.]+" font-size="(\d+)" text-anchor="middle"[^>]*>([^<]*)'
    found = re.findall(centred, flow.svg())
    assert found
    for x, size, words in found:
        half = len(words) * int(size) / 4
        assert flow.MARGIN <= float(x) - half and float(x) + half <= flow.WIDTH - flow.MARGIN, words
