# SPDX-License-Identifier: Apache-2.0
"""Random numbers of tests come from the suite's seed, so that ``--seed`` repeats and varies them.

Mirrors no module: it is about the tests.
"""

import ast
from collections.abc import Iterator

import pytest

from tests.helpers.imports import ROOT

GENERATORS = ("default_rng", "manual_seed", "Random")
FILES = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "sim").rglob("*.py")]


def offences(source: str) -> Iterator[str]:
    """Generators with a literal seed, and tests that ask for a seed and do not use it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in GENERATORS:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            if "seed" in {argument.arg for argument in node.args.args} - names:
                yield f"line {node.lineno}: {node.name} does not use its seed"


def test_seeds_are_the_suites() -> None:
    found = {
        str(file.relative_to(ROOT)): bad for file in FILES if (bad := [*offences(file.read_text())])
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "rng = np.random.default_rng(1)",
        "def test_x(rng=default_rng(7)): ...",
        "x = torch.Generator().manual_seed(0)",
        "def test_x(seed): pass",
    ],
)
def test_rule_catches(source: str) -> None:
    assert len(list(offences(source))) == 1
    assert not list(offences("def test_x(seed): default_rng(seed), manual_seed(suite_seed())"))
