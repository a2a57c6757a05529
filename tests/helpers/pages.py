# SPDX-License-Identifier: Apache-2.0
"""Markdown of the project's pages: their links, their code, the commands that they name."""

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Pages that people write or read, generated ones included.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    ROOT / "boards" / "driver" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.ipynb")),
]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")
COMMAND = re.compile(r"^\W*(python3? -m|rmsmp|make|pytest)(\s|$)")


def text_of(page: Path) -> str:
    """Markdown of a page; of a notebook its text, with code cells as Python blocks."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(
        source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells
    )


def prose(page: Path) -> str:
    """Markdown without its code blocks."""
    return FENCE.sub("", text_of(page))


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of a language; ``""`` is that of blocks that name none."""
    return [code for name, code in FENCE.findall(text_of(page)) if name == language]


def spans(page: Path) -> list[str]:
    """Inline code, each on one line."""
    return [" ".join(code.split()) for code in SPAN.findall(prose(page))]


def links(page: Path) -> list[str]:
    """Targets of links and pictures that are not on the web."""
    found = [one or other for one, other in LINK.findall(prose(page))]
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs both make them."""
    heads = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line that a page names.

    Parameters
    ----------
    page : file name of the page
    line : as written, without comment
    whole : in a code block, to be copied; in a sentence there may be only part of it
    """

    page: str
    line: str
    whole: bool = True

    @property
    def words(self) -> list[str]:
        """Arguments, the program first, without redirections and without ``...``."""
        line = re.sub(r"\d?>\S+|[|;&].*", "", self.line.removeprefix("!"))
        return [word for word in shlex.split(line) if word != "..."]

    def __str__(self) -> str:
        return f"{self.page}: {self.line}"


def commands(page: Path) -> Iterator[Command]:
    """Commands of python -m, rmsmp, make and pytest in the blocks and in the prose of a page."""
    code = [block for language in ("", "python", "bash") for block in blocks(page, language)]
    lines = "\n".join(code).replace("\\\n", " ").splitlines()
    for found, whole in ((lines, True), (spans(page), False)):
        for line in found:
            line = re.sub(r"\s#.*", "", line).strip()
            if COMMAND.match(line):
                yield Command(page.name, " ".join(line.lstrip("!").split()), whole)
