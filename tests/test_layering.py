# SPDX-License-Identifier: Apache-2.0
"""Which package may import which: quant <- gateware -> boards, and no circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("quant", "gateware", "sim", "boards", "bench", "examples")

#: Files of quant/ that run without torch, which is what gateware/ and sim/ may see of it.
TORCH_FREE = (
    "ir.numerics",
    "ir.ratio",
    "ir.graph",
    "ir.arrays",
    "ir.golden",
    "ir.nodes",
    "ir.validate",
    "quant.assignment.methods",
    "quant.nn.apot",
    "quant.training.config",
    "ir.cli",
)

#: package: (our packages that it may import, other packages that it must not import)
ARROWS = {
    "quant": ((), ("amaranth", "amaranth_boards", "cocotb", "cocotb_tools")),
    "boards": ((), ("torch",)),
    "gateware": (("quant", "boards"), ("torch", "cocotb", "cocotb_tools")),
    "sim": (("quant", "gateware", "boards"), ("torch",)),
}


def imports(source: str, package: str = "") -> set[str]:
    """Dotted names that ``source`` imports anywhere, also inside functions.

    ``from a import b`` gives ``a.b``, because b may be a module. ``package`` is the package of the
    file, which relative imports start from.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, base] if base else parts)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports_of(file: Path) -> set[str]:
    return imports(file.read_text(), ".".join(file.relative_to(ROOT).parent.parts))


def matches(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def offences(package: str, names: set[str]) -> set[str]:
    """Those of the imported ``names`` that a file of ``package`` must not import."""
    allowed, forbidden = ARROWS[package]
    bad = set()
    for name in names:
        top = name.partition(".")[0]
        if (
            matches(name, forbidden)
            or (top in OURS and top != package and top not in allowed)
            or (top == "quant" and package != "quant" and not matches(name, TORCH_FREE))
        ):
            bad.add(name)
    return bad


@pytest.mark.parametrize("package", ARROWS)
def test_arrows(package) -> None:
    assert files(package)
    found = {
        str(file.relative_to(ROOT)): offences(package, imports_of(file)) for file in files(package)
    }
    assert {file: bad for file, bad in found.items() if bad} == {}


def test_torch_free_files_are_torch_free() -> None:
    """They import nothing outside the standard library, a few small packages, and one another."""
    small = (
        "numpy",
        "pydantic",
        "safetensors",
        *sys.stdlib_module_names,
        "quant.models.MODELS",
    )  # the names of the networks; their package has no torch
    for module in TORCH_FREE:
        file = ROOT / f"{module.replace('.', '/')}.py"
        if file.exists():
            assert {
                name for name in imports_of(file) if not matches(name, (*small, *TORCH_FREE))
            } == set(), module


def test_torch_free_files_do_not_load_torch() -> None:
    """The interpreter's answer, which also covers ``quant/__init__.py`` and third parties."""
    present = [
        module for module in TORCH_FREE if (ROOT / f"{module.replace('.', '/')}.py").exists()
    ]
    program = (
        f"import sys, {', '.join(present)}\n"
        "print([name for name in ('torch', 'amaranth') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_driver_runs_on_the_board_with_numpy_alone() -> None:
    assert len(files("boards/driver")) > 5
    for file in files("boards/driver"):
        foreign = {
            name
            for name in imports_of(file)
            # pynq is on PYNQ images, and imported where nothing else gives memory.
            if not matches(name, ("numpy", "pynq", "boards.driver", *sys.stdlib_module_names))
        }
        assert foreign == set(), file


def test_no_circle_between_packages() -> None:
    arrows = {
        package: {name.partition(".")[0] for file in files(package) for name in imports_of(file)}
        & set(OURS)
        for package in OURS
    }
    remaining = {package: targets - {package} for package, targets in arrows.items()}
    while ready := [
        package for package, targets in remaining.items() if not targets & set(remaining)
    ]:
        for package in ready:
            del remaining[package]
    assert remaining == {}


@pytest.mark.parametrize(
    ("package", "source", "bad"),
    [
        ("quant", "import amaranth", {"amaranth"}),
        (
            "quant",
            "from gateware.arch.config import AccelConfig",
            {"gateware.arch.config.AccelConfig"},
        ),
        ("quant", "import quant.train, torch", set()),
        ("boards", "from quant import numerics", {"ir.numerics"}),
        ("boards", "from boards.board import Board", set()),
        ("gateware", "import torch.nn as nn", {"torch.nn"}),
        (
            "gateware",
            "def f():\n    from quant.lowering.export import load",
            {"quant.lowering.export.load"},
        ),
        (
            "gateware",
            "from ir.numerics import Scheme\nfrom quant import ratio\nimport boards",
            set(),
        ),
        ("gateware", "import sim.backend.harness", {"sim.backend.harness"}),
        ("gateware", "import quant", {"quant"}),
        ("sim", "from quant.nn.layers import Conv", {"quant.nn.layers.Conv"}),
        ("sim", "import numpy, gateware.rtl.axi", set()),
    ],
)
def test_rule_catches(package, source, bad) -> None:
    assert offences(package, imports(source)) == bad


def test_relative_imports_are_resolved() -> None:
    assert imports("from . import axi", "gateware.soc") == {"gateware.soc.axi"}
    assert imports("from ...quant import train", "gateware.soc.deep") == {"gateware.quant.train"}
    assert imports("from ..axi import Resp", "gateware.soc") == {"gateware.rtl.axi.Resp"}
