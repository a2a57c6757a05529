# SPDX-License-Identifier: Apache-2.0
"""Constructors take four arguments by their place at most, and the others by name.

Mirrors no module: it is about the whole house.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.helpers.imports import PACKAGES, ROOT

MOST = 4


def positional(node: ast.ClassDef) -> int:
    """Arguments that the constructor of a class takes by their place, as its own lines say."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return len(item.args.posonlyargs + item.args.args) - 1
    decorators = [ast.unparse(item) for item in node.decorator_list]
    is_dataclass = any("dataclass" in text and "kw_only=True" not in text for text in decorators)
    if not is_dataclass and "NamedTuple" not in map(ast.unparse, node.bases):
        return 0
    fields = [
        ast.unparse(i.annotation)
        for i in node.body
        if isinstance(i, ast.AnnAssign) and "kw_only=True" not in ast.unparse(i)
    ]
    marks = [i for i, annotation in enumerate(fields) if annotation.endswith("KW_ONLY")]
    return marks[0] if marks else len([a for a in fields if not a.startswith("ClassVar")])


def offences(source: str) -> Iterator[str]:
    """Classes whose constructor takes too many."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and positional(node) > MOST:
            yield f"{node.name} takes {positional(node)}"


@pytest.mark.parametrize("package", [*PACKAGES, "bench"])
def test_constructors_name_their_arguments(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    found = {str(file.relative_to(ROOT)): [*offences(file.read_text())] for file in files}
    assert {file: bad for file, bad in found.items() if bad} == {}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("class A:\n    def __init__(self, a, b, c, d, e): ...", 5),
        ("class A:\n    def __init__(self, a, b, c, d, *, e): ...", 4),
        ("@dataclass(frozen=True)\nclass A:\n    a: int\n    b: int = 0", 2),
        ("@dataclass(kw_only=True)\nclass A:\n    a: int\n    b: int = 0", 0),
        ("@dataclass\nclass A:\n    a: int\n    _: dataclasses.KW_ONLY\n    b: int", 1),
        ("@dataclass\nclass A:\n    a: int\n    b: int = field(default=0, kw_only=True)", 1),
        ("class A(NamedTuple):\n    a: int", 1),
        ("class A(Enum):\n    a: int", 0),
    ],
)
def test_count(source: str, count: int) -> None:
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef) and positional(node) == count
