# SPDX-License-Identifier: Apache-2.0
"""Public docstrings begin with the noun, and every public class has one.

Mirrors no module: it is about the whole house.
"""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.helpers.imports import PACKAGES, ROOT

#: Imperatives and questions that docstrings have begun with. "Export of ..." is a noun.
BANNED = re.compile(
    "(?:Add|Build|Call|Compare|Cut|Do|Draw|Evaluate|Give|Go|Keep|Let|Load|Make|Measure|Move|"
    "Print|Prove|Pulse|Put|Raise|Raises|Read|Remember|Remove|Return|Returns|Run|Save|"
    r"Say|Send|Set|Simulate|Split|Stop|Store|Take|Tell|Train|Use|What|Whether|Write)\b(?! of\b)"
)

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Public classes, functions and methods of ``tree`` by their dotted names."""
    for node in tree.body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{prefix}{node.name}.")


def offences(source: str) -> list[str]:
    """Names in a module's ``source`` that a rule is broken for, and how."""
    found = []
    for name, node in public(ast.parse(source)):
        docstring = ast.get_docstring(node)
        if docstring is None and isinstance(node, ast.ClassDef):
            found.append(f"{name}: no docstring")
        elif docstring and BANNED.match(docstring):
            found.append(f"{name}: {docstring.splitlines()[0]}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_begin_with_the_noun(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): offences(file.read_text()) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('def f():\n    """Write a file."""', ["f: Write a file."]),
        ('def f():\n    """Whether it is there."""', ["f: Whether it is there."]),
        (
            'class A:\n    """A."""\n    def f(self):\n        """What it is."""',
            ["A.f: What it is."],
        ),
        ("class A:\n    pass", ["A: no docstring"]),
        ("class _A:\n    pass", []),
        ('def f():\n    """Names of the layers."""', []),
        ('def f():\n    """Settings of a run."""', []),
        ('def _f():\n    """Write a file."""', []),
        ("def f():\n    pass", []),
    ],
)
def test_rule_catches(source: str, found: list[str]) -> None:
    assert offences(source) == found
