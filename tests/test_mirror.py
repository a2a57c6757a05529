# SPDX-License-Identifier: Apache-2.0
"""Every test file mirrors a module or a package, or says why not.

Mirrors no module: it is about the tests.
"""

import ast
from pathlib import Path

import pytest

from tests.helpers.imports import ROOT

FILES = sorted(
    file.relative_to(ROOT) for top in ("tests", "sim") for file in (ROOT / top).rglob("test_*.py")
)


def mirrored(file: Path) -> list[Path]:
    """Places of the module or package that ``file`` may be about.

    ``tests/a/b/test_c.py`` is about ``a/b/c.py``, the package ``a/b/c``, or ``a/b`` itself as
    ``test_b.py``. Benches of ``sim/`` are about a module of any of its folders, tests at the top
    about a package, or as ``test_bench_x.py`` about ``bench/x.py`` or ``bench/x``.
    """
    name = file.stem.removeprefix("test_")
    inside = Path(*file.parts[1:-1])
    if file.parts[0] == "sim":
        folders = [path.relative_to(ROOT) for path in (ROOT / "sim").iterdir() if path.is_dir()]
        return [
            place / f"{name}{end}.py" for place in (Path("sim"), *folders) for end in ("", "_bench")
        ]
    if not inside.parts:
        own = Path("bench", name.removeprefix("bench_"))
        return [Path(name, "__init__.py"), own.with_suffix(".py"), own / "__init__.py"]
    own = [inside / "__init__.py"] if inside.name == name else []
    return [inside / f"{name}.py", inside / name / "__init__.py", *own]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_mirrors_a_module_or_says_why_not(file: Path) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / file).read_text())) or ""
    exists = any((ROOT / place).is_file() for place in mirrored(file))
    says = "\nMirrors no module: " in f"\n{docstring}"
    assert exists != says, f"of {file}: mirrors {exists}, says why not {says}"


def test_rule_catches() -> None:
    assert Path("ir/graph.py") in mirrored(Path("tests/ir/test_graph.py"))
    assert Path("quant/nn/__init__.py") in mirrored(Path("tests/quant/nn/test_nn.py"))
    assert Path("bench/zoo.py") in mirrored(Path("tests/test_bench_zoo.py"))
    assert Path("sim/benches/dma_bench.py") in mirrored(Path("sim/test_dma.py"))
    assert not any((ROOT / place).exists() for place in mirrored(Path("tests/ir/test_none.py")))
