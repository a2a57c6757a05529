# SPDX-License-Identifier: Apache-2.0
"""What MkDocs does beyond docs/*.md: pages from the rest of the repository, links between all of
them, and the reference.

The pages are written where a reader of the repository finds them, with links that work there;
the site has each of them once, and its links lead to the pages of the site.
"""

import json
import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

#: Pages of the site that lie elsewhere in the repository.
ELSEWHERE = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "driver.md": "boards/driver/README.md",
    "digits.md": "examples/digits.ipynb",
    "own_network.md": "examples/own_network.ipynb",
}
PACKAGES = ("rmsmp", "ir", "quant", "gateware", "sim", "boards")
COMMANDS = (
    "quant.train",
    "quant.evaluate",
    "gateware.build",
    "gateware.ratio",
    "gateware.report.page",
    "sim.run",
    "sim.formal",
    "boards.driver",
    "examples.demo",
)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)|(src)=\"([^\"]+)\"")


def elsewhere() -> dict[str, Path]:
    """Address in the site and file of every page and picture that is not in docs/."""
    folder = ROOT / "bench" / "results"
    results = sorted([*folder.glob("*.md"), *folder.glob("*.png")])
    return {
        **{uri: ROOT / name for uri, name in ELSEWHERE.items()},
        **{f"results/{file.name}": file for file in results},
    }


def folders() -> dict[str, list[str]]:
    """Public modules of each folder that has some, by the folder's dotted name."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        # Files of the package itself first, then folder by folder.
        for file in sorted((ROOT / package).rglob("*.py"), key=lambda file: (file.parent, file)):
            if file.name.startswith(("test_", "conftest")) or file.name == "__main__.py":
                continue
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts).removesuffix(".__init__")
            folder = ".".join(parts[:-1])
            if file.read_text(encoding="utf-8").strip():
                found.setdefault(folder, []).append(name)
    return found


def reference_page(folder: str, modules: list[str]) -> str:
    """Markdown of the page of a folder; mkdocstrings fills it in."""
    own = [f"::: {folder}\n    options:\n      show_root_heading: false\n"] * (folder in modules)
    others = [
        f"## {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n"
        for name in modules
        if name != folder
    ]
    return "\n".join([f"# {folder}\n", *own, *others])


def commands_page() -> str:
    """Markdown of the help texts of all commands, as a terminal of 90 columns shows them."""
    parts = ["# Commands\n"]
    for module in COMMANDS:
        shown = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "90", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        parts.append(f"## python -m {module}\n\n```text\n{shown.rstrip()}\n```\n")
    return "\n".join(parts)


def notebook_cells(notebook: Path) -> Iterator[str]:
    """Markdown of each cell: text, code, and what the code printed."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield f"```python\n{source}\n```"
        for output in cell["outputs"]:
            data = output.get("data", {})
            text = output.get("text", data.get("text/plain", ""))
            if image := data.get("image/png"):
                yield f"![output](data:image/png;base64,{image.strip()})"
            elif text := "".join(text).rstrip():
                yield f"```text\n{text}\n```"


def on_config(config: MkDocsConfig) -> None:
    """Navigation of the pages that nobody lists by hand."""
    results = [
        {Path(uri).stem: uri}
        for uri in elsewhere()
        if uri.startswith("results/") and uri.endswith(".md")
    ]
    nav = config.nav or []
    fill(nav, "Measured runs", results)
    fill(nav, "Python", [{name: f"reference/{name}.md"} for name in folders()])


def fill(nav: list, title: str, entries: list) -> None:
    """Put ``entries`` into the empty section ``title`` of a navigation."""
    for item in nav:
        for name, below in item.items() if isinstance(item, dict) else ():
            if name == title:
                below.extend(entries)
            elif isinstance(below, list):
                fill(below, title, entries)


def on_files(files: Files, config: MkDocsConfig) -> None:
    for uri, path in elsewhere().items():
        if path.suffix == ".ipynb":
            text = "\n\n".join(notebook_cells(path))
            files.append(File.generated(config, uri, content=text))
        else:
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    for folder, modules in folders().items():
        page = File.generated(
            config, f"reference/{folder}.md", content=reference_page(folder, modules)
        )
        files.append(page)
    files.append(File.generated(config, "commands.md", content=commands_page()))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return site_links(markdown, page.file.src_uri, [file.src_uri for file in files])


def site_links(markdown: str, uri: str, known: Iterable[str]) -> str:
    """``markdown`` of the page ``uri`` with links that lead through the site.

    As written they lead through the repository. One to a file that the site has not becomes plain
    text; one that leads nowhere stays, for MkDocs to find.

    Parameters
    ----------
    known : addresses of all files of the site
    """
    sources = elsewhere()
    here = sources.get(uri, DOCS / uri).parent
    pages = {DOCS / name: name for name in known} | {path: name for name, path in sources.items()}

    def link(match: re.Match) -> str:
        target = match[3] or match[5]
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        place = Path(os.path.normpath(here / path))
        if place in pages:
            new = posixpath.relpath(pages[place], posixpath.dirname(uri) or ".")
            return match[0].replace(target, f"{new}{hash_}{anchor}")
        is_picture = match[1] or match[4]
        return match[2] if place.exists() and not is_picture else match[0]

    return LINK.sub(link, markdown)
