# SPDX-License-Identifier: Apache-2.0
"""Pages of the site: where they come from, and where their links lead."""

import subprocess
import sys
from pathlib import Path

import pytest

from docs import hooks


@pytest.mark.parametrize(
    ("uri", "written", "expected"),
    [
        ("index.md", "[a](docs/cores.md)", "[a](cores.md)"),
        ("index.md", "[a](docs/cores.md#proofs)", "[a](cores.md#proofs)"),
        ("index.md", '<img src="docs/flow.svg">', '<img src="flow.svg">'),
        ("index.md", "[a](examples/digits.ipynb)", "[a](digits.md)"),
        ("digits.md", "[a](own_network.ipynb)", "[a](own_network.md)"),
        ("digits.md", "[a](../docs/training.md)", "[a](training.md)"),
        ("accuracy.md", "[a](../bench/results/accuracy.md)", "[a](results/accuracy.md)"),
        ("results/accuracy.md", "[a](../../docs/cores.md)", "[a](../cores.md)"),
        ("training.md", "[own_model](../examples/own_model.py)", "own_model"),
        ("index.md", "[a](https://example.org/docs/cores.md)", None),
        ("index.md", "[a](#results)", None),
        ("cores.md", "[a](nothing.md)", None),
    ],
)
def test_link(uri: str, written: str, expected: str | None) -> None:
    known = ["cores.md", "training.md", "accuracy.md", "flow.svg"]
    assert hooks.site_links(written, uri, known) == (expected or written)


def test_every_module_is_on_one_page() -> None:
    listed = [name for names in hooks.folders().values() for name in names]
    assert len(listed) == len(set(listed)) > 100
    assert {"quant.lowering.export", "gateware.rtl.top", "rmsmp"} <= set(listed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("added", "code"), [("", 0), ("[a](nothing.md)", 1), ("[a](cores.md#nothing)", 1)]
)
def test_broken_link_ends_the_build(added: str, code: int, tmp_path: Path) -> None:
    """As ``make docs`` calls it, but for a site of two pages."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(f"# Home\n\n[cores](cores.md)\n\n{added}\n")
    (docs / "cores.md").write_text("# Cores\n")
    settings = (hooks.ROOT / "mkdocs.yml").read_text()
    validation = settings[settings.index("validation:") : settings.index("nav:")]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\n{validation}")
    [line] = [
        line for line in (hooks.ROOT / "Makefile").read_text().splitlines() if "mkdocs" in line
    ]
    options = line.split("mkdocs build")[1].split()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", *options], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == code, done.stderr
