# SPDX-License-Identifier: Apache-2.0
"""Import graph of the project, read from the sources.

python -m tests.helpers.imports        packages and folders, files, arrows, circles
"""

import ast
import graphlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ir import cli

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ir", "boards", "quant", "gateware", "sim", "rmsmp")

Graph = Mapping[str, set[str]]  #: what imports, and what it imports


def imported(source: str, package: str = "") -> set[str]:
    """Dotted names that ``source`` imports anywhere, also inside functions.

    ``from a import b`` gives ``a.b``, because b may be a module. Relative imports start from
    ``package``, that of the file.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Files of the packages by dotted name, without the tests of sim/."""
    files = (
        file
        for package in PACKAGES
        for file in sorted((root / package).rglob("*.py"))
        if not file.name.startswith(("test_", "conftest"))
    )
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


def package_of(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Names that each module imports: ours as modules, others as written."""
    ours = modules(root)

    def resolve(name: str) -> str:
        parent = name.rpartition(".")[0]
        return parent if name not in ours and parent in ours else name

    return {
        module: set(map(resolve, imported(file.read_text(), package_of(module, file)))) - {module}
        for module, file in ours.items()
    }


def within(graph: Graph) -> dict[str, set[str]]:
    """The arrows between our own modules."""
    return {module: names & graph.keys() for module, names in graph.items()}


def folders(graph: Graph) -> dict[str, set[str]]:
    """Arrows between folders: ``gateware.rtl`` and the like; files at the top of a package, its
    commands, are folders of their own."""

    def folder(module: str) -> str:
        parts = module.split(".")
        return ".".join(parts[:2]) if parts[0] != "ir" else "ir"

    result: dict[str, set[str]] = {}
    for module, names in within(graph).items():
        result.setdefault(folder(module), set()).update(folder(name) for name in names)
    return {name: targets - {name} for name, targets in result.items()}


def circle(graph: Graph) -> list[str]:
    """One circle of arrows, the first name again at the end; empty where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def circles(graph: Graph) -> int:
    """Groups of modules that import one another in circles."""
    left, found = dict(graph), 0
    while names := circle({n: {t for t in ts if t in left} for n, ts in left.items()}):
        found += 1
        for name in names:
            left.pop(name, None)
    return found


def matches(name: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted ``name`` is one of ``prefixes`` or inside one."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def main() -> int:
    graph = import_graph()
    ours = within(graph)
    for package in PACKAGES:
        mine = [module for module in ours if matches(module, (package,))]
        if not mine:
            continue
        targets = sorted({t.partition(".")[0] for m in mine for t in ours[m]} - {package})
        lines = sum(len(modules()[module].read_text().splitlines()) for module in mine)
        cli.give(
            f"{package:9} {len(mine):3} files {lines:6} lines  imports {', '.join(targets) or '-'}"
        )
    between = folders(graph)
    cli.give(
        f"{len(ours)} files, {sum(map(len, ours.values()))} arrows, {circles(ours)} circles; "
        f"{len(between)} folders, {sum(map(len, between.values()))} arrows, "
        f"{circles(between)} circles"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
